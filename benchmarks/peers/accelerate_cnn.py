"""The loop of Accelerate's quicktour, huggingface.co/docs/accelerate/quicktour."""

import os

import torch
from accelerate import Accelerator
from cnn_network import CNN
from torch.nn import functional as F
from torch.utils.data import DataLoader, random_split
from torchvision import datasets, transforms

transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.286,), (0.353,))])
images = datasets.FashionMNIST(os.environ["ETUDE_DATA"], train=True, transform=transform)
train_data, valid_data = random_split(images, [11 / 12, 1 / 12])
train_dataloader = DataLoader(train_data, batch_size=128, shuffle=True)
valid_dataloader = DataLoader(valid_data, batch_size=128)

accelerator = Accelerator()
model = CNN()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model, optimizer, train_dataloader, valid_dataloader = accelerator.prepare(
    model, optimizer, train_dataloader, valid_dataloader
)

for _ in range(1):
    model.train()
    for inputs, targets in train_dataloader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        accelerator.backward(loss)
        optimizer.step()

    model.eval()
    correct = 0
    for inputs, targets in valid_dataloader:
        with torch.no_grad():
            predictions = model(inputs).argmax(1)
        predictions, targets = accelerator.gather_for_metrics((predictions, targets))
        correct += (predictions == targets).sum().item()
    accelerator.print(f"validation accuracy {correct / len(valid_data):.4f}")
