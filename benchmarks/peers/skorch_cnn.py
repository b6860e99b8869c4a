"""A NeuralNetClassifier on arrays, as in the notebook MNIST of skorch.readthedocs.io/en/stable/user/tutorials.html."""

import os

import torch
from cnn_network import CNN
from skorch import NeuralNetClassifier
from skorch.dataset import ValidSplit
from torch import nn
from torchvision import datasets

images = datasets.FashionMNIST(os.environ["ETUDE_DATA"], train=True)
X = (images.data.numpy()[:, None].astype("float32") / 255 - 0.286) / 0.353
y = images.targets.numpy()

net = NeuralNetClassifier(
    CNN,
    criterion=nn.CrossEntropyLoss,
    optimizer=torch.optim.AdamW,
    lr=1e-3,
    batch_size=128,
    max_epochs=1,
    iterator_train__shuffle=True,
    train_split=ValidSplit(12),
)
net.fit(X, y)
print(f"validation accuracy {net.history[-1, 'valid_acc']:.4f}")
