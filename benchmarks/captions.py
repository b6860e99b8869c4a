"""coco-caption against its peers; all sides here.

    python benchmarks/captions.py peers --data FOLDER ...   # quality, without an LSTM: results/peers.csv
    python benchmarks/captions.py speed --data FOLDER       # time of an epoch, in turns
    python benchmarks/captions.py                           # prints the table of the README

retrieval: of each image of the test part the first caption of the training image whose features are nearest (cosine).
It needs no training, so what an LSTM is worth is what it is better than this. people: each of an image's captions
against its other ones, the mean over all of them: what somebody gets who has seen the image. They are held against one
reference less than the others are, which costs them a little.

speed: the usual tutorial's training step reads, preprocesses and encodes the image of every caption with ResNet-152 and
trains the decoder on what it sees; ours reads features that were computed once. Both train the same decoder, in turns,
on the same captions. ResNet-152 has random weights: they do not matter for the time it takes. It is the time of the
processor, so that other work on the machine does not count; give it OMP_NUM_THREADS=1.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rows import Row, rows, write
from torch.nn import functional as F

from coco_caption import data, images, metrics
from coco_caption.config import Config
from coco_caption.encoder import Encoder
from coco_caption.features import features
from coco_caption.task import Captioning, make
from coco_caption.words import words
from etude import config as configs
from etude.train import optim
from etude.train.task import summary

CPU = torch.device("cpu")
PEERS = Path(__file__).parents[1] / "packages/coco-caption/results/peers.csv"
SHOWN = ("cider", "bleu1", "bleu4", "rouge_l")


def peers(flags: list[str]) -> Iterator[dict[str, Any]]:
    """Scores of the test part by retrieval, for which no training image is held out, and of people."""
    cfg = configs.parse(Config, flags)
    dataset = data.load(cfg.data, 0)
    train = [*dataset.train, *dataset.valid]
    encoder = Encoder(*cfg.network(), None, CPU)
    known, new = (features([image.file for image in part], encoder, False) for part in (train, dataset.test))
    sides = [F.normalize(part[np.arange(len(part.rows))].float(), dim=1) for part in (new, known)]
    nearest = (sides[0] @ sides[1].T).argmax(1).tolist()
    told = [" ".join(words(train[n].captions[0])) for n in nearest]
    references = [[" ".join(words(caption)) for caption in image.captions] for image in dataset.test]
    made = {"data": Path(cfg.data.name).name, "images": len(references)}
    scored = metrics.scores(references, told)
    yield {"peer": "retrieval", "encoder": cfg.network()[0], **made, **{k: round(x, 6) for k, x in scored.items()}}
    of_people = []
    for n in range(min(map(len, references))):
        others = [[*captions[:n], *captions[n + 1 :]] for captions in references]
        of_people.append(metrics.scores(others, [captions[n] for captions in references]))
    scored = {name: round(fmean(one[name] for one in of_people), 6) for name in scored}
    yield {"peer": "people", "encoder": "", **made, **scored}


def table(known: list[Row], runs: list[Row]) -> list[str]:
    """A line for each peer and each command: test part, mean over seeds and, of CIDEr-D, what each seed has."""
    lines = [
        "| | seeds | CIDEr-D | BLEU-1 | BLEU-4 | ROUGE-L | by seed, CIDEr-D |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for line in sorted(known, key=lambda line: float(line["cider"])):
        name = "people" if line["peer"] == "people" else f"{line['peer']}, {line['encoder']}"
        lines.append(f"| {name} | | {' | '.join(f'{float(line[score]):.3f}' for score in SHOWN)} | |")
    for command in dict.fromkeys(run["command"] for run in runs):
        some = [run for run in runs if run["command"] == command]
        means = (fmean(float(run[f"test_{score}"]) for run in some) for score in SHOWN)
        told = " | ".join(f"{value:.3f}" for value in means)
        seeds = ", ".join(f"{float(run['test_cider']):.3f}" for run in some)
        lines.append(f"| `{command}` | {len(some)} | {told} | {seeds} |")
    return lines


def speed(flags: list[str], rounds: int, count: int) -> None:
    """Seconds of the processor for a training step, both ways, and for the first pass."""
    with tempfile.TemporaryDirectory() as cache:
        flags = ["--encoder.backbone", "resnet152", "--encoder.weights", "random", "--encoder.cache", cache, *flags]
        cfg = configs.parse(Config, ["--data.images", str(count), *flags])
        began = time.process_time()
        task = make(cfg, CPU)
        assert isinstance(task, Captioning)
        first = (time.process_time() - began) / count
        print(f"{task.data}\n{summary(task)}")
        print(f"first pass, once: {first:.2f} s an image, {first * 1e5 / 3600:.0f} h for 100,000")
        optimizer = optim.optimizer(cfg.fit, task.model)
        task.model.train()
        plan = [ids for epoch in range(1, 99) for ids in task.plan("train", epoch, cfg.fit.batch_size)][:rounds]
        seconds: dict[str, list[float]] = {"kept": [], "encoding": [], "again": []}
        for ids in [plan[0], *plan]:
            for side in ("kept", "encoding") if seconds["kept"] else ("kept",):  # the first step of all is a warm-up
                began = time.process_time()
                batch = task.load("train", ids, 1)
                if side == "encoding":
                    files = [task.parts["train"][int(n)].file for n in batch.numbers]
                    seen = [task.encoder.preprocess(images.read(file)) for file in files]
                    batch = batch._replace(features=task.encoder(seen, task.spatial))
                    seconds["again"].append(time.process_time() - began)
                total, n = task.step(batch)["loss"]
                optimizer.zero_grad()
                (total / n).backward()
                optimizer.step()
                seconds[side].append(time.process_time() - began)
        del seconds["kept"][0]
        kept, encoding, again = (float(np.median(seconds[name])) for name in ("kept", "encoding", "again"))
        once = kept + again / 5
        print(f"a step of {np.mean([len(ids) for ids in plan]):.0f} captions, median of {rounds}, in turns:")
        print(
            f"  features kept {kept:.3f} s; every caption's image encoded {encoding:.1f} s: {encoding / kept:.0f} times"
        )
        print(f"  if each image were encoded once for its five captions {once:.1f} s: {once / kept:.0f} times")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["peers", "speed"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=80)
    given, rest = parser.parse_known_args()
    if given.what == "speed":
        speed(rest, given.rounds, given.images)
    else:
        if given.what == "peers":
            found = {(line["peer"], line["encoder"]): line for line in rows(PEERS)} if PEERS.is_file() else {}
            PEERS.parent.mkdir(exist_ok=True)
            write(PEERS, (found | {(line["peer"], line["encoder"]): line for line in peers(rest)}).values())
        runs = PEERS.with_name("runs.csv")
        print(*table(rows(PEERS), rows(runs) if runs.is_file() else []), sep="\n")
