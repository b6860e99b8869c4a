"""The convolutional network whose choices are studied. Shapes: B images, C channels, K classes."""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_emnist.config import SIDE, Model


class CNN(nn.Module):
    """Convolutions in stages, then one linear layer: float [B, 28, 28] in 0..1 -> logits [B, K]."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: Model, classes: int, views: bool = False) -> None:
        """With `views` the model answers, once trained, with the mean over six views of every image."""
        super().__init__()
        self.views = views
        self.register_buffer("mean", torch.zeros(()))  # of the training pixels: part of what was learnt
        self.register_buffer("std", torch.ones(()))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 1
        for number, (width, ends) in enumerate(config.plan(), start=1):
            layers[f"conv{number}"] = block(config, channels, width, ends)
            channels = width
        self.features = nn.Sequential(layers)
        self.averages = config.head == "average"
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.inputs(), classes)

    def forward(self, images: Tensor) -> Tensor:
        if self.training or not self.views:
            return self.logits(images)
        views = six_views(images)
        answers = torch.stack([self.logits(view).float() for view in views])
        return answers.log_softmax(-1).logsumexp(0) - math.log(len(views))

    def logits(self, images: Tensor) -> Tensor:
        x = ((images - self.mean) / self.std).unsqueeze(1)
        x = self.features(x.contiguous(memory_format=torch.channels_last))
        x = x.mean((2, 3)) if self.averages else x.flatten(1)
        return self.classify(self.dropout(x))


def six_views(images: Tensor) -> list[Tensor]:
    """The image as it is, and shifted by a pixel along the diagonal both ways, and the mirror images: [B, 28, 28]."""
    padded = F.pad(images, (1, 1, 1, 1))
    shifted = [padded[:, at : at + SIDE, at : at + SIDE] for at in (1, 2, 0)]
    return [*shifted, *(view.flip(-1) for view in shifted)]


def block(config: Model, channels: int, width: int, ends: bool) -> nn.Sequential:
    """One convolution with what follows it: [B, channels, H, W] -> [B, width, H', W'], H' from `Model.sizes`."""
    strided = ends and config.pooling == "stride"
    conv = nn.Conv2d(
        channels,
        width,
        config.kernel,
        stride=2 if strided else 1,
        padding=config.kernel // 2 if config.padding == "same" else 0,
        bias=not config.batch_norm,  # batch norm has its own
    )
    norm = [nn.BatchNorm2d(width)] if config.batch_norm else []
    if ends and config.pooling == "max":
        # The maximum first: ReLU keeps the order of its inputs, so without batch norm this is the same function, and
        # with it a quarter is left to normalise.
        return nn.Sequential(conv, nn.MaxPool2d(2), *norm, nn.ReLU(inplace=True))
    pool = [nn.AvgPool2d(2)] if ends and config.pooling == "average" else []
    return nn.Sequential(conv, *norm, nn.ReLU(inplace=True), *pool)
