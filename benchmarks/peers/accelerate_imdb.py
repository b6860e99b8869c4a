"""The loop of Accelerate's quicktour, huggingface.co/docs/accelerate/quicktour."""

import torch
from accelerate import Accelerator
from imdb_network import Reader, collate
from imdb_reviews import load
from torch.nn import functional as F
from torch.utils.data import DataLoader

train_data, valid_data = load()
train_dataloader = DataLoader(train_data, batch_size=32, shuffle=True, collate_fn=collate)
valid_dataloader = DataLoader(valid_data, batch_size=32, collate_fn=collate)

accelerator = Accelerator()
model = Reader()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
model, optimizer, train_dataloader, valid_dataloader = accelerator.prepare(
    model, optimizer, train_dataloader, valid_dataloader
)

for _ in range(1):
    model.train()
    for inputs, targets in train_dataloader:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(inputs), targets)
        accelerator.backward(loss)
        optimizer.step()

    model.eval()
    correct = 0
    for inputs, targets in valid_dataloader:
        with torch.no_grad():
            predictions = model(inputs) > 0
        predictions, targets = accelerator.gather_for_metrics((predictions, targets))
        correct += (predictions == targets).sum().item()
    accelerator.print(f"validation accuracy {correct / len(valid_data):.4f}")
