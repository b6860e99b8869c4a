"""What `predict` is given: texts and files -> sentences and their words."""

import os
import re
from collections.abc import Iterator

from etude.errors import UserError
from etude.text.lines import clean, lines, spans
from lstm_pos import data

# What is meant as a file, also where there is none.
FILE = re.compile(r".*\.(txt|csv|tsv)|(?!\w+://)\S*[/\\]\S*\.[A-Za-z0-9]{1,6}", re.IGNORECASE)


def is_conllu(given: str) -> bool:
    """Whether an input of `predict` is the name of a CoNLL-U file."""
    return given.endswith((".conllu", ".conllu.gz"))


def sentences_of(given: str) -> list[tuple[str, list[str]]]:
    """The sentences of an input of `predict` and their words, cut as those of NERUS were. Raises UserError."""
    if is_conllu(given):
        try:
            with open(given, "rb") as file:
                corpus = data.read_here(given, file, tagged=False)
        except OSError as error:
            raise UserError(f"{given} cannot be read ({error.strerror}); give a CoNLL-U file") from error
        cut = [corpus.sentence(n)[0] for n in range(len(corpus.sentences) - 1)]
        return [(" ".join(words), words) for words in cut]
    if given == "-":
        name, every = "standard input", lines("-", "give a text or a file", as_written=True)
    elif FILE.fullmatch(given) and not os.path.isfile(given):
        raise UserError(f"there is no file {given}; give a text, a file, or - for standard input")
    elif os.path.isfile(given):  # not Path.is_file, which fails for a text too long to be a name
        name, every = given, lines(given, "give another file", as_written=True)
    elif not given.isascii() and any("\ud800" <= character <= "\udfff" for character in given):
        raise UserError(f"{given!r} is not UTF-8; give the text in UTF-8")
    else:
        name, every = repr(given), iter([given])
    found = [sentence for some in every for line in some.splitlines() for sentence in sentences_in(line)]
    if not found:
        raise UserError(f"there is no word in {name}; give a text, a file, or - for standard input")
    return found


def sentences_in(line: str) -> Iterator[tuple[str, list[str]]]:
    """The sentences of a line and their words, as they are written, but cut where their clean form would be."""
    from razdel import sentenize, tokenize

    plain = clean(line)
    places = spans(line) if plain != line else [(n, n + 1) for n in range(len(line))]
    for sentence in sentenize(plain):
        cuts = [(sentence.start + word.start, sentence.start + word.stop) for word in tokenize(sentence.text)]
        words = [line[places[start][0] : places[stop - 1][1]] for start, stop in cuts]
        if words:
            yield line[places[sentence.start][0] : places[sentence.stop - 1][1]], words
