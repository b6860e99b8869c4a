"""The optimiser and the learning-rate schedule that a Fit asks for."""

import math

import torch
from torch import nn

from etude.config import Fit
from etude.torch_private import without_compiler


def optimizer(fit: Fit, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), SGD with Nesterov momentum, or RMSprop (Tieleman & Hinton 2012).

    `fit.momentum` is that of SGD and RMSprop and the beta1 of AdamW, as in torch's OneCycleLR. Weight decay falls on
    matrices and kernels only: decaying a bias or a normalisation's gain has no use (Goyal et al. 2017, section 5.3).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": fit.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if fit.optimizer == "adamw":  # fused: one kernel for all parameters, on CPU too
        return without_compiler(torch.optim.AdamW)(groups, fit.lr, betas=(fit.momentum, 0.999), fused=True)
    if fit.optimizer == "sgd":  # torch refuses Nesterov's way of looking ahead where nothing is kept
        found = without_compiler(torch.optim.SGD)(
            groups, fit.lr, momentum=fit.momentum, nesterov=fit.momentum > 0, fused=True
        )
        for p in parameters if fit.momentum > 0 else ():  # torch's, once begun, takes no parameter's first gradient
            found.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return found
    return without_compiler(torch.optim.RMSprop)(groups, fit.lr, momentum=fit.momentum, foreach=True)


def learning_rate(fit: Fit, done: float) -> float:
    """The learning rate when the part `done` of the run (0 .. 1) is over: a function, so nothing has to be saved.

    It rises in a straight line over the first `warmup` to `lr`, then stays (constant), falls to 0 as half a cosine
    (Loshchilov & Hutter 2017), or falls to 0 in a straight line (linear).
    """
    if done < fit.warmup:
        return fit.lr * done / fit.warmup
    fall = (done - fit.warmup) / (1 - fit.warmup) if fit.warmup < 1 else 0.0
    left = {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * fall)), "linear": 1 - fall}
    return fit.lr * left[fit.schedule]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
