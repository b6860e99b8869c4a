"""The loop of PyTorch's quickstart, pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html."""

import os

import torch
from cnn_network import CNN
from torch import nn
from torch.utils.data import DataLoader, random_split
from torchvision import datasets, transforms

transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.286,), (0.353,))])
images = datasets.FashionMNIST(os.environ["ETUDE_DATA"], train=True, transform=transform)
train_data, valid_data = random_split(images, [11 / 12, 1 / 12])
train_dataloader = DataLoader(train_data, batch_size=128, shuffle=True)
valid_dataloader = DataLoader(valid_data, batch_size=128)

model = CNN()
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def train(dataloader):
    model.train()
    for batch, (X, y) in enumerate(dataloader):
        loss = loss_fn(model(X), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if batch % 100 == 0:
            print(f"loss: {loss.item():>7f}  [{batch:>5d}/{len(dataloader):>5d}]")


def test(dataloader):
    model.eval()
    test_loss, correct = 0, 0
    with torch.no_grad():
        for X, y in dataloader:
            pred = model(X)
            test_loss += loss_fn(pred, y).item()
            correct += (pred.argmax(1) == y).sum().item()
    print(f"loss {test_loss / len(dataloader):.4f}, validation accuracy {correct / len(dataloader.dataset):.4f}")


for _ in range(1):
    train(train_dataloader)
    test(valid_dataloader)
