"""How near captions come to those of people: the official scorers, behind a tokenizer that needs no Java.

BLEU (Papineni et al. 2002), ROUGE-L (Lin 2004) and CIDEr-D (Vedantam et al. 2015) are pycocoevalcap's own; what is done
here is to give them tokens, see `coco_caption.words`. METEOR and SPICE are Java programs.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

References = Sequence[Sequence[str]]  # of each image some captions, as tokens parted by spaces


def scores(references: References, told: Sequence[str]) -> dict[str, float]:
    """bleu1..bleu4, rouge_l and cider of one caption for each image, all tokens parted by spaces.

    CIDEr weighs words by how many of *these* images have them, so scores of different parts do not compare.
    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    truth, answers = numbered(references, told)
    bleu, _ = Bleu(4).compute_score(truth, answers, verbose=0)
    found = {f"bleu{n}": float(value) for n, value in enumerate(bleu, 1)}
    found["rouge_l"] = float(Rouge().compute_score(truth, answers)[0])
    found["cider"] = float(Cider().compute_score(truth, answers)[0])
    return found


def scores_of(references: References, told: Sequence[str], parts: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """The same scores of each of some parts of the images, given by their numbers; what is costly is done once.

    CIDEr's weights of words stay those of all images.
    """
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    truth, answers = numbered(references, told)
    scorer = BleuScorer(n=4)
    for n, captions in truth.items():
        scorer += (answers[n][0], captions)
    counts = scorer.ctest
    bleu = []
    for part in parts:
        scorer.ctest, scorer._score = [counts[n] for n in part], None
        bleu.append(scorer.compute_score("closest")[0])
    found = {f"bleu{n}": [float(of[n - 1]) for of in bleu] for n in range(1, 5)}
    for name, each in (("rouge_l", Rouge()), ("cider", Cider())):
        values = each.compute_score(truth, answers)[1]
        found[name] = [float(values[part].mean()) for part in parts]
    return found


def numbered(references: References, told: Sequence[str]) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """What the scorers ask for."""
    truth = {n: list(captions) for n, captions in enumerate(references)}
    return truth, {n: [caption] for n, caption in enumerate(told)}


def java_scores(references: References, told: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """meteor and spice, as far as they can be had here; and a line for each that cannot, with the reason."""
    if not java():
        return {}, ["METEOR and SPICE are left out: there is no Java here"]
    found, missing = {}, []
    for name, scorer in (("meteor", meteor), ("spice", spice)):
        try:
            found[name] = scorer(*numbered(references, told))
        except (OSError, ValueError, AssertionError, subprocess.SubprocessError) as error:
            missing.append(f"{name.upper()} is left out: {' '.join(str(error).split()) or type(error).__name__}")
    return found, missing


def java() -> bool:
    return shutil.which("java") is not None


def meteor(truth: dict[int, list[str]], answers: dict[int, list[str]]) -> float:
    """METEOR 1.5 (Denkowski & Lavie 2014)."""
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    try:
        return float(scorer.compute_score(truth, answers)[0])
    finally:
        if scorer.lock.locked():  # after an error it is not given back, and its destructor would wait for ever
            scorer.lock.release()
        process = scorer.meteor_p
        for pipe in (process.stdin, process.stdout, process.stderr):
            with suppress(OSError):  # what was not written yet can no longer be
                pipe.close()
        process.kill()
        process.wait()


def spice(truth: dict[int, list[str]], answers: dict[int, list[str]]) -> float:
    """SPICE (Anderson et al. 2016). Raises OSError if the models that it parses with are not there: they are 500 MB."""
    from pycocoevalcap import spice as package

    folder = Path(str(package.__path__[0]))
    if not (folder / "lib" / "stanford-corenlp-3.6.0-models.jar").exists():
        fetch = f"{Path(sys.executable).name} -m pycocoevalcap.spice.get_stanford_models"
        raise OSError(f"its models are not there; {fetch} fetches them")
    from pycocoevalcap.spice.spice import Spice

    scorer: Any = Spice()
    return float(np.mean([each["All"]["f"] for each in scorer.compute_score(truth, answers)[1]]))
