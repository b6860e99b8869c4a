"""coco-caption as a Task: what is said of an image, and how that changes while it is learnt."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from coco_caption import data, images, metrics, show
from coco_caption.config import SCORES, Config
from coco_caption.data import Captioned, Dataset
from coco_caption.encoder import Encoder
from coco_caption.features import TOGETHER, Features, features
from coco_caption.model import Captioner
from coco_caption.words import END, SPECIAL, Vocabulary, words
from etude import draw, files
from etude.config import absolute
from etude.errors import UserError
from etude.fingerprint import fingerprint
from etude.markdown import literal
from etude.text.batching import of_equal_work, pad
from etude.train.run import Run
from etude.train.step import even_batches
from etude.train.task import Split, Task
from etude.train.totals import Sums, Totals

SHOWN = 10  # images shown before, during and after training
PADDING = -1  # no word has to be told here


class Batch(NamedTuple):
    features: Tensor  # float16 [B, C] or [B, S, C], of each image
    owner: Tensor  # int64 [N]: which of the B images each caption is of
    given: Tensor  # int64 [T, N]: END, then the caption's words
    wanted: Tensor  # int64 [T, N]: the caption's words, then END, then PADDING
    numbers: Tensor  # int64 [B]: which images of the part these are
    part: str


class Predictor:
    """What predicts: the encoder that sees, the network that tells, and the words that it tells in."""

    def __init__(self, config: Config, vocabulary: Vocabulary, encoder: Encoder, frequencies: Tensor) -> None:
        """`frequencies`: how often training says each word, float [V]."""
        self.config, self.vocabulary, self.encoder = config, vocabulary, encoder
        self.model = Captioner(config.model, encoder.channels, frequencies)
        self.spatial = config.model.image == "attention"

    def tell(self, features: Tensor, beam: int) -> Tensor:
        """The best caption of each image, int64 [B, L], filled up with END."""
        found = self.model.tell(features, beam, self.config.text.max_length, self.config.search.length)
        return found.ids[:, 0]


class Captioning(Predictor):
    """The Task: a predictor, and the images with captions that it learns from and is scored on."""

    metric, better = "cider", SCORES

    def __init__(
        self,
        config: Config,
        vocabulary: Vocabulary,
        encoder: Encoder,
        frequencies: Tensor,
        seen: Tensor,
        dataset: Dataset,
        files: Sequence[Path],
        found: Features,
        fingerprints: dict[str, str],
    ) -> None:
        """`seen`: sorted fingerprints of the images of training; `found`: the features of `files`.

        Of these files `dataset` has those that could be read.
        """
        super().__init__(config, vocabulary, encoder, frequencies)
        self.seen, self.features, self.fingerprints = seen, found, fingerprints
        self.data = str(dataset)
        self.summary = f"{len(vocabulary):,} words, image as {config.model.image}; sees with {encoder}"
        self.left_out = tuple(f"{files[n]}: {why}" for n, why in found.broken.items())
        self.parts = {"train": dataset.train, "valid": dataset.valid, "test": dataset.test}
        numbers = {file: n for n, file in enumerate(files)}
        self.places = {
            name: np.array([numbers.get(image.file, -1) for image in part], np.int64)
            for name, part in self.parts.items()
        }
        longest = config.text.max_length
        self.told = {name: [[words(c) for c in image.captions] for image in part] for name, part in self.parts.items()}
        self.rows = {
            name: [[self.vocabulary.encode(c[:longest]) for c in captions] for captions in part]
            for name, part in self.told.items()
        }
        pairs = [(image, n) for image, rows in enumerate(self.rows["train"]) for n in range(len(rows))]
        self.pairs = np.array(pairs, np.int64).reshape(-1, 2)
        self.lengths = np.array([len(self.rows["train"][image][n]) + 1 for image, n in pairs], np.int64)
        self.shown = draw.shuffled(len(dataset.valid), config.fit.seed)[:SHOWN]

    def plan(self, split: Split, epoch: int, batch_size: int) -> list[np.ndarray]:
        """Ids of captions for training, of images for the other parts."""
        if split == "train":
            return of_equal_work(self.lengths, batch_size, self.config.fit.seed, epoch)
        return even_batches(np.arange(len(self.parts[split])), batch_size)

    def load(self, split: Split, ids: np.ndarray, epoch: int) -> Batch:
        if split == "train":
            numbers, which = self.pairs[ids].T
            rows = [self.rows[split][image][n] for image, n in zip(numbers, which, strict=True)]
            owner = np.arange(len(ids))
        else:
            numbers = ids
            rows = [row for image in ids for row in self.rows[split][image]]
            owner = np.repeat(np.arange(len(ids)), [len(self.rows[split][image]) for image in ids])
        given, _ = pad([[END, *row] for row in rows], END)
        wanted, _ = pad([[*row, END] for row in rows], PADDING)
        seen = self.features[self.places[split][numbers]]
        of, places = torch.from_numpy(owner), torch.from_numpy(numbers.astype(np.int64))
        return Batch(seen, of, given.T.contiguous(), wanted.T.contiguous(), places, split)

    def step(self, batch: Batch) -> Sums:
        """The log probability of the true captions, a word at a time; outside training also captions of its own.

        Those are ids in a table with a row for each image of the part, [images, L], zero but for this batch: so they
        add up, over batches and processes, to the captions of all. Another table has loss and words of each image.
        """
        logits = self.model(batch.features[batch.owner], batch.given).float()
        count = int((batch.wanted != PADDING).sum())
        if self.model.training:  # each member learns for itself
            target = batch.wanted.flatten().repeat(len(logits))
            loss = F.cross_entropy(logits.flatten(0, 2), target, ignore_index=PADDING, reduction="sum")
            return {"loss": (loss / len(logits), count)}
        together = logits.log_softmax(3).logsumexp(0) - np.log(len(logits))
        loss = F.nll_loss(together.flatten(0, 1), batch.wanted.flatten(), ignore_index=PADDING, reduction="sum")
        found: Sums = {"loss": (loss, count)}
        if batch.part != "train":
            ids = self.tell(batch.features, self.config.search.beam)
            table = torch.zeros(len(self.parts[batch.part]), ids.shape[1], dtype=torch.float64, device=ids.device)
            table[batch.numbers] = ids.double()
            found[f"told_{batch.part}"] = (table, len(ids))
            each = F.nll_loss(together.flatten(0, 1), batch.wanted.flatten(), ignore_index=PADDING, reduction="none")
            of_captions = torch.stack([each.view_as(batch.wanted), (batch.wanted != PADDING).float()]).double().sum(1).T
            losses = torch.zeros(len(table), 2, dtype=torch.float64, device=ids.device)
            found["losses"] = (losses.index_add(0, batch.numbers[batch.owner], of_captions), len(ids))
        return found

    def captions(self, totals: Totals) -> tuple[str, list[str]]:
        """The part that was told of, and what: a caption for each of its images, words parted by spaces."""
        name = next(name for name in totals.sums if name.startswith("told_"))
        return name.removeprefix("told_"), [self.vocabulary.decode(row) for row in totals.sums[name].long().tolist()]

    def references(self, part: str) -> list[list[str]]:
        return [[" ".join(caption) for caption in captions] for captions in self.told[part]]

    def scores(self, totals: Totals) -> dict[str, float]:
        found = totals.means()
        found["perplexity"] = float(np.exp(found["loss"]))
        if any(name.startswith("told_") for name in totals.sums):
            part, told = self.captions(totals)
            found |= metrics.scores(self.references(part), told)
        return found

    def assets(self) -> dict[str, Any]:
        encoder = self.encoder
        names = {"backbone": encoder.backbone, "weights": encoder.weights, "digest": encoder.digest}
        seeing = {**names, "state": encoder.state()}
        return {"vocabulary": self.vocabulary.words[2:], "encoder": seeing, "seen": self.seen}

    def show(self, run: Run, when: str, step: int) -> None:
        """The same validation images each time, with their captions; and a sheet on which these are seen to change."""
        shown = [self.parts["valid"][n] for n in self.shown]
        seen = self.features[self.places["valid"][self.shown]].to(self.model.mean.device)
        told = [self.vocabulary.decode(row) for row in self.tell(seen, self.config.search.beam).tolist()]
        pictures = [picture(image.file) for image in shown]
        board = show.board(pictures, told, [image.captions[0] for image in shown])
        run.picture("captions", board, step, when)
        file = run.path / "samples" / "captions.json"  # what was told before, as a run may go on in another process
        before = {} if when == "before" or not file.exists() else json.loads(file.read_text(encoding="utf-8"))
        history = {moment(key): captions for key, captions in before.items()} | {when: told}
        run.write("samples/captions.json", files.encode(json.dumps(history, indent=1, ensure_ascii=False)))
        run.picture("contact sheet", show.contact_sheet(pictures, history), step)
        if when == "before":
            run.text("left out", "\n".join(f"- {literal(note)}" for note in self.left_out) or "nothing", step)


def moment(key: str) -> str:
    """When captions were told, from a key of captions.json: older runs wrote 0, the epoch, or -1."""
    return {"0": "before", "-1": "after"}.get(key, f"epoch {key}" if key.isdecimal() else key)


def make(config: Config, where: torch.device) -> Task:
    dataset = data.load(config.data, config.fit.seed)
    backbone, weights = config.network()
    encoder = Encoder(backbone, weights, None, where)
    files, tested = [image.file for image in (*dataset.train, *dataset.valid)], [image.file for image in dataset.test]
    found = seen_by(encoder, config, files, tested)
    contents = dict(zip([*files, *tested], found.digests, strict=True))
    fingerprints = part_fingerprints({"train": dataset.train, "valid": dataset.valid, "test": dataset.test}, contents)
    dataset = dataset.without({files[n]: why for n, why in found.broken.items()})
    if len(dataset.valid) == 1:
        raise UserError(
            f"one image of {config.data.name} is for validation: CIDEr-D, by which the best epoch is chosen, is 0 of a "
            "single one, whatever is said of it; give two or more"
        )
    captions = [words(caption) for image in dataset.train for caption in image.captions]
    vocabulary = Vocabulary.of(captions, config.text.threshold)
    if len(vocabulary) == len(SPECIAL):
        often = max(Counter(word for caption in captions for word in caption).values())
        raise UserError(
            f"no word is said {config.text.threshold:,} times in the training captions of {config.data.name}, "
            f"{often:,} times at most: lower text.threshold"
        )
    counts = np.bincount([id for c in captions for id in [*vocabulary.encode(c), END]], minlength=len(vocabulary))
    seen = torch.from_numpy(np.sort(fingerprints_of([contents[file] for file in files if contents[file]])))
    frequencies = torch.from_numpy(counts).float()
    task = Captioning(config, vocabulary, encoder, frequencies, seen, dataset, files, found, fingerprints)
    mean, std = spread(found, task.places["train"])
    task.model.mean.copy_(mean)
    task.model.std.copy_(std)
    return task


def seen_by(encoder: Encoder, config: Config, files: Sequence[Path], others: Sequence[Path] = ()) -> Features:
    """The features of these files, and the digests of others; those that cannot be read are named on stderr."""
    found = features(files, encoder, config.model.image == "attention", config.encoder.cache, others)
    for n, why in [*found.broken.items()][:SHOWN]:
        print(f"{files[n]} cannot be read: {why}", file=sys.stderr)
    if len(found.broken) > SHOWN:
        print(f"{len(found.broken):,} of {len(files):,} images cannot be read", file=sys.stderr)
    return found


def part_fingerprints(parts: dict[str, list[Captioned]], contents: dict[Path, bytes]) -> dict[str, str]:
    """Of the images and captions of each part; its test images are those that neither other part has, as in `restore`.

    Images whose files are not there count for nothing, as they do in training and in scoring.
    """
    trained = {contents[image.file] for part in ("train", "valid") for image in parts.get(part, ())}
    found = {}
    for name, part in parts.items():
        there = [image for image in part if contents[image.file]]
        some = [image for image in there if name != "test" or contents[image.file] not in trained]
        found[name] = fingerprint(
            (contents[image.file].hex() for image in some),
            (caption for image in some for caption in image.captions),
            np.array([len(image.captions) for image in some], np.int64),
        )
    return found


def fingerprints_of(digests: Sequence[bytes]) -> np.ndarray:
    """int64 [N]: the first 8 bytes of each image's hash."""
    return np.frombuffer(b"".join(digest[:8] for digest in digests), "<i8").astype(np.int64)


