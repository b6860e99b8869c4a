"""What `imdb-rnn demo` shows: praise or blame as a review is typed, and the words that the answer rests on."""

from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from etude.demo.influence import influence
from etude.demo.page import NOTHING, Answer, Bars, Demo, Influence, Lines, Panel, Text, sure
from etude.errors import UserError
from etude.language.task import Writer
from etude.text.lines import clean
from etude.text.tokenizer import split
from imdb_rnn.data import unquoted
from imdb_rnn.reading import encode, prepared
from imdb_rnn.task import Predictor

LONGEST = 5_000  # characters
EXAMPLES = (
    "A wonderful film, moving and funny, and the actors are superb.",
    "I wanted to like it, but the plot is dull and the acting is awful.",
    "Not bad at all, though the ending could have been better.",
)


def demo(task: Predictor | Writer) -> Demo:
    if isinstance(task, Writer):
        raise UserError("this run is a language model, which says neither praise nor blame: give that of a classifier")

    def answer(review: str) -> Answer:
        line = unquoted(clean(" ".join(review.splitlines())))
        if not line.strip():
            return NOTHING
        (row,) = encode([line], task.tokenizer, task.config.text)
        odds = float(task.odds([row])[0])
        praise = float(torch.tensor(odds, dtype=torch.float64).sigmoid())
        named = "praise" if odds > 0 else "blame"
        bars = sorted([("praise", praise), ("blame", 1 - praise)], key=lambda bar: -bar[1])
        doubt = sure(max(praise, 1 - praise), blind=not task.words[row].any())
        # What each word speaks for takes twice as long as the answer: the way there once more, and back.
        return Answer(named, [Bars("Probability", bars)], doubt, later=partial(reasons, task, line))

    text = Text("review", "A film review, in English", EXAMPLES[0], LONGEST, lines=5, examples=EXAMPLES)
    return Demo(
        "Is it praise or blame?",
        "Type a review of a film: the model answers at every word.",
        [Panel("Review", [text], answer)],
        "The model knows nothing but praise and blame, so that a text that is neither, or no review at all, is one of "
        "them to it, too.",
    )


def reasons(task: Predictor, line: str) -> list[Influence | Lines]:
    """The words that the answer of the readers, or else of the n-grams, rests on; and what each part says."""
    model, where = task.model, task.model.share.device
    ids = torch.from_numpy(encode([line], task.tokenizer, task.config.text)[0])[None].to(where)
    lengths = torch.tensor([ids.shape[1]], device=where)
    missing = words(task, line, [float(id == task.tokenizer.unk_id) for id in ids[0].tolist()])
    unknown = [n for n, (_, lacks) in enumerate(missing) if lacks]
    shares = model.share[len(model.share) - len(model.readers) :].tolist()
    readers: list[tuple[float, Any]] = list(zip(shares, model.readers, strict=True))

    def odds(share: float, reader: Any, shift: Tensor | None = None) -> Tensor:
        return share * reader(ids, lengths, shift=shift)[0]

    if readers:
        parts = [influence(partial(odds, *one), one[1].embedding(ids)) for one in readers]
        weights = [sum(some) for some in zip(*parts, strict=True)]
        note = "An estimate, gradient × input: to first order, the log-odds would lose so much without the word."
    else:
        assert model.linear is not None
        with torch.inference_mode():
            weights, bias = model.linear.shares(ids).tolist(), float(model.linear.bias)
        note = (
            f"Exact: with {bias:+.2f}, which is always there, they add up to the log-odds of praise. What words say "
            "only together is shared out equally among them."
        )
    found: list[Influence | Lines] = [
        Influence("Which words mattered", words(task, line, weights), "praise", note, unknown=unknown)
    ]
    if model.linear is not None and readers:
        with torch.inference_mode():
            said = {"n-grams": model.linear(ids, lengths)[0], "the network": sum(odds(*one) for one in readers)}
        note = "Added up, they decide. The words above are the network's reasons alone."
        found.append(Lines("Log-odds of praise", [(name, f"{float(x):+.2f}") for name, x in said.items()], note))
    return found


def words(task: Predictor, line: str, weights: list[float]) -> list[tuple[str, float]]:
    """The words of a review as they are read, each with the sum of its tokens' weights; "…" for what is left out."""
    (text,) = prepared([line], task.config.text)
    plain, most = split(text.lower() if task.tokenizer.lowercase else text), task.config.text.max_length
    owners = task.tokenizer(text, add_special_tokens=False).word_ids()
    tail = most // 2
    kept = owners if len(owners) <= most else [*owners[: most - tail], None, *owners[len(owners) - tail :]]
    if len(kept) > len(owners[:most]):
        weights = [*weights[: most - tail], 0.0, *weights[most - tail :]]
    pairs = groupby(zip(kept, weights, strict=False), key=lambda pair: pair[0])
    return [("…" if n is None else plain[n].strip(), sum(x for _, x in some)) for n, some in pairs]
