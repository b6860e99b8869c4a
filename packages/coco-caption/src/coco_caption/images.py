"""Image files of any kind -> RGB pictures, upright. A file that is none is told from one that cannot be read."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

LONGEST = 4  # sides: more of a strip than a square of so many short sides is cut off, equally at both ends


class Broken(Exception):
    """A file that is no image, or not a whole one; the message is a line without the file's name."""


@contextmanager
def large_images() -> Iterator[None]:
    """Without Pillow's warning of more than 90 million pixels; from twice as many on it refuses still.

    To be entered once around many calls of `read`, as filters of warnings belong to all threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # e.g. corrupt EXIF beside a good image
        yield


def read(file: Path) -> Image.Image:
    """The picture in a file, mode RGB, turned as its EXIF says; of an animation the first frame, of a strip the middle.

    What is transparent lies on white. 16 bits and more: 0..65535 becomes 0..255, or what there is if it is more.
    Raises Broken.
    """
    try:
        with Image.open(file) as picture:
            picture.seek(0)
            return middle(plain(ImageOps.exif_transpose(picture)))
    except FileNotFoundError:
        raise Broken("there is no such file") from None
    except IsADirectoryError:
        raise Broken("it is a folder") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError) as error:
        reason = str(error).replace(f" {str(file)!r}", " the file").split("\n")[0]
        raise Broken(reason or type(error).__name__) from None
    except (Image.DecompressionBombError, MemoryError):
        raise Broken("it has too many pixels") from None


def plain(picture: Image.Image) -> Image.Image:
    """Any mode -> RGB."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture).astype(np.float32)
        values = np.nan_to_num(values, posinf=0, neginf=0)
        # A float image may be in 0..1, a 32-bit one hold 16 bits: the unit is a guess.
        most = max(65535.0, float(values.max())) if picture.mode != "F" or values.max() > 255 else 255.0
        most = 1.0 if picture.mode == "F" and values.max() <= 1 else most
        picture = Image.fromarray((values.clip(0) * (255 / most)).round().astype(np.uint8))
    if picture.has_transparency_data:
        layers = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    return picture.convert("RGB")


def middle(picture: Image.Image) -> Image.Image:
    """Without the ends of a strip: the preprocessing crops them, but would scale them up first."""
    short, (width, height) = min(picture.size), picture.size
    w, h = min(width, LONGEST * short), min(height, LONGEST * short)
    if (w, h) == picture.size:
        return picture
    left, top = (width - w) // 2, (height - h) // 2
    return picture.crop((left, top, left + w, top + h))
