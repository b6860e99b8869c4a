"""What `names-rnn demo` shows: the languages of a name as it is typed, and the letters that the answer rests on."""

import torch
from torch import Tensor
from torch.nn import functional as F

from etude.demo.influence import influence, log_odds
from etude.demo.page import NOTHING, Answer, Bars, Demo, Influence, Panel, Text, likeliest, sure
from names_rnn.task import Predictor

LIKELIEST = 8
EXAMPLES = {"names": ("Satoshi", "Ivanov", "O'Neill", "Schmidt", "Rossi")}


def demo(task: Predictor) -> Demo:
    languages = len(task.languages)

    def answer(name: str) -> Answer:
        if not name.strip():
            return NOTHING
        seen = task.read([name])[0]
        said = task.probabilities([seen])[0]
        bars = likeliest(said, task.languages, LIKELIEST)
        first = task.languages.index(bars[0][0])
        weights = letters(task, seen, first)
        note = "An estimate, gradient × input: to first order, the log-odds would lose so much without the letter."
        if task.model.ngrams is not None:
            note += " Of the network's part only; the n-grams beside it are not shown."
        shown = Influence(
            "Which letters mattered", list(zip(seen, weights, strict=True)), bars[0][0], note, joined=True
        )
        read = "" if seen == name.strip() else f"read as {seen}"
        new = task.new_pairs(seen)
        doubt = f"no name that it learnt from has {' or '.join(new)}" if new else ""
        capitals = f"few names that it learnt from are in capitals: try {seen.title()}" if task.unusual(seen) else ""
        told = ", ".join(filter(None, [sure(bars[0][1]), doubt, read, capitals]))
        return Answer(bars[0][0], [Bars(f"The likeliest {len(bars)} of {languages} languages", bars), shown], told)

    examples = EXAMPLES.get(task.config.data.name, ())
    invented = " invented" if task.config.data.name == "sample" else ""
    return Demo(
        "Which language is this name from?",
        "Type a surname: the network answers at every letter.",
        [Panel("Name", [Text("name", "A surname", start(task), 60, examples=examples)], answer)],
        f"The network knows {languages}{invented} languages and always names one of them.",
    )


def start(task: Predictor) -> str:
    """A first name to show, in letters that the model knows."""
    return "Satoshi" if task.config.data.name == "names" else "Tanemori"


def letters(task: Predictor, seen: str, language: int) -> list[float]:
    """How much each letter of a name, as it is read, speaks for a language: [T]."""
    model, where = task.model, next(task.model.parameters()).device
    ids = torch.from_numpy(task.alphabet.encode([seen])[0])[None].to(where)
    lengths = torch.tensor([len(seen)], device=where)

    def ask(shift: Tensor) -> Tensor:
        return log_odds(model.output(model.vector(ids, lengths, shift))[0], language)

    return influence(ask, F.embedding(ids, model.letters))
