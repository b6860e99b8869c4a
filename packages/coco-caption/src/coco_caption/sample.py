"""Pictures with captions, made here: scenes of coloured shapes in real JPEG files, with annotations in COCO's form.

Every picture has five captions, made up by a grammar from what is in it; none says all of it. Some need to know where
things are, some how many there are.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import islice
from math import cos, pi, sin
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from etude import download
from etude.errors import UserError
from etude.text.grammar import numbers, written

VERSION = 1  # to be raised with every change of what is drawn or said
COUNTS = {"train": 1000, "val": 150, "test": 150}
CAPTIONS = 5
SIDE = 96  # pixels
FINER = 3  # so many times as large it is drawn, then made smaller: soft edges

JITTER = 0.03  # how far from its place everything may be, as a part of the picture's width

COLOURS = {
    "red": (214, 40, 40),
    "green": (45, 160, 60),
    "blue": (40, 80, 210),
    "yellow": (240, 205, 40),
    "orange": (240, 130, 30),
    "purple": (135, 60, 170),
}
# Pale all of them: beside black and white, nothing else varies for a network of random weights.
GROUNDS = {"white": (250, 250, 250), "grey": (205, 205, 205), "pink": (250, 215, 220)}
SHAPES = {  # and what several are called
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "cross": "crosses",
    "ring": "rings",
}
SIZES = {"small": 0.09, "large": 0.17}  # half their width, as a part of the picture's
COUNTED = {2: "two", 3: "three", 4: "four"}
PLACES = {  # of a thing alone: where its middle is
    "in the top left corner": (0.32, 0.32),
    "in the top right corner": (0.68, 0.32),
    "in the bottom left corner": (0.32, 0.68),
    "in the bottom right corner": (0.68, 0.68),
    "in the middle": (0.5, 0.5),
}
SIDES = {  # of two things: where their middles are, and what is said the other way round
    "to the left of": ((0.3, 0.5), (0.7, 0.5), "to the right of"),
    "to the right of": ((0.7, 0.5), (0.3, 0.5), "to the left of"),
    "above": ((0.5, 0.3), (0.5, 0.7), "below"),
    "below": ((0.5, 0.7), (0.5, 0.3), "above"),
}

RULES = {
    "one": (
        "{A} {place}.",
        "{A} on a {ground} background.",
        "There is {A} {place} of the picture.",
        "A {c1} {f1} {place} on {ground}.",
        "A {f1} that is {c1} and {s1}.",
        "A picture of {A}.",
        "{A} alone on a {ground} background.",
    ),
    "two": (
        "{A} {side} {B}.",
        "{B} {other} {A}.",
        "{A} and {B} on a {ground} background.",
        "There is {A} {side} {B}.",
        "A {c1} {f1} is {side} a {c2} {f2}.",
        "A {c2} {f2} {other} a {c1} {f1} on {ground}.",
        "A picture of {A} and {B}.",
    ),
    "many": (
        "{Count} {s1} {c1} {fs}.",
        "{Count} {c1} {fs} on a {ground} background.",
        "There are {Count} {fs}, all of them {c1}.",
        "A picture of {Count} {c1} {fs} on {ground}.",
        "{Count} {fs} in a {row}.",
        "A {row} of {Count} {s1} {fs}.",
    ),
    "A": ("a {c1} {f1}", "a {s1} {c1} {f1}", "a {s1} {f1}"),
    "B": ("a {c2} {f2}", "a {s2} {c2} {f2}", "a {f2}"),
}


def folder() -> Path:
    """Where the sample is; drawn first if it is not there. Raises UserError if it cannot be written."""
    place = download.cache() / "coco-caption" / f"sample-{VERSION}"
    if place.is_dir():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".sample-", dir=place.parent))
        try:
            for number, (part, count) in enumerate(COUNTS.items()):
                draw(work, part, islice(scenes(number), count))
            os.rename(work, place)
        except OSError:
            if not place.is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{place} cannot be written ({error.strerror}): set XDG_CACHE_HOME to another folder") from None
    return place


def draw(work: Path, part: str, found: Iterator[dict[str, Any]]) -> None:
    """Writes the pictures of one part and its annotations."""
    pictures: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (work / "annotations").mkdir(exist_ok=True)
    (work / part).mkdir()
    for number, scene in enumerate(found, 1):
        name = f"{part}_{number:06d}.jpg"
        paint(scene).save(work / part / name, quality=90)
        pictures.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for caption in scene["captions"]:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "caption": caption})
    content = {"info": {"description": "etude's scenes of shapes"}, "images": pictures, "annotations": annotations}
    (work / "annotations" / f"captions_{part}.json").write_text(json.dumps(content), encoding="utf-8")


def scenes(part: int) -> Iterator[dict[str, Any]]:
    """Scenes without end, always the same: `things`, each (shape, colour, size, place), `ground`, and `captions`."""
    draws = numbers(2014, part)

    def one_of(choices: Any) -> Any:
        choices = list(choices)
        return choices[int(next(draws) * len(choices))]

    while True:
        shape, colour, size, ground = one_of(SHAPES), one_of(COLOURS), one_of(SIZES), one_of(GROUNDS)
        kind = one_of(("one", "two", "two", "many"))
        rules: dict[str, tuple[str, ...]] = {"c1": (colour,), "f1": (shape,), "s1": (size,), "ground": (ground,)}
        if kind == "one":
            place, at = one_of(PLACES.items())
            things = [(shape, colour, size, at)]
            rules["place"] = (place,)
        elif kind == "two":
            side, (first, second, other) = one_of(SIDES.items())
            shape2 = one_of(name for name in SHAPES if name != shape)
            colour2, size2 = one_of(name for name in COLOURS if name != colour), one_of(SIZES)
            things = [(shape, colour, size, first), (shape2, colour2, size2, second)]
            rules |= {"c2": (colour2,), "f2": (shape2,), "s2": (size2,), "side": (side,), "other": (other,)}
        else:
            count = one_of(COUNTED)
            size = size if count == 2 else "small"
            row = one_of(("row", "column"))
            apart = 2 * SIZES[size] + 0.04
            steps = [0.5 + (n - (count - 1) / 2) * apart for n in range(count)]
            things = [(shape, colour, size, (at, 0.5) if row == "row" else (0.5, at)) for at in steps]
            rules |= {"s1": (size,), "Count": (COUNTED[count],), "row": (row,), "fs": (SHAPES[shape],)}
        dx, dy = (JITTER * (2 * next(draws) - 1) for _ in range(2))  # no two pictures are the same
        things = [(shape, colour, size, (x + dx, y + dy)) for shape, colour, size, (x, y) in things]
        captions: list[str] = []
        while len(captions) < CAPTIONS:
            text = written(kind, 0, RULES | rules, {}, draws)
            text = text[0].upper() + text[1:]
            if text not in captions:
                captions.append(text)
        yield {"things": things, "ground": ground, "captions": captions}


def paint(scene: dict[str, Any]) -> Image.Image:
    """A scene as a picture, RGB, SIDE x SIDE."""
    side = SIDE * FINER
    picture = Image.new("RGB", (side, side), GROUNDS[scene["ground"]])
    pen = ImageDraw.Draw(picture)
    for shape, colour, size, (x, y) in scene["things"]:
        outline(pen, shape, COLOURS[colour], x * side, y * side, SIZES[size] * side)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def outline(pen: ImageDraw.ImageDraw, shape: str, fill: tuple[int, int, int], x: float, y: float, r: float) -> None:
    """Draws one shape around (x, y), of half the width r."""
    box = (x - r, y - r, x + r, y + r)
    match shape:
        case "circle":
            pen.ellipse(box, fill)
        case "ring":
            pen.ellipse(box, outline=fill, width=max(1, round(0.35 * r)))
        case "square":
            pen.rectangle((x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r), fill)
        case "triangle":
            pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill)
        case "cross":
            pen.rectangle((x - r, y - 0.3 * r, x + r, y + 0.3 * r), fill)
            pen.rectangle((x - 0.3 * r, y - r, x + 0.3 * r, y + r), fill)
        case "star":
            corners = [(r if n % 2 == 0 else 0.42 * r, pi * n / 5 - pi / 2) for n in range(10)]
            pen.polygon([(x + length * cos(angle), y + length * sin(angle)) for length, angle in corners], fill)
