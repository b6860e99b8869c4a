"""A Learner on PyTorch's own loaders, as in docs.fast.ai/examples/migrating_pytorch.html."""

from fastai.text.all import *
from pos_network import Tagger, collate, tag_accuracy, tag_loss
from pos_sentences import load
from torch.utils.data import DataLoader

train_data, valid_data, tags = load()
train_loader = DataLoader(train_data, batch_size=32, shuffle=True, collate_fn=collate)
valid_loader = DataLoader(valid_data, batch_size=32, collate_fn=collate)

data = DataLoaders(train_loader, valid_loader)
learn = Learner(data, Tagger(tags), loss_func=tag_loss, opt_func=Adam, metrics=tag_accuracy)
learn.fit(3, 3e-3)
print(f"validation accuracy {learn.recorder.values[-1][-1]:.4f}")
