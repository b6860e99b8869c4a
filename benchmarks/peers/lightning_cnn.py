"""A LightningModule and a Trainer, as in lightning.ai/docs/pytorch/stable/starter/introduction.html."""

import os

import lightning as L
import torch
from cnn_network import CNN
from torch.nn import functional as F
from torch.utils.data import DataLoader, random_split
from torchvision import datasets, transforms


class LitCNN(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = CNN()

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.model(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.model(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.286,), (0.353,))])
images = datasets.FashionMNIST(os.environ["ETUDE_DATA"], train=True, transform=transform)
train_data, valid_data = random_split(images, [11 / 12, 1 / 12])

trainer = L.Trainer(max_epochs=1)
trainer.fit(
    LitCNN(),
    DataLoader(train_data, batch_size=128, shuffle=True),
    DataLoader(valid_data, batch_size=128),
)
print(f"validation accuracy {trainer.callback_metrics['val_acc']:.4f}")
