"""lstm-pos beside its peers, on the same parts and on other files: packages/lstm-pos/results/taggers.csv.

    ETUDE_DATA=... python benchmarks/tags.py peers --data nerus --seeds 0 1 2 3 4 --files FILE.conllu ...
    ETUDE_DATA=... python benchmarks/tags.py seen --data nerus # into seen.csv
    ETUDE_DATA=... python benchmarks/tags.py pieces RUN ...    # into pieces.csv
    ETUDE_DATA=... python benchmarks/tags.py runs --command "lstm-pos train best" RUN ... --files FILE.conllu ...
    python benchmarks/tags.py # prints the tables

Peers, learnt from the training part that the same seed draws: the most frequent tag of each word (of a word that
training has not, that of the words that it has once); and a conditional random field (Lafferty et al. 2001) on words,
endings and shapes, without and with what the dictionary OpenCorpora says of each word: L-BFGS, 100 iterations, c1 0.1,
c2 0.05 (sklearn-crfsuite), not tuned. Known exactly: what no function of the word alone exceeds on a whole file, even
one that has read its tags.

`seen`: how many words of the test part training has so often, and of how many of these the tag is the one that is most
frequent there; `rare`: those that are known, but not among the 3,000 most frequent.

`pieces`: of runs that differ in how words are cut, how often the tag of a word of the test part is the one that its
last piece, by which the network tags it (`text.label last`), has most often in training: of words that training has,
and of those that it has not; into how many pieces they are cut, and how often no word of training ends in that piece.
The class of an unknown word is its piece.

A line says of a model, the file that it was trained on, and a seed, its accuracy on a part or on another file. With
--data, or `lstm-pos train --data`, the path of a file takes the place of nerus.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import sklearn_crfsuite
import yaml
from rows import Row, put, rows, told, write

from etude.train import checkpoint
from etude.train.run import read_config
from lstm_pos import data
from lstm_pos.config import Config
from lstm_pos.data import Corpus
from lstm_pos.forms import SHAPES, Dictionary, shape
from lstm_pos.task import Learnt

FILE = Path(__file__).parents[1] / "packages/lstm-pos/results/taggers.csv"
ALONE = "any function of the word alone, exact"
BEST = "lstm-pos train best"
HELD = 0.02  # the part of the documents that it and "held-out 0.02" test on; others the default
Sentence = tuple[list[str], list[str]]
Tagger = Callable[[Sequence[str]], Sequence[str]]


def most_frequent(sentences: Iterable[Sentence]) -> Tagger:
    """The most frequent tag of each form."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for words, tags in sentences:
        for word, tag in zip(words, tags, strict=True):
            counts[word][tag] += 1
    rare: Counter[str] = Counter()
    for count in counts.values():
        if count.total() == 1:
            rare += count
    unknown = Counter({(rare or sum(counts.values(), Counter())).most_common(1)[0][0]: 1})
    return lambda words: [counts.get(word, unknown).most_common(1)[0][0] for word in words]


@cache
def grammemes(form: str) -> tuple[str, ...]:
    """What the dictionary holds possible for a form, with a tenth of the probability or more."""
    known = installed()
    return tuple(known.grammemes[n] for n in np.flatnonzero(known.look_up(form) >= 0.1))


@cache
def installed() -> Dictionary:
    return Dictionary.installed()


def features(words: Sequence[str], dictionary: bool) -> list[dict[str, str | bool]]:
    """Of every word its form, shape, endings and beginnings, and the forms and endings two words around it."""
    found = []
    for i, word in enumerate(words):
        lower = word.lower()
        row: dict[str, str | bool] = {"word": lower, "shape": SHAPES[shape(word)], "first": i == 0}
        row |= {f"ending {n}": lower[-n:] for n in (1, 2, 3, 4)} | {f"beginning {n}": lower[:n] for n in (1, 2, 3)}
        for away in (-2, -1, 1, 2):
            if 0 <= i + away < len(words):
                other = words[i + away].lower()
                row |= {f"{away} word": other, f"{away} ending 3": other[-3:], f"{away} ending 2": other[-2:]}
                if dictionary and abs(away) == 1:
                    row |= {f"{away} {grammeme}": True for grammeme in grammemes(words[i + away])}
            else:
                row[f"{away} edge"] = True
        if dictionary:
            row |= dict.fromkeys(grammemes(word), True)
        found.append(row)
    return found


