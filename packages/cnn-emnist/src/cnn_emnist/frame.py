"""Any picture of one letter -> the 28x28 frame that the training images have.

EMNIST was framed so from scanned forms (Cohen et al. 2017, "EMNIST: an extension of MNIST to handwritten letters"):
white ink on black, cropped to its bounding box, the long side scaled, centred. A picture that is framed already comes
back as it was, so one path serves training images and photographs.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnn_emnist.config import SIDE as SIZE
from etude.draw import shuffled
from etude.errors import UserError
from etude.images import turned

FAINT = 0.08  # of the darkest ink: what still belongs to a stroke's soft edge, and so to its bounding box
SPECK = 0.02  # of all ink: what a separate piece must hold to be no speck of dust
DOTTED = 0.25  # of all ink: if no piece holds so much, the letter is made of dots, as by printers and LEDs
JOINED = 0.6  # of all ink: what the largest piece holds once they are joined; the rest may be the dot of an i, and dust
FINE = 400  # pixels of the long side that are looked at; larger pictures are averaged down, which calms their noise
LEAST = 720  # of the short side, that a photo is read with
BLANK = 12  # grey levels out of 255: less contrast than this is no ink
Spread = tuple[int, int]  # the shortest and the longest long side that a picture has which is framed already


def frame(picture: Image.Image, side: int, name: str = "", spread: Spread | None = None) -> Tensor:
    """A picture of any size, mode and polarity -> uint8 [28, 28], white ink on black, its long side `side` pixels.

    One of 28 x 28 pixels, of whose ink the long side is within `spread` (None: about `side`), stays as it is. Only the
    first frame of an animation is read; the camera's rotation (EXIF) is undone. Raises UserError, with the picture's
    `name`, if it is damaged or shows no ink. The paper may be uneven and noisy, but must be what the picture's rim
    shows. A letter of dots is joined.
    """
    name = name or getattr(picture, "filename", "") or "the picture"
    try:
        light = grey(picture)
    except Exception as error:  # whatever Pillow makes of a damaged file
        raise UserError(f"{name} cannot be read ({error}); save it anew as PNG") from error
    framed = as_is(light, spread or (side - 1, side + 1))
    if framed is not None:
        return framed
    light = np.asarray(Image.fromarray(light).reduce(-(-max(light.shape) // FINE)))
    ink = pieces(light)
    if ink is None:
        raise UserError(f"no ink in {name}: give a picture of one letter, dark on light or light on dark")
    return place(ink, side)


def side_of(images: Tensor) -> int:
    """The `side` a training set was framed with: uint8 [N, 28, 28] -> median long side of the bounding boxes."""
    return int(long_sides(images).median())


def spread_of(*parts: Tensor) -> Spread:
    """The long sides of nearly all images of some parts, uint8 [N, 28, 28]: of a hundred one is smaller, one larger."""
    ranked = [long_sides(images).sort().values for images in parts]
    low, high = ([int(long[round(part * (len(long) - 1))]) for long in ranked] for part in (0.01, 0.99))
    return min(low) - 1, max(high) + 1


def long_sides(images: Tensor) -> Tensor:
    """Those of the bounding boxes: uint8 [N, 28, 28] -> int64 [N]."""
    ink = images > FAINT * 255
    span = torch.arange(1, SIZE + 1)
    long = torch.zeros(len(images), dtype=torch.long)
    for taken in (ink.any(1) * span, ink.any(2) * span):  # columns, rows: 0 where empty, else the position from 1
        first = torch.where(taken > 0, taken, SIZE + 1).amin(1)
        long = torch.maximum(long, taken.amax(1) - first + 1)
    return long


def as_is(light: np.ndarray, spread: Spread) -> Tensor | None:
    """Lightness of a picture that is framed already -> uint8 [28, 28], as it stands; None for any other.

    The position is kept too: Fashion-MNIST and MNIST are not centred by the bounding box.
    """
    if light.shape != (SIZE, SIZE):
        return None
    rim = np.median(np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]]))
    ink = torch.from_numpy(np.rint(light if rim < 128 else 255 - light).astype(np.uint8))
    return ink if ink.max() >= 128 and spread[0] <= side_of(ink[None]) <= spread[1] else None


def place(ink: np.ndarray, side: int) -> Tensor:
    """Ink float32 [H, W] >= 0 on 0 -> uint8 [28, 28]: cropped, long side scaled to `side`, centred, full contrast."""
    top, left, bottom, right = box(ink, side)
    ink = ink[top:bottom, left:right]
    scale = side / max(ink.shape)
    high, wide = (max(1, round(n * scale)) for n in ink.shape)
    small = np.asarray(Image.fromarray(ink).resize((wide, high), Image.Resampling.BICUBIC)).clip(0)
    top, left = (SIZE - high) // 2, (SIZE - wide) // 2
    framed = np.zeros((SIZE, SIZE), np.uint8)
    framed[top : top + high, left : left + wide] = np.rint(small * (255 / small.max()))
    return torch.from_numpy(framed)


def box(ink: np.ndarray, side: int) -> tuple[int, int, int, int]:
    """Bounding box of the ink: top, left, bottom, right, the latter two exclusive."""
    edges = []
    for level in (FAINT, 0.5):
        rows, columns = (np.flatnonzero((ink > level * ink.max()).any(axis)) for axis in (1, 0))
        edges.append((int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1))
    faint, half = edges
    pixel = max(faint[2] - faint[0], faint[3] - faint[1]) / side  # one of the frame, in pixels of the picture
    # A faint rim narrower than that is the blur of an edge that lies at half height; a wider one is a faint stroke.
    top, left, bottom, right = (h if abs(h - f) < pixel else f for f, h in zip(faint, half, strict=True))
    return top, left, bottom, right


def grey(picture: Image.Image) -> np.ndarray:
    """Lightness, float32 [H, W] in 0..255, upright, transparency resolved."""
    picture.seek(0)
    picture = turned(picture)
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits and more: what counts as white is unknown
        values = np.asarray(picture).astype(np.float32)
        return (values - values.min()) * (255 / max(float(np.ptp(values)), 1e-6))
    if not picture.has_transparency_data:
        return np.asarray(picture.convert("L")).astype(np.float32)
    layers = picture.convert("RGBA")
    alpha = np.asarray(layers.getchannel("A")).astype(np.float32)
    light = np.asarray(layers.convert("RGB").convert("L")).astype(np.float32)
    seen = light[alpha > 127]
    if alpha.min() == 255 or not seen.size:
        return light if seen.size else np.zeros_like(alpha)
    if np.ptp(np.percentile(seen, [1, 99])) < 96:  # one colour on nothing: its shape is the ink, whatever the colour
        return 255 - alpha
    paper = np.float32(np.median(seen))
    return paper + (light - paper) * alpha / 255


def pieces(light: np.ndarray) -> np.ndarray | None:
    """Lightness float32 [H, W] -> how much ink, float32 [H, W] >= 0, paper and dust 0; None if there is no ink."""
    surface, noise = paper(light)
    depth = surface - light
    if (depth.astype(np.float64) ** 3).sum() < 0:  # ink lies on one side of the paper's grey, noise on both
        depth = -depth
    between = otsu(depth.clip(0))
    strong = depth > between
    if not strong.any():
        return None
    if depth[strong].mean() < max(BLANK, 4 * noise):
        return None
    full = float(np.percentile(depth[strong], 99))
    ink = (depth - 3 * noise).clip(0)
    mask = depth > max(FAINT * full, 4 * noise)
    label, amount = measured(mask, ink * strong)
    total, wide = amount.sum(), 0
    if amount.max() < DOTTED * total:
        while amount.max() < JOINED * total and wide < max(light.shape) // 10:
            wide += 1
            label, amount = measured(grown(mask, wide), ink * strong)
    dust = amount < SPECK * total
    if dust.all():
        return None
    dust[0] = False
    clean = np.where(dust[label], 0, ink).astype(np.float32)
    return grown(clean, wide)  # not made thin again: a stroke as thin as a dot would be lost in the frame


def measured(mask: np.ndarray, ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pieces of a mask: bool [H, W] -> `labels`, int64 [H, W], and how much of the ink [H, W] each holds."""
    label = labels(mask)
    amount = np.bincount(label.ravel(), ink.ravel())
    amount[0] = 0
    return label, amount


