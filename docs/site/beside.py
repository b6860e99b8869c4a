"""Prose with code beside it: a page whose comments `<!-- from: LINE -->` say where in a file each piece begins."""

import re

PIECE = re.compile(r"^<!-- from: (.+) -->\n", re.MULTILINE)


def beside(text: str, code: str, name: str) -> str:
    """The Markdown `text` with the pieces of `code` (the file `name`), all of it, each beside the prose on it.

    What stands before the first comment comes first, as it is. Raises ValueError if a line is not there, there more
    than once, or not in the order of the file: prose that has lost its code must not be shown.
    """
    before, *rest = PIECE.split(text)
    lines, starts = code.splitlines(), []
    for wanted in rest[::2]:
        at = [number for number, line in enumerate(lines) if line.strip() == wanted.strip()]
        if len(at) != 1:
            raise ValueError(f"{name} has {len(at)} lines {wanted!r}, not one")
        starts.append(at[0])
    if not starts or starts != sorted(starts) or "".join(lines[: starts[0]]):
        raise ValueError(f"the pieces of {name} are not in its order, or leave out how it begins")
    pages = [before]
    for prose, start, end in zip(rest[1::2], starts, [*starts[1:], len(lines)], strict=True):
        piece = "\n".join(lines[start:end]).rstrip()
        pages.append(
            f"`````{{container}} beside\n\n````{{container}} said\n\n{prose.strip()}\n\n````\n\n"
            f"````{{code-block}} python\n:lineno-start: {start + 1}\n\n{piece}\n````\n\n`````\n"
        )
    return "\n".join(pages)
