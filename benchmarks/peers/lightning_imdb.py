"""A LightningModule and a Trainer, as in lightning.ai/docs/pytorch/stable/starter/introduction.html."""

import lightning as L
import torch
from imdb_network import Reader, collate
from imdb_reviews import load
from torch.nn import functional as F
from torch.utils.data import DataLoader


class LitReader(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = Reader()

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.binary_cross_entropy_with_logits(self.model(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.model(x)
        self.log("val_loss", F.binary_cross_entropy_with_logits(logits, y))
        self.log("val_acc", ((logits > 0) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


train_data, valid_data = load()

trainer = L.Trainer(max_epochs=1)
trainer.fit(
    LitReader(),
    DataLoader(train_data, batch_size=32, shuffle=True, collate_fn=collate),
    DataLoader(valid_data, batch_size=32, collate_fn=collate),
)
print(f"validation accuracy {trainer.callback_metrics['val_acc']:.4f}")
