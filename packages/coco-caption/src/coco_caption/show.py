"""Pictures for people: the same images with their captions, now and as they changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, LINE, SIZE = 180, 8, 15, 12  # pixels: of a picture, around it, of a line of text and its letters
ACROSS, LINES = 4, 4  # pictures side by side, lines of a caption
COLUMN, COLUMNS = 200, 6  # of the contact sheet: pixels, and how many captions of one image
INK, PALE = (20, 20, 20), (110, 110, 110)


def font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def wrapped(pen: ImageDraw.ImageDraw, text: str, width: int, lines: int, letters: ImageFont.FreeTypeFont) -> list[str]:
    """A text in lines of at most `width` pixels; what does not fit in so many ends in an ellipsis."""
    found = [""]
    for word in text.split():
        longer = f"{found[-1]} {word}".strip()
        if found[-1] and pen.textlength(longer, letters) > width:
            found.append(word)
        else:
            found[-1] = longer
    if len(found) > lines:
        found = [*found[: lines - 1], f"{found[lines - 1]} …"]
    return found


def tile(picture: Image.Image) -> Image.Image:
    """A picture made to fit SIDE x SIDE, in the middle of a white square."""
    square = Image.new("RGB", (SIDE, SIDE), "white")
    scale = SIDE / max(picture.size)
    small = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    square.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return square


def board(pictures: Sequence[Image.Image], told: Sequence[str], truth: Sequence[str]) -> Image.Image:
    """Each picture with what was told of it, and below, paler, what a person said."""
    letters = font(SIZE)
    width, height = SIDE + 2 * GAP, SIDE + 2 * GAP + 2 * LINES * LINE
    sheet = Image.new("RGB", (ACROSS * width, -(-len(pictures) // ACROSS) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for n, (picture, caption, other) in enumerate(zip(pictures, told, truth, strict=True)):
        left, top = n % ACROSS * width + GAP, n // ACROSS * height + GAP
        sheet.paste(tile(picture), (left, top))
        y = top + SIDE + 2
        for text, colour in ((caption or "(nothing)", INK), (other, PALE)):
            for line in wrapped(pen, text, SIDE, LINES, letters):
                pen.text((left, y), line, colour, letters)
                y += LINE
    return sheet


def contact_sheet(pictures: Sequence[Image.Image], history: Mapping[str, Sequence[str]]) -> Image.Image:
    """A row for each picture: the picture, then its captions before training, after some epochs, and at the end.

    `history`: the captions told "before", after "epoch 1" and so on, in this order, and "after", with the best weights.
    """
    letters, bold = font(SIZE), font(SIZE + 2)
    chosen = columns([when for when in history if when != "after"]) + ["after"] * ("after" in history)
    height = SIDE // 2 + GAP
    sheet = Image.new("RGB", (height + len(chosen) * COLUMN, 2 * LINE + len(pictures) * height), "white")
    pen = ImageDraw.Draw(sheet)
    titles = {"before": "before training", "after": "at the end (best)"}
    for column, when in enumerate(chosen):
        left = height + column * COLUMN
        pen.text((left, GAP), titles.get(when, f"after {when}"), INK, bold)
        for row in range(len(pictures)):
            y = 2 * LINE + row * height
            for line in wrapped(pen, history[when][row] or "(nothing)", COLUMN - GAP, 5, letters):
                pen.text((left, y), line, INK, letters)
                y += LINE
    for row, picture in enumerate(pictures):
        sheet.paste(tile(picture).resize((SIDE // 2, SIDE // 2)), (0, 2 * LINE + row * height))
    return sheet


def columns(moments: list[str]) -> list[str]:
    """Those that a sheet has room for: at first close together, as most changes at first; the last among them."""
    room = COLUMNS - 1
    if len(moments) <= room:
        return moments
    last = len(moments) - 1
    return [moments[n] for n in sorted({round(last ** (k / (room - 2))) for k in range(room - 1)} | {0})]
