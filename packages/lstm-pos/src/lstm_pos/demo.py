"""What `lstm-pos demo` shows: a text, each word with its part of speech."""

from etude.demo.page import NOTHING, Answer, Demo, Panel, Tagged, Text
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
        words = "1 word" if len(pairs) == 1 else f"{len(pairs)} words"
        return Answer(f"{words} and marks, {cut}", [Tagged("Parts of speech", pairs, meanings)])

    text = Text("text", "A text, in Russian", EXAMPLES[1], 2_000, lines=3, examples=EXAMPLES)
    return Demo(
        "Which part of speech is each word?",
        "Type a Russian text: each word gets its tag from the words around it.",
        [Panel("Text", [text], answer)],
        "A word that was never seen gets a tag, too: from its ending, and from where it stands.",
    )
