"""A Learner on PyTorch's own loaders, as in docs.fast.ai/examples/migrating_pytorch.html."""

from fastai.text.all import *
from imdb_network import Reader, collate
from imdb_reviews import load
from torch.utils.data import DataLoader

train_data, valid_data = load()
train_loader = DataLoader(train_data, batch_size=32, shuffle=True, collate_fn=collate)
valid_loader = DataLoader(valid_data, batch_size=32, collate_fn=collate)

data = DataLoaders(train_loader, valid_loader)
learn = Learner(data, Reader(), loss_func=F.binary_cross_entropy_with_logits, opt_func=Adam, metrics=accuracy_multi)
learn.fit(1, 3e-3)
print(f"validation accuracy {learn.recorder.values[-1][-1]:.4f}")
