"""The loop of PyTorch's quickstart, pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html, with packing."""

import torch
from imdb_network import Reader, collate
from imdb_reviews import load
from torch import nn
from torch.utils.data import DataLoader

train_data, valid_data = load()
train_dataloader = DataLoader(train_data, batch_size=32, shuffle=True, collate_fn=collate)
valid_dataloader = DataLoader(valid_data, batch_size=32, collate_fn=collate)

model = Reader()
loss_fn = nn.BCEWithLogitsLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)


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
            correct += ((pred > 0) == y).sum().item()
    print(f"loss {test_loss / len(dataloader):.4f}, validation accuracy {correct / len(dataloader.dataset):.4f}")


for _ in range(1):
    train(train_dataloader)
    test(valid_dataloader)
