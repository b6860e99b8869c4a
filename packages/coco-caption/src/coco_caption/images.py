"""Image files of any kind -> RGB pictures for the encoder."""

from pathlib import Path

import numpy as np
from PIL import Image

from etude import images
from etude.images import Broken

__all__ = ["LONGEST", "Broken", "read"]

LONGEST = 4  # sides: more of a strip than a square of so many short sides is cut off, equally at both ends


def read(file: Path) -> Image.Image:
    """The picture in a file, mode RGB, turned as its EXIF says; of an animation the first frame, of a strip the middle.

    What is transparent lies on white. 16 bits and more: 0..65535 becomes 0..255, or what there is if it is more.
    Raises Broken.
    """
    return seen(images.load(file))


def seen(picture: Image.Image) -> Image.Image:
    """A picture that `load` gives as the encoder is given it."""
    return middle(plain(picture))


def plain(picture: Image.Image) -> Image.Image:
    """A mode that `load` gives -> RGB."""
    if picture.mode in "IF":
        values = np.asarray(picture).astype(np.float32)
        values = np.nan_to_num(values, posinf=0, neginf=0)
        # A float image may be in 0..1, a 32-bit one hold 16 bits: the unit is a guess.
        most = max(65535.0, float(values.max())) if picture.mode != "F" or values.max() > 255 else 255.0
        most = 1.0 if picture.mode == "F" and values.max() <= 1 else most
        picture = Image.fromarray((values.clip(0) * (255 / most)).round().astype(np.uint8))
    if picture.mode == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def middle(picture: Image.Image) -> Image.Image:
    """Without the ends of a strip: the preprocessing crops them, but would scale them up first."""
    short, (width, height) = min(picture.size), picture.size
    w, h = min(width, LONGEST * short), min(height, LONGEST * short)
    if (w, h) == picture.size:
        return picture
    left, top = (width - w) // 2, (height - h) // 2
    return picture.crop((left, top, left + w, top + h))
