"""What `text-ae demo` shows: a text restored from its latent alone, and the way from one text to another."""

import torch

from etude.demo.page import NOTHING, Answer, Demo, Lines, Panel, Text
from etude.text.lines import clean
from text_ae import data
from text_ae.task import STEPS, Predictor, encode

LONGEST = 500  # characters
EXAMPLES = ("i love this song so much", "see you tomorrow at the park", "cant sleep, it is too hot in here")
OF_SAMPLE = ("Feeling calm today", "I love London in the spring", "now I am quite angry")  # as it writes them


def demo(task: Predictor) -> Demo:
    numbers = task.config.model.latent
    examples = OF_SAMPLE if task.config.data.name == "sample" else EXAMPLES

    def restored(text: str) -> Answer:
        """As `predict` does it."""
        (row,), note = rows(task, text)
        if not row:
            return NOTHING
        (found,) = task.said(task.encode([row]))
        said, read = (one_line(text) for text in task.decode([found, row]))
        same, of = sum(a == b for a, b in zip(found, row, strict=False)), max(len(found), len(row))
        told = "restored exactly" if said == read else f"{same} of {of} tokens are right"
        told += ", of what was read: the text was cut" if note else ""
        lines = [("read", read), ("restored", said)]
        title = f"Through {numbers:,} numbers and back"
        return Answer(said or "(nothing)", [Lines(title, lines, note)], told)

    def walk(a: str, b: str) -> Answer:
        found, note = rows(task, a, b)
        if not all(found):
            return NOTHING
        latents, parts = task.encode(found), torch.linspace(0, 1, STEPS)
        said = task.decode(task.said(torch.lerp(latents[0], latents[1], parts[:, None])))
        lines = [(f"{part:.0%}", one_line(text)) for part, text in zip(parts.tolist(), said, strict=True)]
        return Answer(lines[STEPS // 2][1] or "(nothing)", [Lines("From one to the other", lines, note)], "half-way")

    limit = f"A text of more than {task.config.text.max_length} tokens is cut."
    return Demo(
        "What is left of a text in one vector?",
        f"Type a short message: it becomes {numbers:,} numbers, and a text again from these alone.",
        [
            Panel("Restore", [Text("text", "A short message", examples[0], LONGEST, 2, examples)], restored),
            Panel(
                "Walk",
                [Text("a", "From", examples[0], LONGEST, 2), Text("b", "To", examples[1], LONGEST, 2)],
                walk,
                "What lies on the line between the vectors of two texts: at 0 and 100 % these two, as restored.",
            ),
        ],
        f"{limit} A token is a word or a piece of one. What the model was not trained on comes back as something like "
        "that which it was.",
    )


def rows(task: Predictor, *texts: str) -> tuple[list[list[int]], str]:
    """Ids of texts as `predict` reads a line, cut to the longest there may be, and a note if one was cut."""
    lines = [clean(" ".join(text.splitlines())) for text in texts]
    if task.config.data.normalise:
        lines = [data.normalised(line) for line in lines]
    most = task.config.text.max_length
    found = [row if line else [] for line, row in zip(lines, encode(lines, task.tokenizer), strict=True)]
    note = f"Cut to its first {most} tokens." if any(len(row) > most for row in found) else ""
    return [row[:most] for row in found], note


def one_line(text: str) -> str:
    return " ".join(text.splitlines()).strip()
