"""The photos of COCO, fetched one by one: its archives hold many more than a small study needs."""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from etude.download import fetch, local, reason
from etude.errors import UserError

PARALLEL = 16  # files that are fetched at a time


def fetch_all(wanted: Sequence[tuple[str, Path]], what: str) -> dict[Path, str]:
    """Every file from its (url, file), several at a time, with one bar; those that are there are not fetched again.

    A file has to have the length that its server says; an interrupted one is gone on with by the next call. What could
    not be had is returned, with the reason; `what` names all of them. Raises UserError if the disk is full or cannot be
    written, and if nothing at all can be had: then it gives up after the first few.
    """
    failed: dict[Path, str] = {}
    where = os.path.commonpath([file.parent for _, file in wanted])
    print(f"fetching {len(wanted):,} {what} to {where}", file=sys.stderr)
    with ThreadPoolExecutor(PARALLEL) as pool:
        jobs = {pool.submit(fetch, url, file, None, file.name, True): (url, file) for url, file in wanted}
        done = tqdm(as_completed(jobs), what, len(jobs), unit="file", disable=not sys.stderr.isatty())
        try:
            for count, job in enumerate(done, 1):
                url, file = jobs[job]
                if error := job.exception():
                    if not isinstance(error, UserError) or local(error.__cause__):
                        raise error
                    failed[file] = reason(error.__cause__ if isinstance(error.__cause__, Exception) else error)
                if count == len(failed) >= min(len(wanted), 2 * PARALLEL):
                    raise UserError(
                        f"{what} could not be downloaded, such as {url} ({failed[file]}); "
                        "run it again, or use --data sample"
                    )
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return failed
