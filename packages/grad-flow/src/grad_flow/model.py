"""The dense network. Shapes: B images, s x s pixels, W units, K classes."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from grad_flow.config import CLASSES, Model
from grad_flow.kernels import Network
from grad_flow.theory import ACTIVATIONS, law


class Hidden(nn.Module):
    """A hidden layer: linear, norm, activation, dropout; with `passes` its input is added to what comes out."""

    def __init__(self, inputs: int, config: Model, passes: bool) -> None:
        super().__init__()
        self.passes = passes
        self.linear = nn.Linear(inputs, config.width)
        norms = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        self.norm = norms[config.norm](config.width)
        self.activation = ACTIVATIONS[config.activation]()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] -> [B, W]."""
        y: Tensor = self.dropout(self.activation(self.norm(self.linear(x))))
        return x + y if self.passes else y


class DeepDenseNet(nn.Module):
    """`depth` hidden layers of `width` units, a linear layer, log-softmax."""

    mean: Tensor
    std: Tensor

    def __init__(self, inputs: int, config: Model) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))  # of the pixels, set from the training part
        self.register_buffer("std", torch.ones(()))
        sizes = config.sizes(inputs)
        self.hidden = nn.ModuleList(
            Hidden(size, config, passes=config.residual and layer > 0) for layer, size in enumerate(sizes[:-2])
        )
        self.classify = nn.Linear(sizes[-2], CLASSES)
        for linear in (module for module in self.modules() if isinstance(module, nn.Linear)):
            initialise(linear, config)

    def inputs(self, images: Tensor) -> Tensor:
        """What enters the first layer: [B, s, s] -> [B, s * s]."""
        return ((images - self.mean) / self.std).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logarithms of the probabilities of the classes: [B, s, s] -> [B, K]."""
        x = self.inputs(images)
        for layer in self.hidden:
            x = layer(x)
        logits: Tensor = self.classify(x)
        return logits.float().log_softmax(1)


def initialise(linear: nn.Linear, config: Model) -> None:
    """Draws weights and biases anew, as `grad_flow.theory.law` has them; torch's default is what is there."""
    if config.initialisation == "default":
        return
    outputs, inputs = linear.weight.shape
    sigma_w, sigma_b = law(config.initialisation, inputs, outputs, config.sigma_w, config.sigma_b)
    if config.initialisation == "orthogonal":
        nn.init.orthogonal_(linear.weight)
    else:
        nn.init.normal_(linear.weight, std=sigma_w / inputs**0.5)
    nn.init.normal_(linear.bias, std=sigma_b) if sigma_b else nn.init.zeros_(linear.bias)


def network(inputs: int, config: Model) -> Network:
    """The model as the theory sees it."""
    sizes = config.sizes(inputs)
    laws = tuple(law(config.initialisation, ins, outs, config.sigma_w, config.sigma_b) for ins, outs in pairwise(sizes))
    return Network(config.activation, config.norm, config.residual, config.dropout, sizes, laws)
