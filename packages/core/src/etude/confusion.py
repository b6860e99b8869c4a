"""What counts of (truth, answer) say of each class: confusion matrices. Shapes: K classes."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from etude import pictures

MOST = 100  # classes that a picture can hold


def count(truths: Tensor, answers: Tensor, classes: int) -> Tensor:
    """How often each class got each answer: int64 [N], [N] -> int64 [K, K], truths are rows."""
    return torch.bincount(truths * classes + answers, minlength=classes**2).view(classes, classes)


def f1(confusion: Tensor) -> Tensor:
    """F1 of every class from counts [truth, answer]: [K, K] -> [K]; 0 for a class that is never answered nor right."""
    return 2 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)


def per_class(confusion: Tensor, classes: Sequence[str], what: str) -> tuple[list[str], dict[str, dict[str, float]]]:
    """A table of recall, precision and F1 as lines for people, and as numbers by class; [K, K] counts `what`."""
    truths, answers, hits, together = confusion.sum(1), confusion.sum(0), confusion.diagonal(), f1(confusion)
    lines, found = [f"{'class':<14} {what:>7}  recall  precision      F1"], {}
    for k, name in enumerate(classes):
        recall, precision = (float(hits[k] / total[k].clamp(min=1)) for total in (truths, answers))
        found[name] = {"recall": recall, "precision": precision, "f1": float(together[k])}
        lines.append(f"{name:<14} {int(truths[k]):>7}  {recall:>6.1%}  {precision:>9.1%}  {together[k]:>6.1%}")
    return lines, found


def picture(counts: Tensor, classes: Sequence[str], what: str) -> Image.Image:
    """Counts of `what`, int64 [K, K], as an image; the colour is the part of the row.

    Of more than MOST classes it has those that are most often taken for others, or others for them.
    """
    parts, some = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy(), ""
    if len(classes) > MOST:
        wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        kept = wrong.argsort(descending=True, stable=True)[:MOST].sort().values
        some = f", the {MOST} of {len(classes):,} classes that are confused most"
        counts, parts, classes = counts[kept][:, kept], parts[kept][:, kept], [classes[n] for n in kept.tolist()]
    k = len(classes)
    size = 0.34 if counts.max() < 1000 else 0.44  # inches a cell, wide enough for its number
    canvas, (axes,) = pictures.blank(size * k + 2.2, size * k + 1.6)
    shown = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    for row, column in (counts > 0).nonzero().tolist():
        colour = "white" if parts[row, column] > 0.5 else "black"
        axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=colour, fontsize=6)
    classes = list(map(pictures.literal, classes))
    axes.set_xticks(range(k), classes, rotation=90 if max(map(len, classes)) > 2 else 0)
    axes.set_yticks(range(k), classes)
    axes.set(xlabel="read as", ylabel="is")
    told = f"Confusion matrix, validation part{some}\n(numbers: {what})"
    canvas.figure.suptitle(told, fontsize=9)  # fits two classes, too
    canvas.figure.colorbar(shown, ax=axes, label="part of the row", shrink=0.8)
    return pictures.drawn(canvas)
