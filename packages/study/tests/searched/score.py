"""What the task is worth."""

import math


def score(kernel: int, lr: float, dropout: float, seed: int = 0) -> float:
    """The best learning rate is 0.002 for kernel 3 and 0.006 for any other; dropout hardly matters."""
    best = 0.002 if kernel == 3 else 0.006
    luck = 1e-4 * math.sin(12.9898 * seed + 78.233 * kernel)  # of a seed
    return 0.9 - 0.08 * math.log10(lr / best) ** 2 - 0.02 * (dropout - 0.2) ** 2 + luck
