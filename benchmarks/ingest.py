"""How fast, and in how much memory, is a CoNLL-U file read into the arrays of lstm-pos? Against the `nerus` package.

    ETUDE_DATA=... uv run --all-packages --group dev python benchmarks/ingest.py [FILE.conllu.gz]

Both sides read the file, 20 times itself (a gzip file may have many members), in turns, in one process, from the
compressed bytes: ours, which unpacks in a second thread, to the finished folder in the cache, flushed to disk; `nerus`
to its objects, of which none is kept. Then the memory of a process that only reads the file once, or 100 times itself.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nerus import load_nerus

from etude.download import root
from lstm_pos import data

ROUNDS = 5
TIMES = 20, 100  # for speed, for memory
# torch, which only the drawing of numbers needs, would hide in its 700 MB whatever is used here
START = "import sys, types; sys.modules['etude.draw'] = types.SimpleNamespace(shuffled=None, uniform=None)\n"
IMPORT = START + "from lstm_pos import data\n"
READ = IMPORT + "data.read_whole(sys.argv[1])\n"
HIGHEST = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"


def seconds(call: Callable[[], int]) -> tuple[float, float, int]:
    """Of the clock on the wall, of the processor, and what the call returned."""
    start, work = time.perf_counter(), time.process_time()
    words = call()
    return time.perf_counter() - start, time.process_time() - work, words


def ours(file: Path) -> int:
    """Words of the file, which is read anew: its cache is in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        return len(data.read_whole(file).word_ids)


def theirs(file: Path) -> int:
    return sum(len(sentence.tokens) for document in load_nerus(str(file)) for sentence in document.sents)


def peak(program: str, *arguments: str) -> float:
    """Peak of resident memory, in MB. Linux only: elsewhere, and in `ru_maxrss`, that of this process counts too."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", program + HIGHEST, *arguments]
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return int(done.stdout) * 1024 / 1e6


def repeated(file: Path, times: int, folder: str) -> Path:
    large = Path(folder) / f"{times}.conllu.gz"
    with large.open("wb") as out:
        for _ in range(times):
            out.write(file.read_bytes())
    return large


def measure(file: Path) -> tuple[float, float, float]:
    """How many times as fast as `nerus` ours reads; MB at most, of the file once and of it TIMES[1] times."""
    with tempfile.TemporaryDirectory() as folder:
        large = repeated(file, TIMES[0], folder)
        ratios: list[tuple[float, float]] = []
        for i in range(ROUNDS):
            wall, work, words = seconds(lambda: ours(large))
            their_wall, their_work, same = seconds(lambda: theirs(large))
            assert words == same, f"{words} words here, {same} there"
            ratios.append((their_wall / wall, their_work / work))
            rates = f"lstm-pos {words / wall:,.0f} words/s, nerus {words / their_wall:,.0f} words/s"
            print(f"round {i + 1}: {rates}, {ratios[-1][0]:.1f} x, of processor time {ratios[-1][1]:.1f} x")
        wall, work = (statistics.median(ratio) for ratio in zip(*ratios, strict=True))
        print(f"{words:,} words, median: {wall:.1f} x as fast as nerus, of processor time {work:.1f} x")
        once, often = peak(READ, str(file)), peak(READ, str(repeated(file, TIMES[1], folder)))
        print(f"memory at most: {peak(IMPORT):,.0f} MB before it is read, {once:,.0f} MB read once, ", end="")
        print(f"{often:,.0f} MB read {TIMES[1]} times")
    return wall, once, often


def default() -> Path:
    return root() / "nerus" / "nerus_lenta.conllu.gz"


if __name__ == "__main__":
    measure(Path(sys.argv[1]) if len(sys.argv) > 1 else default())
