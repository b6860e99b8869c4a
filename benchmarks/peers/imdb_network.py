"""The default network of imdb-rnn as a user of plain PyTorch writes it, and how its batches are padded."""

import torch
from imdb_reviews import WORDS
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence


class Reader(nn.Module):
    """Ids [B, T], padded with 0 -> log-odds [B]."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 96)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.lstm = nn.LSTM(96, 96, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.5)
        self.classify = nn.Linear(2 * 96, 1)

    def forward(self, ids):
        lengths = (ids != 0).sum(1)
        x = self.dropout(self.embedding(ids))
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, padding_value=float("-inf"))
        return self.classify(self.dropout(y.amax(1)))[:, 0]


def collate(reviews):
    ids, labels = zip(*reviews)
    return pad_sequence([torch.tensor(row) for row in ids], batch_first=True), torch.tensor(labels).float()
