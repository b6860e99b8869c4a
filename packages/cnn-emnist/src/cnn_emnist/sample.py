"""Letters with no download: rendered from the fonts that matplotlib ships, framed as EMNIST frames its letters."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cnn_emnist.distort import letters
from cnn_emnist.frame import place

SIDE = 20  # pixels of a letter's long side, out of 28
TRAIN = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("cmr10", "cmb10", "cmti10", "cmmi10", "cmss10", "cmtt10"),  # Computer Modern
)
VALID = ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic")
TEST = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta")
EPOCH = 300  # training images of each class: every glyph about 11 times, each time to be distorted differently
HELD = 100  # images of each class in the validation and in the test part
ONCE = 20030803  # the stream those two are distorted by, once and for all


@cache
def parts() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training, validation and test part: images uint8 [N, 28, 28], classes int64 [N]; the same at every call.

    No typeface is in two parts: a score says how well letters are read in a typeface never seen. The training part
    holds the letters as the fonts draw them, for the training loop to distort anew in every epoch; the other two are
    distorted here. Upper and lower case share a class as in EMNIST-letters, so where a typeface draws I and l alike no
    reader can be perfect.
    """
    images, classes = glyphs(TRAIN)
    turn = torch.arange(26 * EPOCH) % len(images)
    return (images[turn], classes[turn]), distorted(VALID, 0), distorted(TEST, 1)


def distorted(fonts: tuple[str, ...], stream: int) -> tuple[Tensor, Tensor]:
    images, classes = glyphs(fonts)
    turn = torch.arange(26 * HELD) % len(images)
    seen = letters(images[turn], np.arange(len(turn)), ONCE, stream)
    return (seen * 255).round().byte(), classes[turn]


def glyphs(fonts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Every letter of some fonts, both cases: uint8 [fonts * 52, 28, 28] and its class, int64 [fonts * 52]."""
    drawn = []
    for name in fonts:
        font = typeface(name, 64)
        for letter in ascii_uppercase + ascii_lowercase:
            sheet = Image.new("L", (128, 128))
            ImageDraw.Draw(sheet).text((64, 64), letter, fill=255, font=font, anchor="mm")
            drawn.append(place(np.asarray(sheet).astype(np.float32), SIDE))
    return torch.stack(drawn), torch.arange(len(drawn)) % 26


def typeface(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One of the fonts that matplotlib ships."""
    spec = find_spec("matplotlib")  # finds it without importing it, which would take a second
    assert spec
    assert spec.origin
    return ImageFont.truetype(str(Path(spec.origin).with_name("mpl-data") / "fonts" / "ttf" / f"{name}.ttf"), size)
