"""A NeuralNetBinaryClassifier on arrays, skorch.readthedocs.io/en/stable/classifier.html; the network packs them."""

import numpy as np
import torch
from imdb_network import Reader
from imdb_reviews import load
from skorch import NeuralNetBinaryClassifier
from skorch.dataset import Dataset
from skorch.helper import predefined_split


def arrays(reviews):
    X = np.zeros((len(reviews), max(len(ids) for ids, _ in reviews)), np.int64)
    for row, (ids, _) in zip(X, reviews):
        row[: len(ids)] = ids
    return X, np.array([label for _, label in reviews], np.float32)


train_data, valid_data = load()
net = NeuralNetBinaryClassifier(
    Reader,
    optimizer=torch.optim.AdamW,
    lr=3e-3,
    batch_size=32,
    max_epochs=1,
    iterator_train__shuffle=True,
    train_split=predefined_split(Dataset(*arrays(valid_data))),
)
net.fit(*arrays(train_data))
print(f"validation accuracy {net.history[-1, 'valid_acc']:.4f}")
