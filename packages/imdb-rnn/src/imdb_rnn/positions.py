"""How much of the gradient reaches a word that stands so many words before the end of a review."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from etude.pictures import blank, drawn
from etude.text.batching import padded_batches
from imdb_rnn.model import Reader, Started, surprise


def powers(longest: int) -> list[int]:
    """1, 2, 4, 8, ... up to `longest`: places counted from the end, of which 1 is the last word."""
    return [2**n for n in range(longest.bit_length())]


@torch.enable_grad()
def gradients(
    readers: Iterable[nn.Module], rows: list[np.ndarray], labels: np.ndarray, pad_id: int, places: Sequence[int]
) -> np.ndarray:
    """The L2 norm of the gradient of a review's loss with respect to the embedding of one of its words: float64 [P].

    Mean over readers, which are in evaluation mode, and over reviews, of which each has a word at each of the `places`,
    counted from the end: 1 is the last. No gradient of a weight is touched.
    """
    found = []
    for reader in readers:
        assert isinstance(reader, Reader | Started)
        where = next(reader.parameters()).device
        for some, ids, lengths in padded_batches(rows, 100, pad_id):
            ids, lengths = ids.to(where), lengths.to(where)
            shift = torch.zeros(*ids.shape, reader.size, device=where, requires_grad=True)
            loss = surprise(reader(ids, lengths, shift=shift), torch.from_numpy(labels[some]).to(where))
            [gradient] = torch.autograd.grad(loss, shift)
            at = lengths[:, None] - torch.tensor(places, device=where)
            found.append(gradient.norm(dim=2).gather(1, at).cpu().numpy())
    averaged: np.ndarray = np.concatenate(found).astype(np.float64).mean(0)
    return averaged


def picture(places: Sequence[int], norms: np.ndarray, reviews: int) -> Image.Image:
    """Both axes logarithmic, with the last word on the right: where the line falls, the network forgets."""
    canvas, (axes,) = blank(8, 4.5)
    axes.plot(places, np.where(norms > 0, norms, np.nan), "o-", color="0.0", markersize=4)
    axes.set_xscale("log", base=2)
    if (highest := norms.max()) > 0:
        axes.set_yscale("log")
        axes.set_ylim(min(norms[norms > 0].min(), highest / 100) / 2, 2 * highest)  # what is level should look so
    axes.set_xticks(places, list(map(str, places)))
    axes.invert_xaxis()
    axes.set(
        xlabel="place of the word, counted from the end of the review (1: the last)",
        ylabel="L2 norm of the gradient\nwith respect to its embedding",
    )
    axes.set_title(f"Mean over {reviews} validation reviews that have all of these places", fontsize=10)
    axes.grid(alpha=0.25)
    return drawn(canvas)
