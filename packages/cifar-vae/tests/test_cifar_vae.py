"""The promises of every task, for each kind of model and for the classifier; and what the verbs say."""

import dataclasses
import json
import math
import pickle
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from sklearn.decomposition import PCA
from tensorboard.plugins.projector import ProjectorConfig

from cifar_vae import classifying, data, pictures, sample, show, task, yardsticks
from cifar_vae.__main__ import PACKAGE, main
from cifar_vae.classifying import VIEWS, Prober
from cifar_vae.config import CLASSIFYING, RESTORING, Config, Data, Model, Objective, Probe
from etude import testing
from etude.errors import UserError
from etude.study.file import load
from etude.testing import check_presets, check_task
from etude.train import checkpoint, run

SMALL = ["--data.held-out", "0.3", "--fit.batch-size", "24", "--model.width", "8"]
KINDS = {
    "ae": ["--model.latent", "12", "--data.augment", "shift"],
    "vae": ["--model.kind", "vae", "--model.latent", "12", "--objective.warmup", "2", "--objective.kl", "0.2"],
    "vq": [
        "--model.kind",
        "vq",
        "--model.latent",
        "16",
        "--model.codes",
        "24",
        "--model.code",
        "4",
        "--model.no-linear",
    ],
    "fsq": [
        "--model.kind",
        "fsq",
        "--model.latent",
        "16",
        "--model.levels",
        "5",
        "4",
        "--objective.noise",
        "0.05",
        "--model.no-linear",
    ],
}


def studies_of(monkeypatch, scores):
    """Of the package's studies those whose metric is among these scores."""
    all_of_them = testing.available("cifar_vae")
    mine = [name for name in all_of_them if load(name, "cifar_vae", PACKAGE.scores).metric in scores]
    monkeypatch.setattr(testing, "available", lambda _: mine)
    return dataclasses.replace(PACKAGE, scores=scores)


@pytest.mark.parametrize("kind", KINDS)
def test_the_battery(kind, few, tmp_path, monkeypatch):
    Image.fromarray(sample.drawn("test")[0][3].transpose(1, 2, 0)).save("3.png")
    runs = tmp_path / "runs"
    runs.mkdir()
    package = studies_of(monkeypatch, RESTORING)
    uncompared = ["bits", "kl_bits", "mse_sample", "perplexity", "used", "bits_entropy"]
    check_task(package, ["--data", few, *SMALL, *KINDS[kind]], [str(tmp_path / "3.png")], runs, uncompared)


def test_the_battery_of_the_classifier(few, tmp_path, monkeypatch):
    Image.fromarray(sample.drawn("test")[0][3].transpose(1, 2, 0)).save("3.png")
    assert main(["train", "--data", few, *SMALL, *KINDS["vae"], "--fit.epochs", "1", "--run", "start"]) == 0
    runs = tmp_path / "runs"
    runs.mkdir()
    package = studies_of(monkeypatch, CLASSIFYING)
    flags = ["--task", "classify", "--model.start", str(tmp_path / "start"), "--data", "start"]
    flags += ["--data.held-out", "0.3", "--fit.batch-size", "24", "--probe.features", "sample", "--probe.hidden", "64"]
    check_task(package, flags, [str(tmp_path / "3.png")], runs)


def test_presets_and_studies_that_install_with_the_package_can_be_parsed():
    studies = [
        "augmentation",
        "augmentation-probe",
        "codebook",
        "kl-weight",
        "latent-search",
        "latent-size",
        "loss",
        "model",
    ]
    studies += ["model-numbers", "probe", "probe-sample", "restart"]
    check_presets(PACKAGE, ["ae64", "ae128", "vae64", "vq576", "denoise128"], studies)


# -- the verbs


