"""Training images seen anew in every epoch: the same letter, written again; the same garment, laid down again.

Every random number comes from `etude.draw.uniform`, and all arithmetic is elementwise or within one image: what becomes
of image i depends, to the bit, on `ids[i]` and the stream alone, not on its batch. Both functions run on whatever
device the images are on and return float32 in 0..1.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from etude.draw import uniform

TURN = math.tan(math.radians(12) / 2)  # rotation, up to 12 degrees
SLANT = 0.25  # shear: horizontal shift per unit of height, up to
STRETCH = 0.15  # each axis shorter or longer by up to
SHIFT = 1.5  # pixels, up to
KNOTS = 7  # the elastic field is a cubic B-spline on KNOTS x KNOTS points, 7 pixels apart, ...
BEND = 4.0  # ... each moved by up to this many pixels; the spline smooths that to a standard deviation of about 1.1
WEIGHT = 0.2  # strokes get bolder or thinner: mid grey moves by up to this much


def letters(images: Tensor, ids: np.ndarray, *stream: int) -> Tensor:
    """Handwriting varied: uint8 [B, 28, 28] -> float32 [B, 28, 28] in 0..1.

    A random affine map (rotation, slant, scale of both axes, shift) and a smooth elastic field in one resampling
    (Simard, Steinkraus & Platt 2003, "Best practices for convolutional neural networks applied to visual document
    analysis"), then bolder or thinner strokes. `ids` (int [B]) name the images, `stream` (seed, epoch, ...) the
    occasion.
    """
    n = images.shape[-1]
    pixel = 2 / n  # grid_sample measures in units where the image reaches from -1 to 1
    u = uniform(ids, 7 + 2 * KNOTS * KNOTS, *stream).to(images.device).T.contiguous() * 2 - 1  # a column per image
    half = TURN * u[0]  # tan of half the angle: cos and sin without functions whose last bit varies with the batch size
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    slant, wide, high = SLANT * u[1], 1 + STRETCH * u[2], 1 + STRETCH * u[3]
    # A spline on evenly spaced knots reproduces linear functions, so moving the knots does the affine map as well.
    x = ((torch.arange(KNOTS, device=u.device) - 1) / (KNOTS - 3) * 2 - 1).view(1, KNOTS, 1).expand(KNOTS, KNOTS, 1)
    y = x.transpose(0, 1)
    moved = torch.stack([wide * (cos * x + (slant * cos - sin) * y), high * (sin * x + (slant * sin + cos) * y)], 2)
    moved = moved + pixel * SHIFT * u[4:6] + pixel * BEND * u[7:].view(KNOTS, KNOTS, 2, -1)  # [K, K, 2, B]
    grid = spline(spline(moved, n).transpose(0, 1), n).permute(3, 1, 0, 2)  # [B, row, column, 2]
    seen = F.grid_sample((images / 255)[:, None], grid.contiguous(), align_corners=False)[:, 0]
    return seen + (4 * WEIGHT * u[6, :, None, None]) * (seen * (1 - seen))


def spline(knots: Tensor, n: int) -> Tensor:
    """The uniform cubic B-spline along the first dimension, at n pixel centres: [K, ...] -> [n, ...].

    Knots 1 and K-2 lie on the two edges of the image, the outer two beyond it.
    """
    k = len(knots)
    at = (torch.arange(n, device=knots.device) + 0.5) / n * (k - 3) + 1
    away = (at[:, None] - torch.arange(k, device=knots.device)).abs()
    weights = torch.where(away < 1, 2 / 3 - away**2 + away**3 / 2, (2 - away).clamp(min=0) ** 3 / 6)
    weights = weights.view(n, k, *[1] * (knots.dim() - 1))
    # a sum of products, term by term: a matrix product may round differently with another batch size
    values = weights[:, 0] * knots[0]
    for j in range(1, k):
        values += weights[:, j] * knots[j]
    return values


def clothes(images: Tensor, ids: np.ndarray, *stream: int, erase: int = 0) -> Tensor:
    """Garments varied: uint8 [B, 28, 28] -> float32 [B, 28, 28] in 0..1.

    Mirrored or not, and shifted by up to 2 pixels each way (a crop of the image padded with black). With `erase` > 0 a
    square of that many pixels, centred anywhere, is blackened (DeVries & Taylor 2017, "Improved regularization of
    convolutional neural networks with cutout"). `ids` (int [B]) name the images, `stream` the occasion.
    """
    n = images.shape[-1]
    u = uniform(ids, 5, *stream).to(images.device)
    mirrored = u[:, 0, None] < 0.5
    down, right = ((u[:, 1:3] * 5).long() - 2).unsqueeze(-1).unbind(1)
    pixels = torch.arange(n, device=images.device)
    row, column = pixels - down, pixels - right  # [B, n]: where each output pixel comes from
    column = torch.where(mirrored, n - 1 - column, column)
    inside = ((row >= 0) & (row < n))[:, :, None] & ((column >= 0) & (column < n))[:, None, :]
    if erase:
        top, left = ((u[:, 3:5] * n).long() - erase // 2).unsqueeze(-1).unbind(1)
        covered = ((pixels >= top) & (pixels < top + erase))[:, :, None]
        inside &= ~(covered & ((pixels >= left) & (pixels < left + erase))[:, None, :])
    source = row.clamp(0, n - 1)[:, :, None] * n + column.clamp(0, n - 1)[:, None, :]
    moved = images.flatten(1).gather(1, source.flatten(1)).view_as(images)
    return moved * inside / 255
