"""How long BPE learns 30,000 tokens from 1 GB of text, and how much memory that takes.

    ETUDE_DATA=... uv run --package etude-core python benchmarks/gigabyte.py

The text is the IMDb training texts over and over, read as a stream, every time with letters of its own behind every
fifth word, so that there are new words to the end, as there are in real text.
"""

import resource
import sys
import time
from collections.abc import Iterator

from subwords import SIZE, read

from etude.text import BPE

BYTES = 10**9


def stream(texts: list[str]) -> Iterator[str]:
    """At least BYTES of text."""
    sent = turn = 0
    while sent < BYTES:
        suffix = "".join(chr(ord("a") + int(digit)) for digit in str(turn))
        for text in texts:
            words = text.split(" ")
            words[::5] = [word + suffix for word in words[::5]]
            changed = " ".join(words)
            sent += len(changed.encode())
            yield changed
        turn += 1


def measure() -> float:
    """Seconds."""
    texts = read()
    began = time.perf_counter()
    BPE.train(stream(texts), SIZE)
    took = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    print(f"{SIZE:,} tokens of BPE from {BYTES / 1e9:g} GB of text: {took:.0f} s, at most {peak:.1f} GB of memory")
    return took


if __name__ == "__main__":
    measure()
