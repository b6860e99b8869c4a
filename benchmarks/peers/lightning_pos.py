"""A LightningModule and a Trainer, as in lightning.ai/docs/pytorch/stable/starter/introduction.html."""

import lightning as L
import torch
from pos_network import Tagger, collate, tag_accuracy, tag_loss
from pos_sentences import load
from torch.utils.data import DataLoader


class LitTagger(L.LightningModule):
    def __init__(self, tags):
        super().__init__()
        self.model = Tagger(tags)

    def training_step(self, batch, batch_idx):
        words, shapes, y = batch
        loss = tag_loss(self.model(words, shapes), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        words, shapes, y = batch
        logits = self.model(words, shapes)
        self.log("val_loss", tag_loss(logits, y))
        self.log("val_acc", tag_accuracy(logits, y), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


train_data, valid_data, tags = load()

trainer = L.Trainer(max_epochs=3)
trainer.fit(
    LitTagger(tags),
    DataLoader(train_data, batch_size=32, shuffle=True, collate_fn=collate),
    DataLoader(valid_data, batch_size=32, collate_fn=collate),
)
print(f"validation accuracy {trainer.callback_metrics['val_acc']:.4f}")
