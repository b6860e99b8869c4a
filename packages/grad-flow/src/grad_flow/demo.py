"""What `grad-flow demo` shows: a network of any depth before its first step, its gradients measured and predicted."""

import torch
from torch import Tensor

from etude.demo.page import Answer, Chart, Choice, Curve, Demo, Panel, Slider
from grad_flow import data, kernels
from grad_flow.config import CLASSES, Model
from grad_flow.flow import measure
from grad_flow.model import DeepDenseNet, network
from grad_flow.task import Predictor

FEW = 20  # images whose gradients are measured: as many as a tenth of a second allows, with 40 layers
WIDTHS = ("32", "64", "128", "256")
ACTIVATIONS = ("relu", "sigmoid", "tanh", "gelu", "selu", "identity")
INITIALISATIONS = ("default", "lecun", "xavier", "he", "orthogonal", "sigma")


def demo(task: Predictor) -> Demo:
    model = task.config.model
    digits = data.load("sample", 0).train  # of any run, as they need no download
    images, labels = digits.images[:FEW].float(), digits.labels[:FEW]
    mean, std = digits.images.float().mean(), digits.images.float().std()

    def answer(depth: float, width: str, activation: str, initialisation: str, sigma_w: float, number: float) -> Answer:
        sigma = sigma_w if initialisation == "sigma" else 1.0
        config = Model(int(depth), int(width), activation, initialisation, sigma)  # type: ignore[arg-type]
        measured = one(config, int(number))
        with torch.no_grad():
            net = network(images[0].numel(), config)
            predicted = kernels.gradients(net, kernels.walk(net, ((images - mean) / std).flatten(1)), labels)
        curves = [
            Curve("measured in this network", list(enumerate(measured.tolist(), 1)), "dots"),
            Curve("predicted, the typical network", list(enumerate(predicted.signals.tolist(), 1)), "dashes"),
        ]
        note = "The norm of the gradient by what comes out of each hidden layer; one network scatters around the line."
        chart = Chart(
            "The gradient on its way back", "hidden layer", "norm of the gradient", curves, log=True, note=note
        )
        ours, theirs = kernels.factor(measured.tolist()), kernels.factor(predicted.signals)
        if ours != ours:
            return Answer("no factor", [chart], "no gradient is left in some layer")
        return Answer(f"× {ours:.3f} per layer", [chart], f"predicted × {theirs:.3f}")

    def one(config: Model, number: int) -> Tensor:
        """The gradients by what comes out of each hidden layer of network `number`, [L]."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            net = DeepDenseNet(images[0].numel(), config)
        net.mean.fill_(mean)
        net.std.fill_(std)
        return torch.from_numpy(measure(net, images, labels).gradients.signals)

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
        "learnt nothing: of the run it takes only what it begins with. The theory is that of wide networks.",
    )
