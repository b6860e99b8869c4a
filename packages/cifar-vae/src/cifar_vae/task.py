"""cifar-vae as a Task: a picture as a few numbers or bits, and back; and its class, told from them."""

import dataclasses
import math
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cifar_vae import classifying, data, pictures, restoring
from cifar_vae.classifying import Classifier, Classifying, Start
from cifar_vae.config import PUBLISHED, VALUES, Config, Data
from cifar_vae.data import Dataset
from cifar_vae.restoring import Restorer, Restoring, squares
from etude import files
from etude.errors import UserError
from etude.train.task import Task
from etude.train.totals import Totals


def make(config: Config, where: torch.device) -> Task:
    if config.task == "classify":
        start = Start.of_run(Path(config.model.start))
        found = data.load(meant(config, start))
        classifying.refuse_start(config, start, found)
        seen = torch.from_numpy(data.seen(found))
        found = unseen(found, (start.data, start.seen), (found.name, seen))
        return classifying.begun(config, start, found, where, seen)
    found = data.load(config.data)
    seen = torch.from_numpy(data.seen(found))
    return restoring.begun(config, unseen(found, (found.name, seen)), where, seen)


def restore(config: Config, assets: dict[str, Any], where: torch.device | None = None) -> Restorer | Classifier:
    if config.task == "classify":
        start, classes = Start.restored(assets["start"]), tuple(assets["classes"])
        if where is None:
            return Classifier(config, start, classes)
        trained_on, seen = assets.get("data", ""), assets.get("seen", start.seen[:0])  # older runs have neither
        found = data.load(meant(config, start), learnt=seen.numpy() if "seen" in assets else None)
        if found.classes != classes:
            raise UserError(
                f"this run knows the {len(classes)} classes {', '.join(classes[:3])} ..., but {found.name} has the "
                f"{len(found.classes)} classes {', '.join(found.classes[:3])} ...: give another --data"
            )
        found = unseen(found, (start.data, start.seen), (trained_on, seen))
        return Classifying(config, start, found, where, trained_on, seen)
    trained_on, seen = assets["data"], assets["seen"]
    if where is None:
        return Restorer(config, trained_on, seen)
    found = unseen(data.load(config.data, learnt=seen.numpy()), (trained_on, seen))
    return Restoring(config, beside(found, config.data, trained_on, seen), where, trained_on, seen)


def meant(config: Config, start: Start) -> Data:
    """Which data a classifier has: `start` stands for those of its autoencoder."""
    return dataclasses.replace(config.data, name=start.data) if config.data.name == "start" else config.data


def beside(found: Dataset, asked: Data, trained_on: str, seen: Tensor) -> Dataset:
    """Data to score; where they have no training part, that of the run, if it is still here, is put beside them.

    It is what yardsticks are fitted to, as the run was.
    """
    if len(found.train):
        return found
    with suppress(UserError):
        own = data.load(dataclasses.replace(asked, name=trained_on), may_fetch=False).train
        if np.isin(data.marks(own.pictures), seen.numpy()).all():
            return dataclasses.replace(found, train=own, fitted=trained_on)
    return found


def unseen(found: Dataset, *learnt: tuple[str, Tensor]) -> Dataset:
    """Data, their test part without what a run, or its autoencoder, was trained on or chosen by.

    `learnt`: of each of them the data's name and the marks. Raises UserError if nothing is left.
    """
    fixed = ("sample", *PUBLISHED)  # of which the test part is one
    seen = [marks.numpy() for name, marks in learnt if found.name != name or name not in fixed]
    if not seen:
        return found
    known = np.isin(data.marks(found.test.pictures), np.concatenate(seen))
    if known.all():
        raise UserError(f"the run was trained on all {len(known):,} test pictures of {found.name}: give other --data")
    if not known.any():
        return found
    note = f"{known.sum():,} test pictures that the run was trained on left out"
    return dataclasses.replace(found, test=found.test.at(np.flatnonzero(~known)), note=note)


def describe(task: Restoring | Classifying, totals: Totals) -> tuple[str, dict[str, Any]]:
    if isinstance(task, Classifying):
        return classifying.describe(task, totals)
    return restoring.describe(task, totals)


def illustrate(task: Restoring | Classifying, totals: Totals) -> dict[str, Image.Image]:
    """Of a classifier, which test pictures of the two worst classes are taken for what; of an autoencoder nothing."""
    return classifying.mistakes(task, totals) if isinstance(task, Classifying) else {}


def predict(task: Restorer | Classifier, inputs: list[str], folder: str = "restored") -> list[str]:
    """For each image file, an autoencoder: where the restored picture is, and its error; a classifier: the class.

    Both see the middle square of it at 32 x 32 pixels. The error is that of the picture that is written to what they
    see: it is cut to the range of a picture, so that it may be a little nearer than what `evaluate` counts.
    """
    images = torch.from_numpy(np.stack([read(Path(name)) for name in inputs]))
    if isinstance(task, Classifier):
        best, answers = task.probabilities(images).max(1)
        return [
            f"{name}\t{task.classes[k]}\t{p:.4f}"
            for name, k, p in zip(inputs, answers.tolist(), best.tolist(), strict=True)
        ]
    restored = task.decoded(task.latents(images)).clamp(-1, 1)  # as they are written
    errors = (squares(pictures.plain(images), restored) / (4 * VALUES)).tolist()
    lines = []
    with files.reported(f"the restored pictures cannot be written to {folder!r}", "give --folder another folder"):
        place = files.given(folder)
        given, written = {Path(name).resolve() for name in inputs}, [place / target for target in targets(inputs)]
        if lost := [file for file in written if file.resolve() in given]:
            raise UserError(f"{lost[0]} would be overwritten, which was given: give --folder another folder")
        place.mkdir(parents=True, exist_ok=True)
        for name, file, picture, error in zip(inputs, written, restored, errors, strict=True):
            files.write(file, pictures.png(picture))
            lines.append(f"{name}\t{file}\tmse {error:.5f}\tPSNR {-10 * math.log10(max(error, 1e-12)):.2f}")
    return lines


def targets(inputs: list[str]) -> list[str]:
    """The names of restored pictures: that of the file, with a number if several have it. No two differ by case only.

    A number that would make the name of another is passed over.
    """
    stems = [Path(name).stem for name in inputs]
    times, last = Counter(stem.lower() for stem in stems), Counter[str]()
    taken = {stem for stem, count in times.items() if count == 1}
    found = []
    for stem in stems:
        name = stem
        while times[stem.lower()] > 1 and (name == stem or name.lower() in taken):
            last[stem.lower()] += 1
            name = f"{stem}-{last[stem.lower()]}"
        taken.add(name.lower())
        found.append(f"{name}.png")
    return found


def embed(task: Restorer | Classifier, inputs: list[str]) -> np.ndarray:
    """The latent of each image file, float32 [N, P * C]; of a classifier what its probe sees."""
    images = torch.from_numpy(np.stack([read(Path(name)) for name in inputs]))
    if isinstance(task, Classifier):
        return task.start.features(images, task.config.probe.features, torch.device("cpu"))[0].numpy()
    return task.latents(images).flatten(1).numpy()


def read(file: Path) -> np.ndarray:
    """uint8 [3, 32, 32]. Raises UserError if it is no image."""
    if not os.path.lexists(file):
        raise UserError(f"there is no file {file}")
    return data.read(file)
