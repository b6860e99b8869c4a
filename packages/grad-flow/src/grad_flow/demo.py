"""What `grad-flow demo` shows: a network of any depth before its first step, its gradients measured and predicted."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude.demo.page import Answer, Chart, Choice, Curve, Demo, Panel, Slider
from grad_flow import data, kernels
from grad_flow.config import CLASSES, Model
from grad_flow.model import initialise, network
from grad_flow.task import Predictor
from grad_flow.theory import ACTIVATIONS as FUNCTIONS

FEW = 20  # images whose gradients are measured: as many as a tenth of a second allows, with 40 layers
WIDTHS = ("32", "64", "128", "256")
ACTIVATIONS = ("relu", "sigmoid", "tanh", "gelu", "selu", "identity")
INITIALISATIONS = ("default", "lecun", "xavier", "he", "orthogonal", "sigma")


Layer = Callable[[Tensor], Tensor]


def drawn(config: Model, inputs: int, number: int) -> list[Layer]:
    """The linear layers of network `number`, from the input to the classes, by the laws of `DeepDenseNet`.

    Not the numbers that a run with this seed begins with, as those take twice as long to draw.
    """
    layers: list[Layer] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        for ins, outs in pairwise(config.sizes(inputs)):
            if config.initialisation == "orthogonal":
                layers.append(orthogonal(outs, ins))
            else:
                initialise(linear := nn.Linear(ins, outs), config)
                layers.append(linear.requires_grad_(False))
    return layers


def orthogonal(outputs: int, inputs: int) -> Layer:
    """Multiplies [B, inputs] by a matrix of the law of `nn.init.orthogonal_`, uniform over all there are.

    That takes the QR factorisation of normal numbers. As each step of it leaves normal numbers to the next, the vectors
    of its reflections can be drawn themselves (Stewart 1980), and few inputs are reflected faster than the matrix is
    multiplied out.
    """
    size = max(outputs, inputs)
    normal = torch.randn(size, size).triu_()  # row k: the first column of what is left after k steps
    first, norm = normal.diagonal().clone(), torch.linalg.vector_norm(normal, dim=1)
    signs = first.sign()
    vectors = normal.div_((first + signs * norm)[:, None]).mT  # that of k begins with a 1 at k, which nobody reads
    scales = 1 + signs * first / norm

    def reflected(x: Tensor) -> Tensor:
        padded = F.pad(x, (0, size - inputs)) * -signs
        return torch.ormqr(vectors, scales, padded, left=False, transpose=True)[:, :outputs]

    return reflected


def signals(layers: Sequence[Layer], activation: str, x: Tensor, labels: Tensor) -> list[float]:
    """What `flow.measure` finds for inputs [B, d]: the norm of the gradient by what comes out of each hidden matrix."""
    outputs, function = [], FUNCTIONS[activation]()
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        for layer in layers[:-1]:
            outputs.append(layer(x))
            x = function(outputs[-1])
        gradients = torch.autograd.grad(F.cross_entropy(layers[-1](x), labels), outputs)
    return [float(gradient.double().norm()) for gradient in gradients]


def demo(task: Predictor) -> Demo:
    model = task.config.model
    digits = data.load("sample", 0).train  # of any run, as they need no download
    images, labels = digits.images[:FEW].float(), digits.labels[:FEW]
    x = ((images - digits.images.float().mean()) / digits.images.float().std()).flatten(1)

    def answer(depth: float, width: str, activation: str, initialisation: str, sigma_w: float, number: float) -> Answer:
        sigma = sigma_w if initialisation == "sigma" else 1.0
        config = Model(int(depth), int(width), activation, initialisation, sigma)  # type: ignore[arg-type]
        measured = signals(drawn(config, x.shape[1], int(number)), config.activation, x, labels)
        with torch.no_grad():
            net = network(x.shape[1], config)
            predicted = kernels.gradients(net, kernels.walk(net, x), labels)
        curves = [
            Curve("measured in this network", list(enumerate(measured, 1)), "dots"),
            Curve("predicted, the typical network", list(enumerate(predicted.signals.tolist(), 1)), "dashes"),
        ]
        note = "The norm of the gradient by what comes out of each hidden layer; one network scatters around the line."
        chart = Chart(
            "The gradient on its way back", "hidden layer", "norm of the gradient", curves, log=True, note=note
        )
        ours, theirs = kernels.factor(measured), kernels.factor(predicted.signals)
        if ours != ours:
            return Answer("no factor", [chart], "no gradient is left in some layer")
        return Answer(f"× {ours:.3f} per layer", [chart], f"predicted × {theirs:.3f}")

    lacking = {  # what the run's network may have, and whether it has
        f"{model.norm} norm": model.norm != "none",
        "residual connections": model.residual,
        f"dropout {model.dropout:g}": model.dropout > 0,
        f"biases of standard deviation {model.sigma_b:g}": model.initialisation == "sigma" and model.sigma_b > 0,
        f"the activation {model.activation}": model.activation not in ACTIVATIONS,
    }
    others = " and ".join(name for name, has in lacking.items() if has)
    another = f" This run's network is another one: it has {others}, which the page has not."
    depth = Slider("depth", "Hidden layers", 2, 40, 1, float(min(max(model.depth, 2), 40)))
    width = str(model.width) if str(model.width) in WIDTHS else "128"
    start = model.activation if model.activation in ACTIVATIONS else "relu"
    return Demo(
        "What is left of the gradient, layer by layer?",
        "Choose a network: what reaches its first layer before it learns, measured and predicted by theory.",
        [
            Panel(
                "Gradient",
                [
                    depth,
                    Choice("activation", "Activation", ACTIVATIONS, start),
                    Choice("initialisation", "Initialisation", INITIALISATIONS, model.initialisation),
                    Slider(
                        "sigma_w",
                        "σ of the weights, with initialisation sigma",
                        0.5,
                        3,
                        0.05,
                        min(max(model.sigma_w, 0.5), 3.0),
                    ),
                    Choice("width", "Units of each layer", WIDTHS, width),
                    Slider("number", "Which of the networks that chance draws", 0, 99, 1, 0),
                ],
                answer,
                "× 0.5 per layer: on its way back each layer halves the gradient; near × 1 it reaches the first "
                "whole. The initialisation default is PyTorch's own, he, lecun, xavier and orthogonal are known "
                "recipes, and sigma draws weights of variance σ² / inputs.",
            )
        ],
        f"Measured on {FEW} of scikit-learn's digits of 8 × 8 pixels, of {CLASSES} classes, in a network that has "
        "learnt nothing: of the run it takes only what it begins with. The theory is that of wide networks."
        + another
        * bool(others),
    )
