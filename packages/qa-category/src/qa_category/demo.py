"""What `qa-category demo` shows: the category of a question as it is typed, and the words that the answer rests on."""

import torch

from etude.demo.influence import influence, log_odds
from etude.demo.page import NOTHING, Answer, Bars, Demo, Influence, Panel, Text, likeliest, sure
from etude.errors import UserError
from etude.language.task import Writer
from etude.text.lines import clean
from qa_category.task import Predictor
from qa_category.words import UNK

LIKELIEST = 8
EXAMPLES = {
    "trec": ("Who wrote Hamlet?", "How far is the moon?", "What does NASA stand for?"),
    "sample": (
        "Does the guitar come with strings?",
        "Is it safe for my dog?",
        "Can I put this pan in the oven?",
    ),
}


def demo(task: Predictor | Writer) -> Demo:
    if isinstance(task, Writer):
        raise UserError("this run is a language model, which knows no categories: give that of a classifier")
    categories = len(task.categories)

    def answer(question: str) -> Answer:
        text = " ".join(clean(question).split())  # as `predict` reads a line
        if not text:
            return NOTHING
        (row,) = task.encode([text])
        said = task.probabilities([row])[0]
        bars = likeliest(said, task.categories, LIKELIEST)
        ids = torch.from_numpy(row)[None].to(next(task.model.parameters()).device)
        lengths = torch.tensor([len(row)], device=ids.device)
        first = task.categories.index(bars[0][0])
        weights = influence(
            lambda shift: log_odds(task.model(ids, lengths, shift=shift)[0], first), task.model.embedding(ids)
        )
        words = task.split(text)[: len(row)]
        note = "An estimate, gradient × input: to first order, the log-odds would lose so much without the word."
        unknown = [n for n, id in enumerate(row.tolist()) if id == UNK and n < len(words)]
        pieces = list(zip(words, weights, strict=False))
        shown = Influence("Which words mattered", pieces, bars[0][0], note, unknown=unknown)
        title = f"The likeliest {len(bars)} of {categories} categories"
        return Answer(bars[0][0], [Bars(title, bars), shown], sure(bars[0][1], task.blind(text, row)))

    examples = EXAMPLES.get(task.config.data.name, ())
    text = Text("question", "A question, in English", examples[0] if examples else "", 500, 2, examples)
    return Demo(
        "What is the question about?",
        "Type a question: the model answers at every word.",
        [Panel("Question", [text], answer)],
        f"The model knows {categories} categories and always names one of them, whatever is asked.",
    )
