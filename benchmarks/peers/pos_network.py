"""The default network of lstm-pos as a user of plain PyTorch writes it, and how its batches are padded."""

import torch
from pos_sentences import WORDS
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence


class Tagger(nn.Module):
    """Ids of words and of shapes [B, T], padded with 0 -> logits [B, T, tags]."""

    def __init__(self, tags):
        super().__init__()
        self.words, self.shapes = nn.Embedding(WORDS, 64), nn.Embedding(10, 8)
        nn.init.normal_(self.words.weight, std=0.1)
        self.lstm = nn.LSTM(64 + 8, 128, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.5)
        self.classify = nn.Linear(2 * 128, tags)

    def forward(self, words, shapes):
        x = self.dropout(torch.cat([self.words(words), self.shapes(shapes)], 2))
        packed = pack_padded_sequence(x, (words != 0).sum(1), batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.classify(self.dropout(y))


def collate(sentences):
    words, shapes, tags = ([torch.tensor(row) for row in column] for column in zip(*sentences))
    padded = pad_sequence(words, batch_first=True), pad_sequence(shapes, batch_first=True)
    return *padded, pad_sequence(tags, batch_first=True, padding_value=-100)


def tag_loss(logits, tags):
    return F.cross_entropy(logits.flatten(0, 1), tags.flatten())


def tag_accuracy(logits, tags):
    return (logits.argmax(2) == tags)[tags != -100].float().mean()
