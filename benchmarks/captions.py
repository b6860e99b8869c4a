"""coco-caption against its two peers; both sides here, in turns.

    python benchmarks/captions.py retrieval --data FOLDER ...   # quality, without an LSTM
    python benchmarks/captions.py speed --data FOLDER           # time of an epoch

retrieval: of each image of the test part the first caption of the training image whose features are nearest (cosine).
It needs no training, so what an LSTM is worth is what it is better than this.

speed: the usual tutorial's training step reads, preprocesses and encodes the image of every caption with ResNet-152 and
trains the decoder on what it sees; ours reads features that were computed once. Both train the same decoder, in turns,
on the same captions. ResNet-152 has random weights: they do not matter for the time it takes. It is the time of the
processor, so that other work on the machine does not count; give it OMP_NUM_THREADS=1.
"""

import argparse
import tempfile
import time

import numpy as np
import torch
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


def retrieval(flags: list[str]) -> None:
    """Scores of the test part; all training images are asked, none held out."""
    cfg = configs.parse(Config, flags)
    dataset = data.load(cfg.data, 0)
    train = [*dataset.train, *dataset.valid]
    encoder = Encoder(*cfg.network(), None, CPU)
    known, new = (features([image.file for image in part], encoder, False) for part in (train, dataset.test))
    sides = [F.normalize(part[np.arange(len(part.rows))].float(), dim=1) for part in (new, known)]
    nearest = (sides[0] @ sides[1].T).argmax(1).tolist()
    told = [" ".join(words(train[n].captions[0])) for n in nearest]
    references = [[" ".join(words(caption)) for caption in image.captions] for image in dataset.test]
    print(f"retrieval on the test part of {dataset}; {encoder}")
    print("  ".join(f"{name} {value:.3f}" for name, value in metrics.scores(references, told).items()))


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
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["retrieval", "speed"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=80)
    given, rest = parser.parse_known_args()
    if given.what == "retrieval":
        retrieval(rest)
    else:
        speed(rest, given.rounds, given.images)
