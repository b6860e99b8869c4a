"""Models that lie elsewhere: on a hub (hf://user/name), or wherever fsspec reaches (s3://bucket/folder, ...)."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from etude.errors import UserError

HUB = "hf://"


def fetched(address: str, names: Sequence[str]) -> dict[str, bytes]:
    """These files of the model at an address. Raises UserError if they cannot be had."""
    if address.startswith(HUB):
        folder = from_hub(address, names)
        return {name: attempt(address, (folder / name).read_bytes) for name in names}
    system, place = opened(address)
    return {name: attempt(address, partial(system.cat_file, f"{place}/{name}")) for name in names}


def put(address: str, content: Mapping[str, bytes]) -> None:
    """Writes files below an address, last what makes it a model. Raises UserError if it cannot, or if it is there."""
    if address.startswith(HUB):
        raise UserError(f"{address}: export to a folder, read its README.md, then: hf upload NAME FOLDER")
    system, place = opened(address)
    if attempt(address, lambda: bool(system.find(place))):
        raise UserError(f"{address} is not empty: give another one")
    try:
        for name in sorted(content, key="config.json".__eq__):
            file = f"{place}/{name}"
            if system.root_marker or place.startswith("/"):  # it has folders; of a store this would make the bucket
                attempt(address, partial(system.makedirs, file.rpartition("/")[0], exist_ok=True))
            attempt(address, partial(system.pipe_file, file, content[name]))
    except UserError:
        with suppress(Exception):  # nothing half written, if that can be had
            system.rm(place, recursive=True)
        raise


def opened(address: str) -> tuple[Any, str]:
    """The file system that fsspec has for an address, and the place in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UserError(f"{address} needs fsspec: pip install fsspec (and s3fs for s3://)") from None
    if not address.partition("://")[2].strip("/"):
        raise UserError(f"{address} names no place: write s3://bucket/folder, for instance")
    try:
        system, place = url_to_fs(address.rstrip("/"))
    except ImportError as error:
        raise UserError(f"{address}: {error}") from None
    except ValueError as error:
        raise UserError(
            f"{address} is no address that fsspec knows ({error}): write s3://bucket/folder, for instance"
        ) from None
    return system, str(place)


def attempt(address: str, what: Any) -> Any:
    """What a file system answers. Raises UserError for whatever it, or the network, or an account, makes of it."""
    try:
        return what()
    except Exception as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{address} cannot be used ({why}): see that it exists, and that you may") from None


def from_hub(address: str, names: Sequence[str]) -> Path:
    """The folder of a model on the hub, downloaded once. Raises UserError."""
    named = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", address)
    if named is None:
        raise UserError(f"{address} is no address of a model: write hf://user/name or hf://user/name@revision")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise UserError(f"{address} needs huggingface_hub: pip install huggingface_hub") from None
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        return Path(snapshot_download(named[1], revision=named[2], allow_patterns=list(names)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{address} cannot be had ({why}): see that it exists and that there is a network") from None
