"""What counts of (truth, answer) say of each class: confusion matrices. Shapes: K classes."""

from collections.abc import Sequence

import torch
from torch import Tensor


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