def field(sentences: Iterable[Sentence], dictionary: bool = False) -> Tagger:
    """A conditional random field."""
    words, tags = zip(*sentences, strict=True)
    crf = sklearn_crfsuite.CRF(c1=0.1, c2=0.05, max_iterations=100, all_possible_transitions=True)
    crf.fit([features(sentence, dictionary) for sentence in words], tags)
    return lambda sentence: crf.predict_single(features(sentence, dictionary))


PEERS: dict[str, Callable[[Iterable[Sentence]], Tagger]] = {
    "most frequent tag of the word": most_frequent,
    "CRF": field,
    "CRF and dictionary": lambda sentences: field(sentences, dictionary=True),
}


def of(corpus: Corpus, numbers: Iterable[int] | None = None) -> list[Sentence]:
    return [corpus.sentence(int(n)) for n in (range(len(corpus.sentences) - 1) if numbers is None else numbers)]


def accuracy(tagger: Tagger, sentences: Iterable[Sentence]) -> float:
    right = [a == b for words, tags in sentences for a, b in zip(tagger(words), tags, strict=True)]
    return mean(right)


def stem(file: str | Path) -> str:
    return Path(file).name.partition(".")[0]


def peers(name: str, seeds: Iterable[int], held_out: float, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """A line for each peer, seed, and part or file."""
    corpus = data.read(name)
    others = {stem(file): of(data.read(str(file))) for file in files}
    made = {"trained_on": stem(name)}
    for part, sentences in {"whole file": of(corpus), **others}.items():
        yield {
            "model": ALONE,
            **made,
            "seed": "",
            "part": part,
            "accuracy": accuracy(most_frequent(sentences), sentences),
        }
    for seed in seeds:
        parts = data.divided(name, corpus, seed, held_out)
        for peer, train in PEERS.items():
            model = f"{peer}, held-out {held_out:g}" if held_out != 0.1 else peer
            tagger = train(of(corpus, parts.train))
            scored = {"valid": of(corpus, parts.valid), "test": of(corpus, parts.test), **others}
            for part, sentences in scored.items():
                yield {"model": model, **made, "seed": seed, "part": part, "accuracy": accuracy(tagger, sentences)}


def runs(command: str, folders: Iterable[Path], files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """A line for each finished run, and part or file; `evaluate` is asked for what it scores."""
    for folder in folders:
        config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
        valid = json.loads((folder / "result.json").read_text("utf-8"))["valid"]["accuracy"]
        made = {"model": command, "trained_on": stem(config["data"]["name"]), "seed": config["fit"]["seed"]}
        yield {**made, "part": "valid", "accuracy": valid}
        for part, flags in {"test": [], **{stem(file): ["--data", str(file)] for file in files}}.items():
            asked = [sys.executable, "-m", "lstm_pos", "evaluate", str(folder), *flags]
            said = json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            yield {**made, "part": part, "accuracy": said["accuracy"], "unseen_accuracy": said["unseen_accuracy"]}


def seen(name: str, seeds: Iterable[int]) -> Iterator[dict[str, Any]]:
    """A line for each seed and number of times."""
    corpus = data.read(name)
    for seed in seeds:
        parts = data.divided(name, corpus, seed, 0.1)
        train = of(corpus, parts.train)
        tagger, counts = most_frequent(train), Counter(word for words, _ in train for word in words)
        frequent = {word for word, _ in counts.most_common(3000)}
        right: defaultdict[str, list[bool]] = defaultdict(list)
        for words, tags in of(corpus, parts.test):
            for word, said, tag in zip(words, tagger(words), tags, strict=True):
                kind = {0: "none", 1: "once"}.get(counts[word], "more often")
                right[kind].append(said == tag)
                if counts[word] and word not in frequent:
                    right["rare"].append(said == tag)
        for times, values in right.items():
            yield {"seed": seed, "times": times, "words": len(values), "most_frequent_tag": round(mean(values), 6)}


def last_pieces(folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """A line for each run, and whether training has the words."""
    for folder in folders:
        config = read_config(folder, Config)
        encoder = Learnt.restore(config, checkpoint.read(folder)["assets"]).encoder
        corpus = data.first(data.read(config.data.name), config.data.documents)
        parts = data.divided(config.data.name, corpus, config.fit.seed, config.data.held_out)
        train = of(corpus, parts.train)
        known = {word for words, _ in train for word in words}

        ends = [([str(row[-1]) for row in encoder.cutter.pieces(words)], tags) for words, tags in train]
        tagger, learnt = most_frequent(ends), {end for row, _ in ends for end in row}
        found: defaultdict[bool, list[tuple[bool, bool, int]]] = defaultdict(list)
        for words, tags in of(corpus, parts.test):
            pieces = encoder.cutter.pieces(words)
            last = [str(row[-1]) for row in pieces]
            for word, row, end, said, tag in zip(words, pieces, last, tagger(last), tags, strict=True):
                found[word in known].append((said == tag, end not in learnt, len(row)))
        for seen_, values in found.items():
            right, new, counts = zip(*values, strict=True)
            yield {
                "tokenizer": encoder.cutter.kind,
                "vocabulary": config.text.vocabulary,  # that was asked for
                "there": encoder.cutter.vocab_size,
                "seed": config.fit.seed,
                "seen": seen_,
                "words": len(values),
                "pieces": round(mean(counts), 6),
                "new_last_piece": round(mean(new), 6),
                "most_frequent_tag": round(mean(right), 6),
            }


def table(lines: list[Row], trained_on: str, *parts: str) -> list[str]:
    """A line for each model that was trained on a file, a column for each part; the last part orders them."""
    some = [line for line in lines if line["trained_on"] == trained_on]
    made = []
    for model in dict.fromkeys(line["model"] for line in some):
        own = [line for line in some if line["model"] == model]
        scores = [[float(line["accuracy"]) for line in own if line["part"] == part] for part in parts]
        name = f"`{model}`" if model.startswith("lstm-pos") else model
        seeds = len({line["seed"] for line in own} - {""}) or ""
        if any(scores):
            held = HELD if model == BEST or f"held-out {HELD}" in model else Config().data.held_out
            shared = [held / (1 - 2 * held) if part in ("valid", "test") else 0.0 for part in parts]
            cells = [told(x, 100, 2, " %", of) if x else "" for x, of in zip(scores, shared, strict=True)]
            made.append((mean(scores[-1]), f"| {name} | {seeds} | {' | '.join(cells)} |"))
    head = [
        f"| tagger | seeds | {' | '.join(part.replace('_', ' ') for part in parts)} |",
        "|---|---:|" + "---:|" * len(parts),
    ]
    return head + [line for _, line in sorted(made)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind")
    one = kinds.add_parser("peers")
    three = kinds.add_parser("seen")
    for kind, seeds in ((one, 5), (three, 10)):
        kind.add_argument("--data", default="nerus")
        kind.add_argument("--seeds", type=int, nargs="+", default=[*range(seeds)])
    one.add_argument("--held-out", type=float, default=0.1, help="as --data.held-out of lstm-pos, which has the same")
    four = kinds.add_parser("pieces")
    four.add_argument("runs", nargs="+", type=Path)
    two = kinds.add_parser("runs")
    two.add_argument("--command", required=True, help="that made the runs, as one types it")
    two.add_argument("runs", nargs="+", type=Path)
    for kind in (one, two):
        kind.add_argument("--files", nargs="*", default=[], type=Path, help="gold files that were not trained on")
    given = parser.parse_args()
    if given.kind == "seen":
        write(FILE.with_name("seen.csv"), seen(given.data, given.seeds))
        return
    if given.kind == "pieces":
        write(FILE.with_name("pieces.csv"), last_pieces(given.runs))
        return
    if given.kind:
        found = [
            *(peers(given.data, given.seeds, given.held_out, given.files) if given.kind == "peers" else ()),
            *(runs(given.command, given.runs, given.files) if given.kind == "runs" else ()),
        ]
        new = [{**line, **{key: round(x, 6) for key, x in line.items() if isinstance(x, float)}} for line in found]
        put(FILE, new, "model", "trained_on")
    known = rows(FILE)
    for name in dict.fromkeys(line["trained_on"] for line in known):
        parts = dict.fromkeys(line["part"] for line in known if line["trained_on"] == name and line["seed"])
        print(f"trained on {name}", *table(known, name, *parts), "", sep="\n")


if __name__ == "__main__":
    main()
