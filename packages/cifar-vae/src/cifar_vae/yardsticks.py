"""What is known exactly of some pictures, and what simple codes make of them: all that a model is held against.

Errors are mean squares per value in [0, 1], rates are bits per picture. What needs fitting is fitted to the training
part; errors are those of the test part. Shapes: N pictures, D = 3,072 values.
"""

import io
import json
import math
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from cifar_vae.config import VALUES
from etude import draw, files
from etude.download import cache
from etude.fingerprint import fingerprint

SIZES = (64, 128, 256)  # numbers of PCA that are always reported
FEW = 1_000  # test pictures of what is slow: the nearest training picture, and image files
ENOUGH = 500  # pictures, for an entropy of each number by itself
BLOCK = 1_000  # pictures: products of bytes less 128 add up exactly in float32 so far, as 1,000 x 128^2 < 2^24
PAIRS = -9  # the stream that pairs of pictures are drawn from
TRANSFORM = "PCA, rounded and entropy-coded"
STEPS = (8.0, 4.0, 2.5, 1.6, 1.1, 0.8, 0.6, 0.45, 0.3, 0.2)  # that it rounds to, in the unit of a picture's length
FORM = 3  # of what is kept of all this
QUALITIES = {"JPEG": (1, 5, 10, 20, 40), "WEBP": (0, 5, 10, 20, 40)}


class Spectrum(NamedTuple):
    """The covariance of pictures in [0, 1], by its principal directions, largest first."""

    mean: np.ndarray  # [D]
    values: np.ndarray  # variances, [M]; M = D, or N if that is less: then the other variances are 0
    directions: np.ndarray  # [D, M]


