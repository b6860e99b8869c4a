"""Scenes of 32 x 32 pixels, drawn here: one thing of ten kinds in front of land and sky, so that nothing is downloaded.

The thing has any colour, size, angle and place; behind it are two colours that fade, a wavy horizon, waves of any
direction, and up to two blots. Edges that lie anywhere are what a linear code cannot have (see the README). All is a
function of the part and the number of the picture. Things are drawn by signed distances (after I. Quilez,
https://iquilezles.org/articles/distfunctions2d), which are negative inside.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from cifar_vae.config import SIDE
from etude import draw

SIZES = {"train": 6_000, "valid": 1_000, "test": 1_000}
STREAM = {"train": 1, "valid": 2, "test": 3}
BLOCK = 500  # pictures that are drawn at once
Field = np.ndarray  # [N, 32, 32]


def disc(x: Field, y: Field, radius: float = 0.9) -> Field:
    return np.hypot(x, y) - radius


def box(x: Field, y: Field, wide: float, high: float) -> Field:
    return np.maximum(np.abs(x) - wide, np.abs(y) - high)


def half_plane(x: Field, y: Field, angle: float, away: float) -> Field:
    """Below the line whose normal has this angle, in degrees from the right, and that lies so far from the middle."""
    return x * np.cos(np.radians(angle)) + y * np.sin(np.radians(angle)) - away


def triangle(x: Field, y: Field) -> Field:
    sides = [half_plane(x, y, angle, 0.45) for angle in (-150.0, -30.0, 90.0)]
    return np.maximum.reduce(sides)


def star(x: Field, y: Field) -> Field:
    """A radius that goes in and out five times around."""
    angle = np.arctan2(y, x)
    saw = np.abs((angle * 5 / (2 * np.pi) + 0.25) % 1 - 0.5) * 2
    return np.hypot(x, y) - (0.4 + 0.6 * saw)


def cross(x: Field, y: Field) -> Field:
    return np.minimum(box(x, y, 0.25, 0.9), box(x, y, 0.9, 0.25))


def moon(x: Field, y: Field) -> Field:
    return np.maximum(disc(x, y), -disc(x - 0.45, y, 0.75))


def tree(x: Field, y: Field) -> Field:
    return np.minimum(disc(x, y + 0.3, 0.62), box(x, y - 0.55, 0.14, 0.4))


def house(x: Field, y: Field) -> Field:
    roof = np.maximum(0.75 * np.abs(x) - 0.7 * (y + 0.95), y + 0.05)
    return np.minimum(box(x, y - 0.4, 0.6, 0.5), roof)


def boat(x: Field, y: Field) -> Field:
    hull = np.maximum(np.maximum(np.abs(x) + 0.6 * y - 1.05, y - 0.75), 0.3 - y)
    sail = np.maximum(np.maximum(-x - 0.05, y - 0.15), x * 0.9 - y * 0.6 - 0.55)
    return np.minimum(hull, sail)


THINGS: dict[str, Callable[[Field, Field], Field]] = {
    "ball": disc,
    "ring": lambda x, y: np.abs(disc(x, y, 0.7)) - 0.22,
    "brick": lambda x, y: box(x, y, 0.9, 0.5),
    "tent": triangle,
    "star": star,
    "cross": cross,
    "moon": moon,
    "tree": tree,
    "house": house,
    "boat": boat,
}
CLASSES = tuple(THINGS)


@cache
def drawn(part: str, count: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first pictures of a part, uint8 [N, 3, 32, 32], and their classes, int64 [N]; all of them for 0."""
    n = min(count or SIZES[part], SIZES[part])
    pictures = np.concatenate([scenes(part, np.arange(i, min(i + BLOCK, n))) for i in range(0, n, BLOCK)])
    return pictures, np.arange(n, dtype=np.int64) % len(CLASSES)


def scenes(part: str, ids: np.ndarray) -> np.ndarray:
    """uint8 [N, 3, 32, 32]; the class of number i is i modulo 10."""
    u = iter(draw.uniform(ids, 64, STREAM[part]).double().numpy().T)

    def any_of(low: float, high: float) -> Field:
        return (low + (high - low) * next(u))[:, None, None]

    def colour() -> np.ndarray:  # [N, 3, 1, 1]
        return np.stack([next(u) for _ in range(3)], 1)[:, :, None, None]

    line = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    x, y = line[None, None, :], line[None, :, None]

    def waves(weakest: float, strongest: float) -> Field:
        way, length, phase = any_of(0, np.pi), any_of(2, 14), any_of(0, 2 * np.pi)
        return any_of(weakest, strongest) * np.sin(length * (x * np.cos(way) + y * np.sin(way)) + phase)

    sky, land = colour(), colour()
    picture = sky + (colour() - sky) * (0.5 * (y + 1))[:, None]
    ground = land + waves(0, 0.25)[:, None] + 0.1 * y[:, None]
    height = any_of(-0.2, 0.9) + any_of(0, 0.2) * np.sin(any_of(1, 6) * x + any_of(0, 6))
    picture = over(picture, ground, height - y)
    for _ in range(2):
        blot = np.hypot(x - any_of(-1, 1), (y - any_of(-1, 1)) * any_of(0.7, 2)) - any_of(-0.2, 0.3)
        picture = over(picture, colour(), blot)
    size, turn, dx, dy = any_of(0.35, 0.8), any_of(-0.6, 0.6), any_of(-0.4, 0.4), any_of(-0.4, 0.4)
    along = ((x - dx) * np.cos(turn) + (y - dy) * np.sin(turn)) / size
    across = ((y - dy) * np.cos(turn) - (x - dx) * np.sin(turn)) / size
    away = np.empty_like(along)
    for k, thing in enumerate(THINGS.values()):
        mine = ids % len(CLASSES) == k
        away[mine] = thing(along[mine], across[mine])
    skin = colour() + waves(0, 0.2)[:, None] - 0.25 * across[:, None] * any_of(0, 1)[:, None]
    picture = over(picture, skin, away * size)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def over(behind: np.ndarray, front: np.ndarray, away: Field) -> np.ndarray:
    """A picture [N, 3, 32, 32] with another in front where `away` is negative; the edge is as wide as a pixel."""
    cover = (0.5 - away * SIDE / 2).clip(0, 1)[:, None]
    return behind + (front - behind) * cover
