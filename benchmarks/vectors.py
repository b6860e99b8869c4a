"""How long it takes to read a file of word vectors, against the loop that calls float() for every number.

    python benchmarks/vectors.py [--words 100000] [--size 300] [--file FILE]

Both read the same file, in turns, into float32 [N, D] on one thread, and must agree in every bit. Without --file the
file is made: numbers of four decimals, as in wiki-news-300d-1M.vec. Seconds are the least of the turns.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from qa_category import vectors


def make(path: Path, words: int, size: int) -> None:
    draws = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as out:
        out.write(f"{words} {size}\n")
        for number in range(words):
            numbers = " ".join(f"{x:.4f}" for x in draws.normal(0, 0.3, size).tolist())
            out.write(f"word{number} {numbers}\n")


def plain(path: Path, most: int) -> tuple[list[str], np.ndarray]:
    """The loop of the notebook."""
    words, rows = [], []
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            parts = line.rstrip().split(" ")
            if len(parts) == 2:  # the header
                continue
            words.append(parts[0])
            rows.append(np.array([float(x) for x in parts[1:]], np.float32))
            if len(words) == most:
                break
    return words, np.stack(rows)


def main() -> None:
    takes = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    takes.add_argument("--words", type=int, default=100_000)
    takes.add_argument("--size", type=int, default=300)
    takes.add_argument("--file", type=Path)
    takes.add_argument("--turns", type=int, default=3)
    given = takes.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.file or Path(folder) / "made.vec"
        if not given.file:
            make(path, given.words, given.size)
        took: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(given.turns):
            start = time.perf_counter()
            words, table = plain(path, given.words)
            took["plain"].append(time.perf_counter() - start)
            start = time.perf_counter()
            found = vectors.read(path, given.words)
            took["ours"].append(time.perf_counter() - start)
            assert found.words == words
            assert np.array_equal(found.table[1:], table)
            del words, table, found
    slow, fast = min(took["plain"]), min(took["ours"])
    print(f"plain loop {slow:.2f} s, ours {fast:.2f} s, ratio {fast / slow:.3f} ({given.words:,} words)")


if __name__ == "__main__":
    main()
