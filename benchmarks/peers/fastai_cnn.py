"""A Learner on PyTorch's own loaders, as in docs.fast.ai/examples/migrating_pytorch.html."""

import os

from cnn_network import CNN
from fastai.vision.all import *
from torch.utils.data import DataLoader, random_split
from torchvision import datasets, transforms

transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.286,), (0.353,))])
images = datasets.FashionMNIST(os.environ["ETUDE_DATA"], train=True, transform=transform)
train_data, valid_data = random_split(images, [11 / 12, 1 / 12])
train_loader = DataLoader(train_data, batch_size=128, shuffle=True)
valid_loader = DataLoader(valid_data, batch_size=128)

data = DataLoaders(train_loader, valid_loader)
learn = Learner(data, CNN(), loss_func=F.cross_entropy, opt_func=Adam, metrics=accuracy)
learn.fit(1, 1e-3)
print(f"validation accuracy {learn.recorder.values[-1][-1]:.4f}")