def grown(values: np.ndarray, steps: int) -> np.ndarray:
    """The largest value [H, W] within so many steps, of a king in chess: joins what is not farther apart than two."""
    for _ in range(steps):
        for axis in (0, 1):
            across = np.moveaxis(values.copy(), axis, 0)
            before = np.moveaxis(values, axis, 0)
            np.maximum(across[1:], before[:-1], out=across[1:])
            np.maximum(across[:-1], before[1:], out=across[:-1])
            values = np.moveaxis(across, 0, axis)
    return values


def paper(light: np.ndarray) -> tuple[np.ndarray, float]:
    """The grey of the bare paper, float32 [H, W], and the standard deviation of its noise.

    A quadratic surface through the picture's rim, in rounds that leave out what is ink there.
    """
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in light.shape)
    x, y = np.meshgrid(x, y)
    width = max(1, max(light.shape) // 50)
    rim = np.ones(light.shape, bool)
    rim[width:-width, width:-width] = False
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)
    surface = np.full_like(light, np.median(light[rim]))
    for _ in range(4):
        off = np.abs(light - surface)[rim]
        spread = float(np.median(off))
        if spread < 0.5:  # even paper: the median is exact
            return surface, 0.0
        bare = off <= 4 * spread
        surface = (terms @ np.linalg.lstsq(terms[rim][bare], light[rim][bare], rcond=None)[0]).astype(np.float32)
    return surface, 1.4826 * spread


def otsu(values: np.ndarray) -> float:
    """The threshold that parts values [H, W] into two classes best.

    Otsu 1979, "A threshold selection method from gray-level histograms".
    """
    count, edges = np.histogram(values, 256)
    middle = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(count)[:-1].astype(float)
    above = values.size - below
    total = np.cumsum(count * middle)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (total[:-1] / below - (total[-1] - total[:-1]) / above) ** 2
    return float(edges[1:-1][np.nanargmax(between)]) if np.isfinite(between).any() else float(values.max())


def labels(mask: np.ndarray) -> np.ndarray:
    """Connected pieces (8 neighbours): bool [H, W] -> int64 [H, W], 0 outside, one number above 0 for each piece."""
    number = (shuffled(mask.size) + 1).reshape(mask.shape) * mask  # in order, they would only pass their numbers along
    while True:  # each piece joins the one with the largest number that it touches, and follows where that one went
        across = number.copy()
        np.maximum(across[:, 1:], number[:, :-1], out=across[:, 1:])
        np.maximum(across[:, :-1], number[:, 1:], out=across[:, :-1])
        around = across.copy()
        np.maximum(around[1:], across[:-1], out=around[1:])
        np.maximum(around[:-1], across[1:], out=around[:-1])
        joined = np.arange(mask.size + 1)
        np.maximum.at(joined, number[mask], around[mask])
        if np.array_equal(joined[number], number):
            return number
        number = joined[joined[number]]
