"""The loop of PyTorch's quickstart, pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html, with packing."""

import torch
from pos_network import Tagger, collate, tag_loss
from pos_sentences import load
from torch.utils.data import DataLoader

train_data, valid_data, tags = load()
train_dataloader = DataLoader(train_data, batch_size=32, shuffle=True, collate_fn=collate)
valid_dataloader = DataLoader(valid_data, batch_size=32, collate_fn=collate)

model = Tagger(tags)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)


def train(dataloader):
    model.train()
    for batch, (words, shapes, y) in enumerate(dataloader):
        loss = tag_loss(model(words, shapes), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if batch % 100 == 0:
            print(f"loss: {loss.item():>7f}  [{batch:>5d}/{len(dataloader):>5d}]")


def test(dataloader):
    model.eval()
    test_loss, correct, count = 0, 0, 0
    with torch.no_grad():
        for words, shapes, y in dataloader:
            pred = model(words, shapes)
            test_loss += tag_loss(pred, y).item()
            correct += (pred.argmax(2) == y).sum().item()
            count += (y != -100).sum().item()
    print(f"loss {test_loss / len(dataloader):.4f}, validation accuracy {correct / count:.4f}")


for _ in range(3):
    train(train_dataloader)
    test(valid_dataloader)