@pytest.fixture(scope="module")
def runs(few, tmp_path_factory):
    """An autoencoder, and a classifier on its latents, whose autoencoder's folder is then no longer there."""
    folder = tmp_path_factory.mktemp("runs")
    small = ["--data", few, *SMALL, *KINDS["ae"], "--fit.epochs", "2", "--fit.precision", "fp32"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        assert main(["train", *small, "--run", str(folder / "gone")]) == 0
        shutil.copytree(folder / "gone", folder / "ae")
        start = ["--model.start", str(folder / "gone"), "--data.held-out", "0.3", "--fit.epochs", "3"]
        start += ["--fit.precision", "fp32"]
        assert main(["train", "classify", *start, "--fit.batch-size", "24", "--run", str(folder / "classifier")]) == 0
    shutil.rmtree(folder / "gone")
    return folder


def evaluated(folder, capsys, *flags):
    capsys.readouterr()
    assert main(["evaluate", str(folder), *flags]) == 0
    out = capsys.readouterr().out
    return out, json.loads(out.splitlines()[-1])


def refused(words, says, capsys):
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert says in line


def test_evaluate_says_errors_in_units_beside_what_is_known_exactly(runs, few, capsys, monkeypatch):
    monkeypatch.setattr(yardsticks, "ENOUGH", 60)
    out, found = evaluated(runs / "ae", capsys)
    assert {"mse", "psnr", "mse_image", "logcosh_image", "bits", "mse_se"} <= found.keys()
    dataset = data.load(Data(few, held_out=0.3))
    one = task.restore(config_of(runs / "ae"), checkpoint.read(runs / "ae")["assets"])
    checkpoint.fill(one.model, checkpoint.read(runs / "ae"), runs)
    one.model.eval()
    images = torch.from_numpy(dataset.test.pictures)
    with torch.inference_mode():
        restored = one.model(pictures.plain(images)).double()
    away = pictures.plain(images).double() - restored
    errors = ((away / 2) ** 2).mean((1, 2, 3))
    assert found["mse"] == pytest.approx(float(errors.mean()), rel=1e-4)
    assert found["mse_image"] == pytest.approx(float((away**2).sum()) / 60, rel=1e-4)
    assert found["logcosh_image"] == pytest.approx(float(away.cosh().log().sum()) / 60, rel=1e-3)
    assert found["mse_se"] == pytest.approx(float(errors.std()) / math.sqrt(60), rel=1e-3)
    assert found["psnr"] == pytest.approx(-10 * math.log10(found["mse"]))
    assert found["bits"] == 32 * 12
    exact = yardsticks.pca(yardsticks.spectrum(dataset.train.pictures), dataset.test.pictures)
    assert found["pca"]["12"] == pytest.approx(exact[12])
    verdict = "better than PCA" if found["mse"] < exact[12] else "WORSE than PCA"
    assert verdict in out
    steps = found["rounded"]
    assert [p["bits"] for p in steps] == sorted((p["bits"] for p in steps), reverse=True)
    assert steps[0]["mse"] < steps[-1]["mse"]


def test_a_classifier_needs_no_other_folder_and_says_what_is_taken_for_what(runs, few, capsys):
    out, found = evaluated(runs / "classifier", capsys)
    counts = np.array(found["confusion"])
    assert counts.sum() == found["pictures"] == 60
    assert found["accuracy"] == pytest.approx(np.trace(counts) / 60)
    f1 = [2 * counts[k, k] / max(counts[k].sum() + counts[:, k].sum(), 1) for k in range(10)]
    assert found["macro_f1"] == pytest.approx(np.mean(f1))
    assert "macro avg" in out and out.count("is taken for") == 2 and "confusion matrix" in out
    assert {"logistic regression", "10 nearest neighbours"} == found["others"].keys()
    assert json.loads((runs / "classifier" / "test.json").read_text())["accuracy"] == found["accuracy"]
    says = f"classifier cannot go on: {runs / 'gone'} is no run folder"  # it would be learnt from
    refused(["train", "--run", runs / "classifier"], says, capsys)


def test_evaluate_shows_what_the_two_worst_classes_are_taken_for(runs, few, capsys):
    out, found = evaluated(runs / "classifier", capsys)
    [file] = (runs / "classifier" / "samples").glob("test-mistakes-epoch-*.png")
    assert f"picture  {file}\n" in out and f"epoch-{found['checkpoint']['epoch']:03}" in file.name
    counts = torch.tensor(found["confusion"])
    said = [line for line in out.splitlines() if "is taken for" in line]
    for line, (k, taken_for) in zip(said, classifying.worst(counts).items(), strict=True):
        assert line.startswith(f"{sample.CLASSES[k]} (F1 ") and 0 < len(taken_for) <= 3
        assert all(counts[k, j] == count and f"{sample.CLASSES[j]} {count}" in line for j, count in taken_for.items())
    part = data.load(Data(few, held_out=0.3)).test
    one = task.restore(config_of(runs / "classifier"), checkpoint.read(runs / "classifier")["assets"])
    checkpoint.fill(one.model, checkpoint.read(runs / "classifier"), runs)
    one.model.eval()
    probabilities = one.probabilities(torch.from_numpy(part.pictures))
    with Image.open(file) as opened:
        picture = np.asarray(opened)
    top = 62
    for k, taken_for in classifying.worst(counts).items():
        top += 30
        for j in taken_for:
            wrong = np.flatnonzero((part.classes == k) & (probabilities.argmax(1).numpy() == j))
            surest = wrong[np.argsort(-probabilities[wrong, j].numpy(), kind="stable")][:10]
            for n, which in enumerate(surest):
                cell = picture[top : top + 64, 150 + 72 * n : 214 + 72 * n]
                np.testing.assert_array_equal(cell, part.pictures[which].transpose(1, 2, 0).repeat(2, 0).repeat(2, 1))
            assert (picture[top : top + 64, 150 + 72 * len(surest) :] == 255).all(), "and no others"
            top += 86
    assert len(picture) == top + 8
    capsys.readouterr()
    assert main(["report", str(runs / "classifier"), "--only", "page"]) == 0
    assert "test mistakes" in (runs / "classifier" / "report.html").read_text()


def test_a_class_that_is_taken_for_nothing_else_is_said_to_be():
    counts = torch.tensor([[5, 0, 0], [2, 3, 0], [1, 2, 9]])
    assert classifying.worst(counts) == {1: {0: 2}, 0: {}}
    assert show.mistakes({"a": [], "b": []}).size == (880, 130)


@pytest.mark.parametrize(("how", "count"), [("none", 1), ("mirror", 2), ("shift", VIEWS)])
def test_a_probe_learns_from_views_of_each_picture_and_is_scored_on_pictures_as_they_are(how, count, runs):
    start = Model(start=str(runs / "ae"))
    one = task.make(
        Config(task="classify", data=Data("start", held_out=0.3, augment=how), model=start), torch.device("cpu")
    )
    means, _ = one.seen("train")
    images = torch.from_numpy(one.sets["train"].pictures)
    assert len(means) == count
    found = [one.start.features(x, "latent", torch.device("cpu"))[0] for x in (images, images.flip(-1))]
    torch.testing.assert_close(means[0], found[0])
    if how == "mirror":
        torch.testing.assert_close(means[1], found[1])
    x, _ = one.load("train", np.arange(40), 1)
    same = (means[:, :40] == x).all(2)
    assert same.any(0).all() and same.any(1).sum() == count
    valid, _ = one.load("valid", np.arange(5), 1)
    assert torch.equal(valid, one.seen("valid")[0][0][:5])


def test_a_probe_sees_white_features():
    torch.manual_seed(0)
    seen = torch.randn(500, 6) @ torch.randn(6, 6) + 3
    seen = torch.cat([seen, seen[:, :1]], 1)  # of which one says nothing new
    probe = Prober(Probe(depth=0), 7, 3)
    probe.begin(seen)
    known = PCA(6, whiten=True, svd_solver="full").fit(seen.double())
    expected = known.transform(seen.double()) * (500 / 499) ** 0.5
    np.testing.assert_allclose(probe.white(seen)[:, 1:].flip(1).abs(), np.abs(expected), atol=2e-3)
    assert probe.white(seen)[:, 0].abs().max() < 1e-2


def test_predict_and_embed_agree_with_the_model(runs, few, capsys, tmp_path):
    images = data.load(Data(few, held_out=0.3)).test.pictures[:3]
    for n, image in enumerate(images):
        (tmp_path / str(n)).mkdir()
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / str(n) / "a.png")
    files = [f"{n}/a.png" for n in range(3)]
    capsys.readouterr()
    assert main(["predict", str(runs / "ae"), *files, "--folder", "out"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == files
    for line, image in zip(lines, images, strict=True):
        with Image.open(line[1]) as restored:
            away = (np.asarray(restored, float).transpose(2, 0, 1) - image) / 255
        assert float(line[2].removeprefix("mse ")) == pytest.approx((away**2).mean(), rel=0.02)
    assert len({line[1] for line in lines}) == 3
    Path("pets").mkdir()
    before = Path("0/a.png").read_bytes()
    Path("pets/a.png").write_bytes(before)
    assert main(["predict", str(runs / "ae"), "pets/a.png", "1/a.png", "--folder", "./pets"]) == 0  # a-1, a-2
    assert main(["predict", str(runs / "ae"), "pets/a.png", "--folder", "./pets"]) == 2
    assert "pets/a.png would be overwritten, which was given" in capsys.readouterr().err
    assert Path("pets/a.png").read_bytes() == before
    assert main(["embed", str(runs / "ae"), *files, "--out", "z.npy"]) == 0
    assert main(["embed", str(runs / "classifier"), *files, "--out", "c.npy"]) == 0
    z = np.load("z.npy")
    assert z.shape == (3, 12) and z.dtype == np.float32
    np.testing.assert_allclose(z, np.load("c.npy"), atol=1e-3)
    capsys.readouterr()
    assert main(["predict", str(runs / "classifier"), *files]) == 0
    for line in capsys.readouterr().out.splitlines():
        _, name, p = line.split("\t")
        assert name in sample.CLASSES and 0.1 <= float(p) <= 1


def test_other_data_are_scored_without_what_was_trained_on(runs, few, capsys, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(few, copy)
    _, own = evaluated(runs / "ae", capsys)
    _, found = evaluated(runs / "ae", capsys, "--data", str(copy))
    assert found["mse"] == pytest.approx(own["mse"])
    place = copy / "cifar-10-batches-py"
    for a, b in (("data_batch_1", "x"), ("test_batch", "data_batch_1"), ("x", "test_batch")):
        (place / a).rename(place / b)
    refused(["evaluate", runs / "ae", "--data", copy], "was trained on all 136 test pictures", capsys)


def test_a_folder_that_has_changed_is_not_the_same_because_its_name_is():
    part = data.load(Data())
    changed = dataclasses.replace(part, name="/home/anna/pictures")
    seen = torch.from_numpy(np.sort(data.marks(part.test.pictures[:3])))
    assert len(task.unseen(changed, (changed.name, seen)).test) == len(part.test) - 3
    assert task.unseen(part, (part.name, seen)) is part  # the sample has one test part
    more = torch.from_numpy(data.marks(part.test.pictures[2:5]))
    assert len(task.unseen(changed, ("start", seen), ("probe", more)).test) == len(part.test) - 5
    assert len(task.unseen(part, ("sample", seen), ("probe", more)).test) == len(part.test) - 3


CPU = torch.device("cpu")


def put(folder, rows):
    """Pictures of the sample's test part as a folder of two classes, in this order."""
    images, classes = sample.drawn("test", 60)
    for place, n in enumerate(rows):
        (folder / f"c{classes[n] % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[n].transpose(1, 2, 0)).save(folder / f"c{classes[n] % 2}" / f"{place:03}.png")
    return str(folder)


def of(part):
    return set(data.marks(part.pictures).tolist())


def test_other_data_are_scored_without_what_the_probe_itself_was_trained_or_chosen_on(runs, tmp_path):
    ours, theirs = put(tmp_path / "b", range(50)), put(tmp_path / "c", range(59, -1, -1))
    config = Config(task="classify", data=Data(ours, held_out=0.3), model=Model(start=str(runs / "ae")))
    one = task.make(config, CPU)
    other = dataclasses.replace(config, data=Data(theirs, held_out=0.3))
    learnt, whole = of(one.sets["train"]) | of(one.sets["valid"]), of(data.pictures_of(tmp_path / "c").test)
    assert len(whole) == 60 and whole & learnt and whole - learnt
    scored = task.restore(other, one.assets(), CPU)
    assert of(scored.sets["test"]) == whole - learnt and "left out" in scored.data
    assert task.restore(config, one.assets(), CPU).fingerprints == one.fingerprints
    older = {name: x for name, x in one.assets().items() if name not in ("data", "seen")}  # not known: its own, maybe
    assert of(task.restore(other, older, CPU).sets["test"]) == of(data.load(other.data).test)
    everything = one.assets() | {"seen": torch.tensor(sorted(whole))}
    with pytest.raises(UserError, match="was trained on all 6 test pictures"):
        task.restore(other, everything, CPU)


def test_a_folder_is_scored_whole_beside_yardsticks_of_what_the_run_was_trained_on(tmp_path, capsys):
    """Of a run that is PCA, trained on other pictures: it is no better than PCA."""
    many = put(tmp_path / "many", range(40))
    pca = ["--model.linear", "--model.depth", "0", "--fit.epochs", "1", "--fit.lr", "1e-12", "--fit.weight-decay", "0"]
    flags = ["--data", many, "--data.held-out", "0.2", "--model.width", "4", "--model.latent", "8", *pca]
    assert main(["train", *flags, "--run", "r"]) == 0
    few = put(tmp_path / "few", range(40, 60))
    out, found = evaluated("r", capsys, "--data", few)
    assert found["pictures"] == 20 and "few, 20 pictures, 2 classes" in out
    own = data.load(Data(many, held_out=0.2))
    theirs = data.pictures_of(Path(few))
    exact = yardsticks.pca(yardsticks.spectrum(own.train.pictures), theirs.test.pictures)
    assert found["pca"] == {"8": pytest.approx(exact[8])}, "28 pictures have no 64 principal components"
    assert found["mse"] == pytest.approx(exact[8], rel=1e-3)
    assert f"of the {len(own.train)} training pictures of {many}" in out
    assert found["rounded"] == [] and "rounded to" not in out, "20 pictures show at most 4 bits of a number"
    _, own_scores = evaluated("r", capsys)
    shutil.copytree(many, tmp_path / "copy")
    out, copied = evaluated("r", capsys, "--data", str(tmp_path / "copy"))  # its own pictures, known by what is in them
    assert copied["pictures"] == own_scores["pictures"] == 4 and "left out" not in out
    assert (copied["mse"], copied["pca"]) == (own_scores["mse"], own_scores["pca"])
    assert main(["export", "r", "model"]) == 0  # tells no folder of this machine: it is scored where its data lie
    (tmp_path / "elsewhere").mkdir()
    with chdir(tmp_path / "elsewhere"):
        shutil.copytree(many, "many")
        _, exported = evaluated(tmp_path / "model", capsys)
    assert (exported["mse"], exported["pca"]) == (own_scores["mse"], own_scores["pca"])
    shutil.rmtree(many)
    out, found = evaluated("r", capsys, "--data", few)
    assert found["pictures"] == 20 and not found["pca"] and "than PCA" not in out and "are not here" in out


def test_pca_of_as_many_numbers_as_there_are_pictures_is_not_made_up(tmp_path, capsys):
    small = put(tmp_path / "small", range(30))
    flags = ["--data", small, "--data.held-out", "0.2", "--model.width", "4", "--model.latent", "64"]
    assert main(["train", *flags, "--fit.epochs", "1", "--run", "r"]) == 0
    out, found = evaluated("r", capsys)
    assert not found["pca"] and "than PCA" not in out and "it needs more than the 22 training pictures" in out


def test_the_weight_of_kl_rises_from_nothing(few):
    config = Config(data=Data(few, held_out=0.3), model=Model(kind="vae", latent=4), objective=Objective(warmup=2))
    one = task.make(config, CPU)
    weights = [float(one.load("train", np.arange(1), epoch).kl[0]) for epoch in (1, 2, 3, 9)]
    assert weights == [0, 0.5, 1, 1] and float(one.load("valid", np.arange(1), 0).kl[0]) == 1


def test_a_vae_stands_at_the_bits_and_the_error_of_the_same_samples(few):
    """On the validation part, as in `step`: not at the error of its means, which the bits of the KL do not buy."""
    config = Config(data=Data(few, held_out=0.3), model=Model(kind="vae", latent=4, width=8))
    one = task.make(config, CPU)
    with torch.no_grad():
        for parameter in one.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    one.model.eval()
    count = len(one.sets["valid"])
    with torch.inference_mode():
        sums = one.step(one.load("valid", np.arange(count), 0))
        images = one.parts["valid"][0]
        [(name, bits, error, _)] = one.points(images, one.latents(images))
    means = {key: float(total / n) for key, (total, n) in sums.items() if key in ("kl_bits", "mse_sample", "mse_image")}
    assert name == "vae 4, a sample" and bits == pytest.approx(means["kl_bits"], rel=1e-4)
    away = abs(means["mse_sample"] - means["mse_image"] / 12288)
    assert away > 1e-5 and abs(error - means["mse_sample"]) < 0.1 * away


def test_what_is_in_both_parts_is_left_out_when_it_is_trained_and_when_it_is_scored(few, capsys, tmp_path):
    shutil.copytree(few, tmp_path / "set")
    place = tmp_path / "set" / "cifar-10-batches-py"
    training, test = (pickle.loads((place / name).read_bytes()) for name in ("data_batch_1", "test_batch"))
    test["data"][:7] = training["data"][10:17]
    (place / "test_batch").write_bytes(pickle.dumps(test, 2))
    flags = ["--data", str(tmp_path / "set"), *SMALL, "--model.latent", "4", "--fit.epochs", "1"]
    assert main(["train", *flags, "--run", "r"]) == 0
    out, found = evaluated("r", capsys)
    assert found["pictures"] == 53 and "7 test pictures that the run was trained on left out" in out


def test_a_classifier_is_never_chosen_on_what_its_autoencoder_was_trained_on(runs, few, tmp_path):
    """Nor if that was trained on few of the pictures, or on the same under another name."""
    flags = ["--data", few, *SMALL, "--data.held-out", "0.1", "--data.images", "70", "--model.latent", "4"]
    assert main(["train", *flags, "--fit.epochs", "1", "--run", "some"]) == 0
    shutil.copytree(few, tmp_path / "copy")

    def begun(start, name, held_out):
        config = Config(task="classify", data=Data(name, held_out=held_out), model=Model(start=str(start)))
        return task.make(config, CPU)

    for start, held_out, more in ((runs / "ae", 0.3, 0.4), ("some", 0.1, 0.3)):
        seen = set(checkpoint.read(Path(start))["assets"]["seen"].tolist())
        for name in ("start", few, str(tmp_path / "copy")):
            for part in (held_out, held_out / 2):
                one = begun(start, name, part)
                assert of(one.sets["valid"]) <= seen and not of(one.sets["test"]) & seen
            with pytest.raises(UserError, match=f"was trained on: give --data start --data.held-out {held_out}"):
                begun(start, name, more)
    older = checkpoint.load(Path("some/checkpoints/best.pt"))
    del older["assets"]["chosen"]
    torch.save(older, "some/checkpoints/best.pt")
    assert len(begun("some", "start", 0.1).sets["valid"]) == 13
    with pytest.raises(UserError, match="would validate"):
        begun("some", "start", 0.3)


@pytest.mark.parametrize(
    "names",
    [
        ["x/a.png", "y/a.png", "z/a-1.png"],
        ["a-1.png", "a.png", "a.jpg", "b/a-2.png", "A.png"],
        ["a.png", "b/a.png", "a-1.png", "b/a-1.png", "a-1-1.png"],
        ["a-1.png", "b/A-1.png", "a.png", "b/a.png", "c/a.png", "a-1-2.png"],
        ["A-2.png", "a.png", "b/a.png", "c/a.png", "a-3.png", "a-4-1.png", "a-4.png", "b/a-4.png"],
    ],
)
def test_no_two_restored_pictures_have_one_name_where_case_does_not_count(names):
    found = task.targets(names)
    assert len({name.lower() for name in found}) == len(names)
    stems = [Path(name).stem.lower() for name in names]
    for name, stem in zip(found, stems, strict=True):
        assert name.lower().startswith(stem) and (stems.count(stem) > 1 or name.lower() == f"{stem}.png")


def test_bad_input_is_one_line(runs, few, capsys, tmp_path):
    text = tmp_path / "x.png"
    text.write_text("no picture")
    (tmp_path / "empty").mkdir()
    start = "--model.start"
    for words, says in (
        (["train", "classify"], "train classify --model.start RUN"),
        (["train", "classify", start, "nowhere"], "nowhere is no run folder"),
        (["train", "classify", start, runs / "classifier"], "is a classifier"),
        (["train", "classify", start, tmp_path / "empty"], "is no run folder"),
        (["train", start, runs / "ae"], "train classify --model.start RUN"),
        (["train", "classify", start, runs / "ae", "--model.latent", "128"], "leave the other knobs of model out"),
        (["train", "classify", start, runs / "ae", "--objective.kl", "2"], "leave the knobs of objective out"),
        (["train", "--probe.depth", "1"], "are for a classifier"),
        (["train", "--data", "start"], "is for a classifier"),
        (["train", "--data", "cifar11"], "choose sample, cifar10, cifar100"),
        (["train", "--model.latent", "0"], "model.latent must be at least 1, not 0"),
        (["train", "--model.latent", "4000"], "more than the 3,072 numbers"),
        (["train", "--model.kind", "vq", "--model.latent", "50"], "16, 64 or 256"),
        (["train", "--data", few, "--model.kind", "vq", "--model.codes", "9000"], "model.codes 9000 is more than"),
        (["train", "--model.levels", "1"], "each at least 2"),
        (["train", "--objective.kl", "5"], "objective.kl does nothing with model.kind ae"),
        (["train", "--model.kind", "fsq", "--objective.warmup", "3"], "objective.warmup does nothing with"),
        (["train", "--model.kind", "vae", "--objective.commitment", "1"], "or use --model.kind vq"),
        (["train", "--model.codes", "64"], "model.codes does nothing with model.kind ae"),
        (["train", "--model.kind", "vae", "--model.code", "4"], "model.code does nothing with model.kind vae"),
        (["train", "--model.kind", "fsq", "--model.decay", "0.9"], "model.decay does nothing with model.kind fsq"),
        (["train", "--model.no-restart"], "model.restart does nothing with model.kind ae"),
        (["train", "--model.kind", "vq", "--model.levels", "4", "4"], "or use --model.kind fsq"),
        (["train", "classify", start, runs / "ae", "--probe.features", "sample"], "has model.kind ae"),
        (["train", "--model.width", "1000000000"], "more than 250,000,000"),
        (["train", "--model.depth", "1001"], "model.depth must be at most 1,000, not 1,001"),
        (["train", "--model.kind", "vq", "--model.codes", "9000000"], "model.codes must be at most 1,048,576"),
        (["train", "--model.kind", "vq", "--model.code", "1000000000"], "more than 250,000,000"),
        (["train", "classify", start, runs / "ae", "--probe.hidden", "1000000000"], "more than 250,000,000"),
        (["train", "--model.decay", "1"], "model.decay is a probability"),
        (["train", "--objective.mask", "1"], "objective.mask is a probability"),
        (["train", "--objective.kl", "nan"], "objective.kl must be at least 0"),
        (["train", "--data.held-out", "0"], "data.held-out is a part"),
        (["train", "--model.kind", "vq", "--fit.batch-size", "1"], "at least 2 pictures at a time"),
        (["evaluate", "nowhere"], "is no run folder"),
        (["predict", runs / "ae", "nowhere.png"], "there is no file nowhere.png"),
        (["predict", runs / "ae", text], "cannot be read as an image"),
        (["predict", runs / "ae", runs / "ae"], "cannot be read as an image"),
        (["predict", runs / "classifier", text], "cannot be read as an image"),
    ):
        refused(words, says, capsys)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "x.png"]


def test_a_run_of_another_task_is_refused(capsys, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("objective: {samples: 8}\n")
    refused(["train", "classify", "--model.start", tmp_path / "other"], "unknown key objective.samples", capsys)


def test_a_run_leaves_pictures_before_during_and_after(runs):
    names = {file.name for file in (runs / "ae" / "samples").iterdir()}
    each = {f"{what}-{when}.png" for what in ("restored", "samples") for when in ("epoch-000", "epoch-001", "end")}
    assert each <= names
    assert {"walks.png", "one-number-at-a-time.png", "architecture.png", "error-against-bits.png"} <= names
    assert {"confusion.png", "worst-mistakes.png"} <= {f.name for f in (runs / "classifier" / "samples").iterdir()}
    [labels] = (runs / "ae" / "tb").rglob("metadata.tsv")
    assert set(labels.read_text().split()) - {"class"} <= set(sample.CLASSES)


def test_the_projector_has_the_class_and_the_picture_of_every_latent(runs, few):
    part = data.load(Data(few, held_out=0.3)).valid
    for name in ("ae", "classifier"):
        tb = runs / name / "tb"
        [shown] = text_format.Parse((tb / "projector_config.pbtxt").read_text(), ProjectorConfig()).embeddings
        assert (tb / shown.metadata_path).read_text().split() == [sample.CLASSES[k] for k in part.classes]
        assert list(shown.sprite.single_image_dim) == [32, 32]
        with Image.open(tb / shown.sprite.image_path) as sprite:
            side = math.ceil(math.sqrt(len(part)))
            assert sprite.size == (32 * side, 32 * side)
            cells = np.asarray(sprite).reshape(side, 32, side, 32, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(cells[: len(part)], part.pictures)


def config_of(folder):
    return run.read_config(folder, Config)


def test_a_codebook_is_the_same_over_pieces_of_an_epoch_that_is_resumed(few, tmp_path):
    """What the battery holds bit by bit, said of the codebook by name: it is in the checkpoint."""
    flags = ["--data", few, *SMALL, *KINDS["vq"], "--fit.epochs", "1"]
    assert main(["train", *flags, "--run", "r"]) == 0
    state = checkpoint.load(tmp_path / "r" / "checkpoints" / "last.pt")["model"]
    one = task.make(config_of(tmp_path / "r"), torch.device("cpu")).model
    before = one.state_dict()["book.seen.running_mean"]
    assert not torch.equal(state["book.seen.running_mean"], before)
    assert state["book.seen.num_batches_tracked"] == 4
