"""The network that tells: an LSTM that says a caption word by word, given what the encoder saw.

Shapes: B captions (or images), T steps, V words, C features of the image, S parts of it, E numbers per word, H hidden
units, L layers, M members.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coco_caption.config import Model
from coco_caption.search import Found, State, beam_search
from coco_caption.words import END, UNKNOWN


class Seen(NamedTuple):
    """What a member makes of the images."""

    hidden: Tensor  # [L, B, H], the state before the first word
    cell: Tensor  # [L, B, H]
    parts: Tensor | None  # [B, S, H], with attention


class Teller(nn.Module):
    """One LSTM. Images as first input: Vinyals et al. 2015, "Show and tell"; attention: from the state after a word to
    the image's parts, as in Lu et al. 2017, "Knowing when to look" (without their sentinel), added to that state."""

    def __init__(self, config: Model, channels: int, frequencies: Tensor) -> None:
        """`frequencies`: how often each word is said in training, float [V]; rare ones start out improbable."""
        super().__init__()
        self.config = config
        hidden, width = config.hidden, config.embedding
        self.embedding = nn.Embedding(len(frequencies), width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.lstm = nn.LSTM(width, hidden, config.layers, dropout=config.dropout if config.layers > 1 else 0.0)
        self.dropout = nn.Dropout(config.dropout)
        if config.image == "first":
            self.see = nn.Linear(channels, width)
        else:
            self.see = nn.Linear(channels, 2 * config.layers * hidden)
        if config.image == "attention":
            self.parts = nn.Linear(channels, hidden)
            self.query = nn.Linear(hidden, hidden, bias=False)
            self.look = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, width)
        self.bias = nn.Parameter(((frequencies + 1) / (frequencies + 1).sum()).log())

    def begin(self, features: Tensor) -> Seen:
        """Features, normalised, [B, C] or [B, S, C] -> what the caption starts from."""
        config = self.config
        mean = features if features.dim() == 2 else features.mean(1)
        seen = self.see(self.dropout(mean))
        if config.image == "first":
            zeros = seen.new_zeros(config.layers, len(seen), config.hidden)
            _, (hidden, cell) = self.recur(seen[None], zeros, zeros)
            return Seen(hidden, cell, None)
        states = seen.view(len(seen), 2, config.layers, config.hidden).permute(1, 2, 0, 3).contiguous()
        parts = self.parts(self.dropout(features)) if config.image == "attention" else None
        return Seen(torch.tanh(states[0]), states[1], parts)

    def recur(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The LSTM; in fp32 where bf16 is asked for of a CPU without AVX512, on which torch's LSTM has none."""
        cpu = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if cpu and not torch.cpu.get_capabilities().get("avx512_f"):
            with torch.autocast("cpu", enabled=False):
                return self.recur(x.float(), hidden.float(), cell.float())
        found: tuple[Tensor, tuple[Tensor, Tensor]] = self.lstm(x, (hidden, cell))
        return found

    def forward(self, words: Tensor, seen: Seen) -> tuple[Tensor, Seen]:
        """Words [T, B], each followed by the next -> logits of the followers [T, B, V], and the state after them."""
        x, (hidden, cell) = self.recur(self.dropout(self.embedding(words)), seen.hidden, seen.cell)
        x = self.dropout(x)
        if seen.parts is not None:
            scores = torch.einsum("tbh,bsh->tbs", self.query(x), seen.parts) / math.sqrt(x.shape[2])
            x = x + torch.tanh(self.look(torch.einsum("tbs,bsh->tbh", scores.softmax(2), seen.parts)))
        logits = F.linear(self.dropout(self.out(x)), self.embedding.weight, self.bias)
        return logits, Seen(hidden, cell, seen.parts)


class Captioner(nn.Module):
    """`members` tellers, each of which learns for itself; together they tell by the mean of their probabilities."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: Model, channels: int, frequencies: Tensor) -> None:
        """`frequencies`: how often each word is said in training, float [V]."""
        super().__init__()
        self.tellers = nn.ModuleList(Teller(config, channels, frequencies) for _ in range(config.members))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def members(self) -> list[Teller]:
        return [teller for teller in self.tellers if isinstance(teller, Teller)]

    def forward(self, features: Tensor, words: Tensor) -> Tensor:
        """Features [B, C] or [B, S, C], words [T, B] -> logits of each member, [M, T, B, V]."""
        features = (features.float() - self.mean) / self.std
        return torch.stack([teller(words, teller.begin(features))[0] for teller in self.members()])

    @torch.no_grad()
    def tell(self, features: Tensor, width: int, longest: int, power: float) -> Found:
        """The captions of images, found by `beam_search`, which see; UNKNOWN is never told."""
        features = (features.float() - self.mean) / self.std
        state: list[Tensor] = []
        for teller in self.members():
            state += rows_first(teller.begin(features))
        each = len(state) // len(self.tellers)

        def step(words: Tensor, state: State) -> tuple[Tensor, State]:
            logs, after = [], []
            for number, teller in enumerate(self.members()):
                logits, seen = teller(words[None], steps_first(state[number * each : (number + 1) * each]))
                logs.append(logits[0].float().log_softmax(1))
                after += rows_first(seen)
            if len(logs) == 1:
                return logs[0], tuple(after)
            return torch.stack(logs).logsumexp(0) - math.log(len(logs)), tuple(after)

        return beam_search(step, tuple(state), len(features), width, longest, power, END, (UNKNOWN,))


def rows_first(seen: Seen) -> list[Tensor]:
    """[L, B, H] -> [B, L, H], so that rows can be chosen."""
    return [seen.hidden.transpose(0, 1), seen.cell.transpose(0, 1), *([] if seen.parts is None else [seen.parts])]


def steps_first(state: State) -> Seen:
    hidden, cell, *parts = state
    hidden, cell = hidden.transpose(0, 1).contiguous(), cell.transpose(0, 1).contiguous()
    return Seen(hidden, cell, parts[0] if parts else None)
