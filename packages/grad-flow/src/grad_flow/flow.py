"""What is measured of a network in one training step. Shapes: B images, L hidden layers, W units."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grad_flow.kernels import Gradients
from grad_flow.model import DeepDenseNet


@dataclass(frozen=True)
class Flow:
    """Of a batch, in training mode; all on the CPU."""

    gradients: Gradients
    correlations: Tensor
    """of what comes out of each matrix, over its units, for every two examples, [L + 1, B, B]"""
    activations: list[Tensor]
    """what comes out of each activation function, [B, W] each"""


def measure(model: DeepDenseNet, images: Tensor, labels: Tensor) -> Flow:
    """For images [B, s, s] and labels [B]; the loss is the mean. The model stays as it is, its gradients too."""
    training = model.training
    hidden: list[Any] = list(model.hidden)
    linears: list[nn.Linear] = [*(layer.linear for layer in hidden), model.classify]
    outputs: list[Tensor] = []
    activations: list[Tensor] = []
    devices = [images.device] if images.device.type == "cuda" else []
    with ExitStack() as after, torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices):
        for linear in linears:
            hook = linear.register_forward_hook(lambda _module, _inputs, found: outputs.append(found))
            after.callback(hook.remove)
        for layer in hidden:
            hook = layer.activation.register_forward_hook(
                lambda _m, _i, found: activations.append(found.detach().cpu())
            )
            after.callback(hook.remove)
        after.callback(model.train, training)
        for buffer in model.buffers():  # of batch norm
            after.callback(buffer.copy_, buffer.clone())
        loss = F.nll_loss(model.train().forward(images), labels)
        gradients = torch.autograd.grad(loss, [linear.weight for linear in linears] + outputs[:-1])
    norms = np.array([float(gradient.double().norm()) for gradient in gradients])
    units = [F.normalize(found.detach().double().cpu(), dim=1, eps=1e-300) for found in outputs]
    correlations = torch.stack([unit @ unit.T for unit in units])
    return Flow(Gradients(norms[: len(linears)], norms[len(linears) :]), correlations, activations)