def moments(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and second moment [D, D] of uint8 [N, ...] less 128, float64: exact sums of whole numbers."""
    total, squares = np.zeros(VALUES), np.zeros((VALUES, VALUES))
    for start in range(0, len(pictures), BLOCK):
        some = torch.from_numpy(pictures[start : start + BLOCK].reshape(-1, VALUES)).float() - 128
        total += some.double().sum(0).numpy()
        squares += (some.T @ some).double().numpy()
    return total / len(pictures), squares / len(pictures)


def spectrum(pictures: np.ndarray) -> Spectrum:
    """Of uint8 [N, ...]."""
    n = len(pictures)
    if n >= VALUES:
        mean, second = moments(pictures)
        values, directions = np.linalg.eigh((second - np.outer(mean, mean)) / 255**2)
    else:
        rows = pictures.reshape(n, VALUES) / 255.0
        mean = rows.mean(0) * 255 - 128
        rows = rows - rows.mean(0)
        values, left = np.linalg.eigh(rows @ rows.T / n)
        directions = rows.T @ left / np.sqrt(np.maximum(values, 1e-12) * n)
        directions[:, values < 1e-10] = 0
    return Spectrum((mean + 128) / 255, np.maximum(values[::-1], 0), directions[:, ::-1])


def pca(known: Spectrum, pictures: np.ndarray) -> np.ndarray:
    """The error of test pictures, uint8 [N, ...], restored from their first k principal components: [M + 1], k from 0.

    The components are those of the training part, as numbers of any precision.
    """
    mean, second = moments(pictures)
    away = (mean + 128) / 255 - known.mean
    scatter = (second - np.outer(mean, mean)) / 255**2 + np.outer(away, away)
    explained = ((scatter @ known.directions) * known.directions).sum(0)
    return (np.trace(scatter) - np.concatenate([[0], np.cumsum(explained)])) / VALUES


def transform_code(known: Spectrum, pictures: np.ndarray) -> list[dict[str, Any]]:
    """What the plainest code by principal components costs and loses: test pictures, uint8 [N, ...].

    All numbers of a picture are rounded to one step (Huang & Schultheiss 1963 with the step that is the same for all,
    as high-rate theory has it: Gersho & Gray 1992, chapter 8), and each is entropy-coded by itself. Bits are those
    entropies, by frequencies in these very pictures, as for the rounded numbers of an `ae`; none of fewer than ENOUGH.
    """
    if len(pictures) < ENOUGH:
        return []
    rows = torch.from_numpy(pictures.reshape(len(pictures), VALUES) / 255 - known.mean).float()
    numbers = rows @ torch.from_numpy(known.directions.copy()).float()
    beyond = (rows.square().sum(1) - numbers.square().sum(1)).clamp(
        min=0
    )  # what the training part has no direction for
    found = []
    for step in STEPS:
        levels = (numbers / step).round()
        errors = (beyond + (numbers - step * levels).square().sum(1)) / VALUES
        used = levels[:, (levels != 0).any(0)].long()  # a number that is always 0 takes no bits
        bits = sum(entropy(np.unique(column, return_counts=True)[1]) for column in used.T.numpy())
        se = float(errors.std()) / math.sqrt(len(errors)) if len(errors) > 1 else 0.0
        found.append({"format": TRANSFORM, "step": step, "bits": bits, "mse": float(errors.mean()), "mse_se": se})
    return found


def distortion(variances: np.ndarray, bits: float) -> float:
    """The Gaussian's distortion-rate function: the error per value at so many bits for all values together.

    Reverse water-filling (Cover & Thomas 2006, theorem 10.3.3): directions of variance v above the level w get
    1/2 log2 (v / w) bits each and the error w, the others no bits and their variance as error. Of all sources of this
    covariance the Gaussian needs most bits, so this is an upper bound of what the best code of long runs of pictures
    reaches; a code of one picture at a time pays extra.
    """
    kept = variances[variances > 0]
    if not len(kept):
        return 0.0
    low, high = math.log(kept.min()) - 2 * math.log(2) * max(bits, 1), math.log(kept.max())
    for _ in range(200):
        level = (low + high) / 2
        rate = np.maximum(np.log(kept) - level, 0).sum() / (2 * math.log(2))
        low, high = (level, high) if rate > bits else (low, level)
    return float(np.minimum(kept, math.exp((low + high) / 2)).sum() / VALUES)


def apart(pictures: np.ndarray) -> tuple[float, float]:
    """Mean and median over pairs of different pictures of their mean square difference.

    The mean is that of all pairs; the median that of as many pairs as there are pictures, drawn.
    """
    rows = pictures.reshape(len(pictures), VALUES) / 255.0
    n = len(rows)
    first, steps = np.arange(n), 1 + np.floor(draw.uniform(np.arange(n), 1, PAIRS)[:, 0].numpy() * (n - 1)).astype(int)
    median = np.median(((rows - rows[(first + steps) % n]) ** 2).mean(1))
    return float(2 * rows.var(0).mean() * n / (n - 1)), float(median)


def nearest(train: np.ndarray, test: np.ndarray) -> float:
    """The error of test pictures, each restored as the training picture that is nearest to it."""
    rows = torch.from_numpy(test.reshape(len(test), VALUES)).float() / 255
    best = torch.full((len(rows),), math.inf)
    for start in range(0, len(train), 5 * BLOCK):
        some = torch.from_numpy(train[start : start + 5 * BLOCK].reshape(-1, VALUES)).float() / 255
        best = torch.minimum(best, (some.square().sum(1) - 2 * rows @ some.T).amin(1))
    return float((best + rows.square().sum(1)).clamp(min=0).mean() / VALUES)


def image_files(pictures: np.ndarray) -> list[dict[str, Any]]:
    """What image files of pictures, uint8 [N, 3, 32, 32], cost and lose: their whole length in bits, and the error."""
    found = []
    for kind, qualities in QUALITIES.items():
        for quality in qualities:
            bits, errors = 0, 0.0
            for picture in pictures:
                plain, out = picture.transpose(1, 2, 0), io.BytesIO()
                Image.fromarray(plain).save(out, kind, quality=quality, **({"method": 6} if kind == "WEBP" else {}))
                bits += 8 * len(out.getvalue())
                back = np.asarray(Image.open(out).convert("RGB"), np.float64)
                errors += float(np.square((back - plain) / 255).mean())
            n = len(pictures)
            found.append({"format": kind, "quality": quality, "bits": bits / n, "mse": errors / n})
    return found


def known(train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """All of it, for a training and a test part; kept in the user's cache, as it takes minutes.

    {"variances": [M], "pca": [M + 1], "nearest", "apart", "apart_median", "files": as of `image_files` and
    `transform_code`}; without training pictures nothing of what they are needed for, and of one test picture nothing
    of pairs.
    """
    file = cache() / "cifar-vae" / f"yardsticks-{fingerprint(train, test)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept: dict[str, Any] = json.loads(file.read_text("utf-8"))
        if kept["form"] == FORM:
            return kept
    mean, median = apart(test) if len(test) > 1 else (None, None)
    found: dict[str, Any] = {"form": FORM, "apart": mean, "apart_median": median, "files": image_files(test[:FEW])}
    if len(train):
        of = spectrum(train)
        found |= {"variances": of.values.tolist(), "pca": pca(of, test).tolist(), "nearest": nearest(train, test[:FEW])}
        found["files"] += transform_code(of, test)
    else:
        found |= {"variances": [], "pca": [], "nearest": None}
    with suppress(OSError):  # a cache that cannot be written is done without
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, json.dumps(found).encode())
    return found


def at_bits(points: list[dict[str, Any]], kind: str, bits: float) -> float | None:
    """The error of a kind of file, or of the transform code, at so many bits, between its points.

    Its logarithm is interpolated, as high rates make that a line in bits (Gersho & Gray 1992, chapter 8): the error
    itself is convex, and a line between its points lies above it. None if it does not get that small.
    """
    found = sorted((p["bits"], max(p["mse"], 1e-12)) for p in points if p["format"] == kind)
    if not found or not found[0][0] <= bits <= found[-1][0]:
        return None
    return math.exp(np.interp(bits, [b for b, _ in found], [math.log(error) for _, error in found]))


def entropy(counts: np.ndarray) -> float:
    """Bits per symbol of counts [..., K], by their own frequencies; the mean over the other axes."""
    parts = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    return float(-(parts * np.log2(np.where(parts > 0, parts, 1))).sum(-1).mean())
