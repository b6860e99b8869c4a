"""Words of the user's in Markdown that we write: they are shown as they are, whatever is in them."""

import re

# What begins something in CommonMark, GitHub's tables or Jupyter's mathematics. Other marks stay bare, so that the
# source reads well: a minus, the > of a claim, the [0.1, 0.2] of an interval, the _ within a word.
SPECIAL = re.compile(
    r"[\\`*|$]|~~|(?<![^\W_])_|_(?![^\W_])|<(?=[\w/!?])|&(?=#?\w+;)|\](?=[(\[:])"
    r"|^(?:>|#(?=#*(?:\s|$))|[+-](?=\s|$)|[=-](?=[=\s-]*$)|\d+(?=[.)](?:\s|$)))"
)


def literal(text: str) -> str:
    """A text in one line."""
    line = " ".join(text.split())
    return SPECIAL.sub(lambda m: m[0] + "\\" if m[0].isdigit() else "".join(f"\\{c}" for c in m[0]), line)


def code(text: str) -> str:
    """A text in one line, as code."""
    line = " ".join(text.split())
    fence = "`" * (longest(line) + 1)
    pad = " " if line[:1] == "`" or line[-1:] == "`" else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(text: str, language: str = "") -> str:
    """Lines as a block of code."""
    fence = "`" * max(3, longest(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def longest(text: str) -> int:
    """How long the longest row of backticks is."""
    return max(map(len, re.findall("`+", text)), default=0)
