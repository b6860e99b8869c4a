"""What `lstm-pos demo` shows: a text, each word with its part of speech."""

import numpy as np

from etude.demo.page import NOTHING, Answer, Demo, Panel, Tagged, Text
from etude.text.fingerprints import fingerprints
from etude.text.lines import clean
from etude.train.device import best_precision
from lstm_pos.inputs import sentences_in
from lstm_pos.task import Predictor

# Universal Dependencies' 17, universaldependencies.org/u/pos
MEANINGS = {
    "NOUN": "noun",
    "VERB": "verb",
    "ADJ": "adjective",
    "ADV": "adverb",
    "PRON": "pronoun",
    "PROPN": "proper noun",
    "DET": "determiner",
    "ADP": "preposition",
    "AUX": "auxiliary verb",
    "CCONJ": "coordinating conjunction",
    "SCONJ": "subordinating conjunction",
    "NUM": "numeral",
    "PART": "particle",
    "INTJ": "interjection",
    "SYM": "symbol",
    "PUNCT": "punctuation",
    "X": "other",
}
EXAMPLES = (
    "Глокая куздра штеко будланула бокра и курдячит бокрёнка.",
    "Мама мыла раму, а папа читал газету.",
    "Три девицы под окном пряли поздно вечерком.",
)


def demo(task: Predictor) -> Demo:
    def answer(text: str) -> Answer:
        """Cut and tagged as `predict` does a text that names no file, which is not looked for here."""
        sentences = [words for line in text.splitlines() for _, words in sentences_in(line)]
        if not sentences:
            return NOTHING
        precision = best_precision(next(task.model.parameters()).device)
        tags = task.tagged(sentences, precision)
        pairs = [pair for words, found in zip(sentences, tags, strict=True) for pair in zip(words, found, strict=True)]
        known = {tag: meaning for tag, meaning in MEANINGS.items() if tag in task.tags}
        meanings = known | {tag: "" for tag in task.tags if tag not in known}
        cut = "1 sentence" if len(sentences) == 1 else f"{len(sentences)} sentences"
        words = "1 word or mark" if len(pairs) == 1 else f"{len(pairs)} words and marks"
        new = int((~np.isin(fingerprints([clean(word) or word for word, _ in pairs]), task.learnt.seen)).sum())
        told = f"{new} of them never seen in training: guessed by spelling and neighbours" if new else ""
        return Answer(f"{words}, {cut}", [Tagged("Parts of speech", pairs, meanings)], told)

    text = Text("text", "A text, in Russian", EXAMPLES[1], 2_000, lines=3, examples=EXAMPLES)
    return Demo(
        "Which part of speech is each word?",
        "Type a Russian text: each word gets its tag from the words around it.",
        [Panel("Text", [text], answer)],
        "A word that was never seen gets a tag, too: from its ending, and from where it stands.",
    )
