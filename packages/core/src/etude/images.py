"""Image files of any kind come in here: upright, in one of five modes, and no larger than the tasks need them.

Whatever a library raises for a file is that file's fault, and one exception: `Broken`.
"""

import io
import math
import os
import stat
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from etude.files import reason

LARGE = 89_478_485  # pixels: Pillow warns of more, and refuses twice as many; here more are averaged down to a quarter
MOST = 300_000_000  # pixels that are decoded; as RGB they take 1.2 GB
ORIENTATION = 0x0112  # the tag of EXIF

_heavy = threading.Lock()


class Broken(Exception):
    """A file that is no image, or not a whole one; the message is a line without the file's name."""


def load(file: Path | io.BytesIO, least: int | None = None) -> Image.Image:
    """The picture in a file, turned as its EXIF says, of an animation the first frame; mode L, RGB, RGBA, I or F.

    The file may lie in memory. Of more than LARGE pixels it is averaged down, a JPEG as it is decoded; of other files
    more than MOST are refused. Who needs no more than `least` pixels of the shorter side gets a large JPEG at a half
    or a quarter of its size, in half the time. Raises Broken, for whatever cannot be read.
    """
    try:
        if not isinstance(file, io.BytesIO):
            regular(file)
        # Both are set for all threads, so they are not put back: another may be reading.
        Image.MAX_IMAGE_PIXELS = None  # ours is MOST
        warnings.filterwarnings("ignore", module="PIL|etude.images")  # e.g. corrupt EXIF beside a good image
        with Image.open(file) as picture:
            picture.seek(0)
            if picture.width * picture.height <= LARGE:
                if least:  # not an eighth: scaled to 32 x 32, a photo was up to 8 of 255 levels off then, not 1
                    most = (picture.width // 4, picture.height // 4)
                    picture.draft(None, (max(least, most[0]), max(least, most[1])))
                return upright(picture, 1)
            with _heavy:  # one at a time, whatever the number of threads
                return upright(picture, drafted(picture))
    except Broken:
        raise
    except FileNotFoundError:
        raise Broken("there is no such file") from None
    except UnidentifiedImageError:
        raise Broken("its content is not that of an image") from None
    except MemoryError:
        raise Broken("there is not enough memory for so many pixels") from None
    except Exception as error:
        raise Broken(getattr(error, "strerror", None) or reason(error)) from None


def regular(file: Path) -> None:
    """Raises Broken if it is no file with something in it, and OSError if it is not there."""
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would be to wait for ever
        raise Broken("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is not a regular file")
    if not status.st_size:
        raise Broken("it is empty")


def drafted(picture: Image.Image) -> int:
    """Has a picture decoded smaller, if its format can; the factor by which it is still to be scaled down then."""
    factor = math.ceil(math.sqrt(4 * picture.width * picture.height / LARGE))
    picture.draft(None, (max(1, picture.width // factor), max(1, picture.height // factor)))
    pixels = picture.width * picture.height
    if pixels > MOST:
        raise Broken(f"it has {pixels:,} pixels, and at most {MOST:,} are read: scale it down, or save it as JPEG")
    return math.ceil(math.sqrt(4 * pixels / LARGE))


def upright(picture: Image.Image, factor: int) -> Image.Image:
    """The picture in memory: its mode one of five, scaled down by `factor`, turned as its EXIF says."""
    picture.load()
    turn = picture.getexif().get(ORIENTATION)
    if picture.mode.startswith("I"):  # of 16 bits in many forms
        found = Image.fromarray(np.asarray(picture).astype(np.int32))
    elif picture.has_transparency_data:
        found = picture.convert("RGBA")
    else:
        mode = {"1": "L", "L": "L", "F": "F"}.get(picture.mode, "RGB")
        # To convert is to copy. A JPEG need not be, the largest of what comes in; other pictures may be maps of their
        # file (TIFF, BMP, PGM), which changes with it, and ends the process where it becomes shorter.
        found = picture if picture.format == "JPEG" and picture.mode == mode else picture.convert(mode)
    if factor > 1:
        found = found.reduce((min(factor, found.width), min(factor, found.height)))
    if turn:
        found.getexif()[ORIENTATION] = turn
    return turned(found)


def turned(picture: Image.Image) -> Image.Image:
    """The picture as its EXIF says that it stands: itself if it is upright, which Pillow would copy."""
    return picture if picture.getexif().get(ORIENTATION, 1) == 1 else ImageOps.exif_transpose(picture)
