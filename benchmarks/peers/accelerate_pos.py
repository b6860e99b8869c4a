"""The loop of Accelerate's quicktour, huggingface.co/docs/accelerate/quicktour."""

import torch
from accelerate import Accelerator
from pos_network import Tagger, collate, tag_loss
from pos_sentences import load
from torch.utils.data import DataLoader

train_data, valid_data, tags = load()
train_dataloader = DataLoader(train_data, batch_size=32, shuffle=True, collate_fn=collate)
valid_dataloader = DataLoader(valid_data, batch_size=32, collate_fn=collate)

accelerator = Accelerator()
model = Tagger(tags)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
model, optimizer, train_dataloader, valid_dataloader = accelerator.prepare(
    model, optimizer, train_dataloader, valid_dataloader
)

for _ in range(3):
    model.train()
    for words, shapes, targets in train_dataloader:
        optimizer.zero_grad()
        loss = tag_loss(model(words, shapes), targets)
        accelerator.backward(loss)
        optimizer.step()

    model.eval()
    correct = count = 0
    for words, shapes, targets in valid_dataloader:
        with torch.no_grad():
            predictions = model(words, shapes).argmax(2)
        predictions, targets = accelerator.pad_across_processes((predictions, targets), dim=1, pad_index=-100)
        predictions, targets = accelerator.gather_for_metrics((predictions, targets))
        correct += (predictions == targets)[targets != -100].sum().item()
        count += (targets != -100).sum().item()
    accelerator.print(f"validation accuracy {correct / count:.4f}")