def spread(found: Features, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every feature over images, float32 [C], in bounded memory and in float64."""
    total = square = torch.zeros((), dtype=torch.float64)
    count = 0
    for some in even_batches(numbers, 256):
        x = found[some].double().flatten(0, -2)
        total, square, count = total + x.sum(0), square + x.square().sum(0), count + len(x)
    mean = total / count
    std = (square / count - mean.square()).clamp(min=0).sqrt()
    return mean.float(), std.clamp(min=1e-3).float()


def restore(config: Config, assets: dict[str, Any], where: torch.device | None = None) -> Predictor:
    """With data, images that training had are left out of the test part, whatever file they come from."""
    encoder = restored_encoder(config, assets["encoder"], where or torch.device("cpu"))
    vocabulary, seen = Vocabulary(assets["vocabulary"]), assets["seen"]
    frequencies = torch.zeros(len(vocabulary))  # the checkpoint's weights have them
    if where is None:
        return Predictor(config, vocabulary, encoder, frequencies)
    dataset = data.load_test(config.data, config.fit.seed)
    files = [image.file for image in dataset.test]
    found = seen_by(encoder, config, files)
    contents = dict(zip(files, found.digests, strict=True))
    known = {file for file, digest in contents.items() if digest and trained_on(digest, seen)}
    unknown = [image for image in dataset.test if image.file not in known]
    dataset = dataset.without({files[n]: why for n, why in found.broken.items()})
    if known:
        test = [image for image in dataset.test if image.file not in known]
        if not test:
            raise UserError(f"all images of {config.data.name} were trained on; evaluate on other data")
        dataset = Dataset(dataset.name, [], [], test, [*dataset.notes, f"{len(known):,} images that were trained on"])
    fingerprints = part_fingerprints({"test": unknown}, contents)
    return Captioning(config, vocabulary, encoder, frequencies, seen, dataset, files, found, fingerprints)


def trained_on(digest: bytes, seen: Tensor) -> bool:
    known = seen.numpy()
    place = int(np.searchsorted(known, fingerprints_of([digest])[0]))
    return place < len(known) and known[place] == fingerprints_of([digest])[0]


def restored_encoder(config: Config, kept: dict[str, Any], where: torch.device) -> Encoder:
    """The encoder that a run was trained with. Raises UserError if the flags ask for another, or if it is not there."""
    asked = config.encoder
    if asked.backbone not in ("auto", kept["backbone"]):
        raise UserError(f"this run sees with {kept['backbone']}, not {asked.backbone}: leave --encoder.backbone out")
    weights = kept["weights"]
    if asked.weights not in ("auto", weights, absolute(weights)):  # the same ones may lie elsewhere now
        encoder = Encoder(kept["backbone"], asked.weights, None, where)
    else:
        encoder = Encoder(kept["backbone"], weights, kept["state"] or None, where)
    if encoder.digest != kept["digest"]:
        raise UserError(
            f"{asked.weights} are not the weights that this run sees with, which are {weights} ({kept['digest'][:8]}): "
            "leave --encoder.weights out"
        )
    return encoder


def describe(task: Captioning, totals: Totals) -> tuple[str, dict[str, Any]]:
    found = task.scores(totals)
    part, told = task.captions(totals)
    more, missing = metrics.java_scores(task.references(part), told)
    found |= more
    names = {"cider": "CIDEr-D", "bleu1": "BLEU-1", "bleu2": "BLEU-2", "bleu3": "BLEU-3", "bleu4": "BLEU-4"}
    names |= {"rouge_l": "ROUGE-L", "meteor": "METEOR", "spice": "SPICE", "perplexity": "perplexity"}
    lines = [f"{name:<12}{found[key]:>8.3f}" for key, name in names.items() if key in found]
    different = len(set(told))
    lines += [f"{len(told):,} images, {different:,} different captions, beam {task.config.search.beam}", *missing]
    lines += [f"left out: {line}" for line in task.left_out]
    if len(told) == 1:
        lines.append("CIDEr-D of a single image is 0, whatever is said of it")
    return "\n".join(lines), {**found, "images": len(told), "different": different, "left_out": len(task.left_out)}


def without(task: Captioning, totals: Totals, blocks: list[np.ndarray]) -> dict[str, list[float]]:
    part, told = task.captions(totals)
    every, losses = np.arange(len(told)), totals.sums["losses"].cpu().numpy()
    some = [every, *(np.setdiff1d(every, block) for block in blocks)]
    means = [float(np.divide(*losses[ids].sum(0))) for ids in some]
    found = {"loss": means, "perplexity": [float(np.exp(mean)) for mean in means]}
    return found | metrics.scores_of(task.references(part), told, some)


def results(task: Captioning, totals: Totals) -> list[dict[str, Any]]:
    """COCO's format of results: [{"image_id": ..., "caption": ...}, ...]."""
    part, told = task.captions(totals)
    return [{"image_id": image.id, "caption": said} for image, said in zip(task.parts[part], told, strict=True)]


def predict(task: Predictor, inputs: list[str], beam: int | None = None) -> list[str]:
    """`file name, tab, caption` for every image file. Raises UserError for one that cannot be read."""
    lines = []
    for start in range(0, len(inputs), TOGETHER):
        names = inputs[start : start + TOGETHER]
        seen = task.encoder([task.encoder.preprocess(read(name)) for name in names], task.spatial)
        ids = task.tell(seen.to(task.model.mean.device), beam or task.config.search.beam)
        lines += [f"{name}\t{task.vocabulary.decode(row)}" for name, row in zip(names, ids.tolist(), strict=True)]
    return lines


def picture(file: Path) -> Image.Image:
    """An image to be shown; grey, if it has gone since its features were computed: that stops no training."""
    try:
        return images.read(file)
    except images.Broken:
        return Image.new("RGB", (show.SIDE, show.SIDE), "lightgrey")


def read(name: str) -> Image.Image:
    try:
        return images.read(Path(name))
    except images.Broken as error:
        raise UserError(f"{name} cannot be read as an image: {error}") from None
