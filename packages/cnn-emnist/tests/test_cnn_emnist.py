import itertools
import json
import os
import struct
from functools import partialmethod

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cnn_emnist import data, frame, task
from cnn_emnist.__main__ import PACKAGE, main
from cnn_emnist.config import Config, Model
from cnn_emnist.model import CNN
from etude import cli, config
from etude.errors import UserError
from etude.testing import check_presets, check_task

SMALL = ["--model.channels", "4", "--model.layers", "2", "--model.dropout", "0.2", "--fit.batch-size", "1000"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Ten test letters of the sample as PNG files, and what they are."""
    folder = tmp_path_factory.mktemp("letters")
    part = data.load("sample", 0).test
    files = []
    for n in range(0, 1000, 100):
        files.append(folder / f"{n}.png")
        Image.fromarray(part.images[n].numpy()).save(files[-1])
    return files, ["ABCDEFGHIJKLMNOPQRSTUVWXYZ"[part.labels[n]] for n in range(0, 1000, 100)]


def test_the_battery(tmp_path, letters):
    check_task(PACKAGE, SMALL, [str(file) for file in letters[0]], tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    flags = ["--model.channels", "8", "--model.layers", "3", "--fit.epochs", "3", "--fit.lr", "1e-2"]
    assert main(["train", "--run", str(folder), *flags]) == 0
    return folder


def knobs():
    for kernel, layers, stages, pooling, padding, norm in itertools.product(
        (1, 3, 4, 5), (1, 2, 5), (1, 3), ("max", "average", "stride", "none"), ("same", "none"), (True, False)
    ):
        try:
            yield Model(kernel, layers, 3, stages, pooling, padding, norm)
        except UserError:
            continue


def obvious(model, knob, images):
    """The network once more, slowly and in float64: sums over windows, batch norm by its formula, pooling last."""
    x = ((images.double() - model.mean.double()) / model.std.double())[:, None]
    for block, (_, ends) in zip(model.features, knob.plan(), strict=True):
        conv = block[0]
        pad = knob.kernel // 2 if knob.padding == "same" else 0
        stride = 2 if ends and knob.pooling == "stride" else 1
        x = F.pad(x, (pad,) * 4)
        windows = x.unfold(2, knob.kernel, stride).unfold(3, knob.kernel, stride)
        x = torch.einsum("bchwij,ocij->bohw", windows, conv.weight.double())
        if conv.bias is not None:
            x = x + conv.bias.double()[:, None, None]

        def pool(y, ends=ends):
            if not ends or knob.pooling not in ("max", "average"):
                return y
            squares = y.unfold(2, 2, 2).unfold(3, 2, 2)
            return squares.amax((4, 5)) if knob.pooling == "max" else squares.mean((4, 5))

        if knob.pooling == "max":
            x = pool(x)
        for norm in (m for m in block if isinstance(m, torch.nn.BatchNorm2d)):
            mean, var = (t.double()[:, None, None] for t in (norm.running_mean, norm.running_var))
            weight, bias = (t.double()[:, None, None] for t in (norm.weight, norm.bias))
            x = (x - mean) / (var + norm.eps).sqrt() * weight + bias
        x = x.clamp(min=0)
        if knob.pooling == "average":
            x = pool(x)
    return x.flatten(1) @ model.classify.weight.double().T + model.classify.bias.double()


def test_every_buildable_network_equals_the_obvious_one():
    torch.manual_seed(0)
    images = torch.rand(3, 28, 28)
    count = 0
    for knob in knobs():
        model = CNN(knob, 26).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
        model.mean.fill_(0.2), model.std.fill_(0.3)
        with torch.no_grad():
            logits = model(images)
            torch.testing.assert_close(logits.double(), obvious(model, knob, images), rtol=1e-3, atol=1e-4)
        assert model.classify.in_features == knob.plan()[-1][0] * knob.sizes()[-1] ** 2
        count += 1
    assert count > 200


def test_the_head_may_see_the_mean_over_all_places():
    torch.manual_seed(0)
    knob = Model(layers=3, channels=4, pooling="none", head="average")
    model, images = CNN(knob, 26).eval(), torch.rand(3, 28, 28)
    assert model.classify.in_features == knob.plan()[-1][0] == 16
    maps = model.features(images[:, None])
    assert maps.shape == (3, 16, 28, 28)
    expected = maps.flatten(2).mean(2) @ model.classify.weight.T + model.classify.bias
    torch.testing.assert_close(model(images), expected)


def test_the_maximum_may_be_taken_before_relu():
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(F.relu(F.max_pool2d(x, 2)), F.max_pool2d(F.relu(x), 2))


def test_the_answer_of_six_views_is_their_mean():
    torch.manual_seed(0)
    plain = CNN(Model(layers=2, channels=4), 10).eval()
    viewing = CNN(Model(layers=2, channels=4), 10, views=True).eval()
    viewing.load_state_dict(plain.state_dict())
    images = torch.rand(5, 28, 28)
    seen = []
    for step in (-1, 0, 1):
        moved = torch.zeros_like(images)
        for row, column in itertools.product(range(28), range(28)):
            if 0 <= row + step < 28 and 0 <= column + step < 28:
                moved[:, row, column] = images[:, row + step, column + step]
        seen += [plain(moved).softmax(1), plain(moved.flip(-1)).softmax(1)]
    torch.testing.assert_close(viewing(images).exp(), sum(seen) / 6)
    viewing.train()
    assert torch.equal(viewing.logits(images), viewing(images))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model.kernel 9 --model.padding none --model.layers 4", "the image shrinks to nothing in convolution"),
        ("--model.stages 6 --model.layers 6", "the image shrinks to nothing in convolution 5 of 6"),
        ("--model.kernel 4", "model.kernel 4 is even"),
        ("--model.pooling none --model.stages 40 --model.layers 40", "this network would have more than"),
        ("--fit.batch-size 1", "batch norm needs at least 2 images"),
        ("--fit.seed 18446744073709551616", "fit.seed must be below 2^63"),
        ("--fit.accumulate 200", "fit.accumulate 200 is more pieces than fit.batch-size 128"),
        ("--model.layers 0", "model.layers must be at least 1"),
        ("--model.dropout 1", "model.dropout is a probability"),
        ("--label-smoothing 1", "label-smoothing is a part"),
        ("--data letters", "data must be one of sample, emnist-letters, fashion-mnist, mnist"),
        ("--model.kernl 3", "did you mean 'model.kernel'?"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_written(flags, message, capsys, tmp_path):
    assert main(["train", *flags.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_convnet_is_the_classic_network():
    parsed = config.parse(Config, ["convnet", "--data", "mnist"], package="cnn_emnist")
    assert [(width, side) for (width, _), side in zip(parsed.model.plan(), parsed.model.sizes(), strict=True)] == [
        (8, 12),
        (16, 4),
    ]
    model = CNN(parsed.model, 10)
    assert sum(p.numel() for p in model.parameters()) == (25 * 8 + 8) + (25 * 8 * 16 + 16) + (256 * 10 + 10)


def test_presets_and_studies_that_install_with_the_package_can_be_parsed():
    garments = ["fashion-batch-norm", "fashion-kernel-size", "fashion-layers", "fashion-pooling"]
    studies = ["batch-norm", "dropout", *garments, "kernel-size", "layers", "pooling"]
    check_presets(PACKAGE, ["best", "convnet"], studies)


def test_a_compiled_model_trains_to_the_end_and_shows_its_graph(monkeypatch, tmp_path):
    """With dynamo, but without the code generator, which needs a C++ compiler and half a minute."""
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    assert main(["train", "--run", "r", *SMALL, "--fit.compile", "--fit.epochs", "1"]) == 0
    assert (tmp_path / "r" / "result.json").is_file()


def test_predict_reads_letters_of_any_size_and_polarity(trained, letters, capsys, tmp_path):
    files, truth = letters
    big = []
    for n, file in enumerate(files):
        with Image.open(file) as picture:
            paper = Image.eval(picture.resize((90 + n, 130)), lambda v: 255 - v)
            big.append(tmp_path / f"big{n}.jpg")
            paper.convert("RGB").save(big[-1], quality=95)
    hits = 0
    for group in (files, big):
        capsys.readouterr()
        assert main(["predict", str(trained), *map(str, group)]) == 0
        lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert [line[0] for line in lines] == [str(file) for file in group]
        assert all(0 < float(line[2]) <= 1 for line in lines)
        hits += sum(line[1] == letter for line, letter in zip(lines, truth, strict=True))
    assert hits >= 15  # of 20


def test_erase_is_for_garments_that_are_varied():
    config.parse(Config, ["--data", "fashion-mnist", "--erase", "4"])
    for flags in (["--erase", "4"], ["--data", "fashion-mnist", "--no-augment", "--erase", "4"]):
        with pytest.raises(UserError, match="erase does nothing but to fashion-mnist with augment"):
            config.parse(Config, flags)


def test_predict_answers_an_image_of_the_test_part_as_evaluate_does(trained):
    """Those of the sample are of many sizes; all but a few come back as they were, and are not scaled anew."""
    one, images = cli.restored(PACKAGE, trained), data.load("sample", 0).test.images[:300]
    assert len(set(frame.long_sides(images).tolist())) > 5
    read = [frame.frame(Image.fromarray(image.numpy()), one.side, spread=one.spread) for image in images]
    assert sum(not a.equal(b) for a, b in zip(read, images, strict=True)) <= 3


def test_predict_writes_a_file_or_nothing(trained, letters, capsys, tmp_path):
    (tmp_path / "broken.png").write_bytes(letters[0][0].read_bytes()[:60])
    (tmp_path / "text.png").write_text("no image")
    os.mkfifo(tmp_path / "pipe.png")
    head = struct.pack("<7I44x2I4s5I", 124, 0x1007, 8, 8, 0, 0, 0, 32, 4, b"ABCD", 0, 0, 0, 0, 0)
    (tmp_path / "a.dds").write_bytes(b"DDS " + head + bytes(84))  # a format in which Pillow raises NotImplementedError
    Image.new("L", (50, 50), 255).save(tmp_path / "blank.png")
    for name, message in [
        ("broken.png", "broken.png"),
        ("text.png", "text.png cannot be read as an image"),
        ("blank.png", "no ink in"),
        ("none.png", "there is no file none.png"),
        ("a.dds", "a.dds cannot be read as an image: "),
        ("pipe.png", "pipe.png cannot be read as an image: it is not a regular file"),
        (".", ". cannot be read as an image: it is a folder"),
        ("", " cannot be read as an image: it is a folder"),
    ]:
        capsys.readouterr()
        assert main(["predict", str(trained), str(letters[0][0]), name, "--out", "out.txt"]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
        assert not (tmp_path / "out.txt").exists()
    assert main(["predict", str(trained), str(letters[0][0]), "--out", "out.txt"]) == 0
    assert (tmp_path / "out.txt").read_text().count("\t") == 2


def test_evaluate_ends_with_one_json_line_that_agrees_with_predictions(trained, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(trained)]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    one = task.make(config.parse(Config, [str(trained / "config.yaml")]), CPU)
    one.model.load_state_dict(torch.load(trained / "checkpoints" / "best.pt", weights_only=True)["model"])
    part = data.load("sample", 0).test
    answers, truth = one.probabilities(part.images).argmax(1).numpy(), part.labels.numpy()
    assert scores["accuracy"] == pytest.approx((answers == truth).mean(), abs=0.005)  # bf16 against fp32
    by_hand = []
    for k in range(26):
        hits = ((answers == k) & (truth == k)).sum()
        by_hand.append(2 * hits / ((answers == k).sum() + (truth == k).sum()))
    assert scores["macro_f1"] == pytest.approx(np.mean(by_hand), abs=0.01)
    assert scores["images"] == len(truth)
    assert list(scores["per_class"]) == list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def test_a_run_leaves_pictures_before_during_and_after(trained):
    names = sorted(file.name for file in (trained / "samples").iterdir())
    assert names == [
        "confusion.png",
        "predictions-end.png",
        *(f"predictions-epoch-{n:03d}.png" for n in range(4)),
        "worst-mistakes.png",
    ]
    before, after = (np.asarray(Image.open(trained / "samples" / names[n])) for n in (2, 1))
    assert before.shape == after.shape
    assert (before != after).any()


@pytest.mark.real_data
def test_evaluate_on_other_data_needs_the_same_classes(trained, capsys):
    assert main(["evaluate", str(trained), "--data", "emnist-letters"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"] > 0.2
    assert main(["evaluate", str(trained), "--data", "mnist"]) == 2
    assert "this run knows the 26 classes" in capsys.readouterr().err


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "floor"), [("fashion-mnist", 0.8), ("mnist", 0.95)])
def test_real_images_are_learnt(name, floor, capsys):
    """One epoch of a small network on 55,000 real images."""
    assert main(["train", "convnet", "--data", name, "--run", "r", "--fit.epochs", "1"]) == 0
    assert main(["evaluate", "r"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"] > floor
