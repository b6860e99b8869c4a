"""The encoder, and what is kept of what it sees."""

import errno
import io
import json
import os
import sqlite3
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision import models

from coco_caption import features as keeping
from coco_caption import images
from coco_caption.encoder import Encoder, build
from coco_caption.features import features
from etude.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder():
    return Encoder("squeezenet1_1", "random", None, CPU)


@pytest.fixture
def files(tmp_path):
    """Twelve images; the two last ones have the same content."""
    found = []
    for n in range(12):
        found.append(tmp_path / f"{n}.png")
        colour = np.random.default_rng(min(n, 10)).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(colour).save(found[-1])
    return found


@pytest.fixture
def counted(encoder, monkeypatch):
    """How many images the encoder has seen."""
    seen = []
    monkeypatch.setattr(
        Encoder, "__call__", lambda self, some, spatial, f=Encoder.__call__: seen.extend(some) or f(self, some, spatial)
    )
    return seen


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) < 600
    return message


# --- the encoder


def test_it_sees_what_torchvision_would(encoder):
    """The whole network, run as torchvision's documentation says, with a hook where its last layer begins."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8))
    whole = build("squeezenet1_1", None, "random")
    seen = []
    whole.classifier.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    whole(models.SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms()(picture)[None])
    given = [encoder.preprocess(picture)]
    torch.testing.assert_close(encoder(given, False)[0].float(), seen[0].mean((2, 3))[0], rtol=2e-3, atol=2e-3)
    parts = F.adaptive_avg_pool2d(seen[0], 7)[0].flatten(1).T
    torch.testing.assert_close(encoder(given, True)[0].float(), parts, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [("resnet18", 512), ("mobilenet_v3_small", 576), ("shufflenet_v2_x0_5", 1024), ("resnet152", 2048)],
)
def test_other_backbones(backbone, channels):
    encoder = Encoder(backbone, "random", None, CPU)
    assert (encoder.channels, encoder.grid) == (channels, (7, 7))
    seen = encoder([torch.zeros(3, 224, 224)] * 2, True)
    assert seen.shape == (2, 49, channels) and seen.dtype == torch.float16 and bool(seen.isfinite().all())
    assert "random weights, never trained" in str(encoder)


def test_random_weights_are_always_the_same(encoder):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = Encoder("squeezenet1_1", "random", None, CPU)
    assert again.digest == encoder.digest and torch.equal(torch.random.get_rng_state(), before)


def test_weights_of_a_file(encoder, tmp_path):
    """However it is packed; and a checkpoint's, from what it kept."""
    state = models.squeezenet1_1(weights=None).state_dict()
    torch.save(state, tmp_path / "a.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "b.pth")
    torch.save({key: value for key, value in state.items() if "classifier" not in key}, tmp_path / "c.pth")
    a, b, c = (Encoder("squeezenet1_1", str(tmp_path / name), None, CPU) for name in ("a.pth", "b.pth", "c.pth"))
    assert a.digest == b.digest == c.digest != encoder.digest
    kept = Encoder("squeezenet1_1", str(tmp_path / "gone.pth"), a.state(), CPU)
    assert kept.digest == a.digest
    assert torch.equal(kept([torch.ones(3, 224, 224)], False), a([torch.ones(3, 224, 224)], False))


def test_weights_that_are_refused(tmp_path):
    torch.save(models.squeezenet1_0(weights=None).state_dict(), tmp_path / "other.pth")
    torch.save(models.resnet18(weights=None).state_dict(), tmp_path / "resnet.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(Encoder, tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "resnet.pth").read_bytes()[:5000])
    for name, says in (
        ("other.pth", "are not those of squeezenet1_1 .its features.0.bias is .96., not .64."),
        ("resnet.pth", "are not those of squeezenet1_1 .it lacks features"),
        ("list.pth", "holds no state dict"),
        ("code.pth", "is refused"),
        ("text.pth", "is refused|cannot be read as a file of weights"),
        ("empty.pth", "cannot be read as a file of weights"),
        ("cut.pth", "cannot be read as a file of weights|is refused"),
        (
            "nowhere.pth",
            "there are no weights .*give --encoder.weights a file, random, or of squeezenet1_1 one of IMAGENET",
        ),
    ):
        with pytest.raises(UserError, match=says) as error:
            Encoder("squeezenet1_1", str(tmp_path / name), None, CPU)
        one_line(error)
    for name in ("resnet", "vit_b_16", "lraspp_mobilenet_v3_large", "nonsense"):
        with pytest.raises(UserError, match="there is no encoder.backbone"):
            Encoder(name, "random", None, CPU)


def test_published_weights_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no network"))
    )
    with pytest.raises(
        UserError, match="IMAGENET1K_V1 of resnet152 could not be downloaded from http.*no network"
    ) as e:
        Encoder("resnet152", "IMAGENET1K_V1", None, CPU)
    assert str(tmp_path) in one_line(e) and "--encoder.weights" in str(e.value)
    place = tmp_path / "hub/checkpoints"
    place.mkdir(parents=True, exist_ok=True)
    (place / "resnet152-394f9c45.pth").write_bytes(b"cut off")
    with pytest.raises(UserError, match="resnet152-394f9c45.pth cannot be read .*delete it"):
        Encoder("resnet152", "IMAGENET1K_V1", None, CPU)


# --- what is kept


@pytest.mark.parametrize("spatial", [False, True])
def test_features_are_those_of_the_encoder(files, encoder, tmp_path, spatial):
    found = features(files, encoder, spatial, str(tmp_path / "kept"))
    wanted = encoder([encoder.preprocess(images.read(file)) for file in files], spatial)
    assert isinstance(found.stored, np.memmap) and found.stored.dtype == np.float16
    got = found[np.array([11, 3, 0, 3])]
    torch.testing.assert_close(got, wanted[[11, 3, 0, 3]], rtol=2e-3, atol=2e-3)
    assert len(found.stored) == 11  # two images are the same


def test_nothing_is_computed_twice(files, encoder, tmp_path, counted):
    place = str(tmp_path / "kept")
    first = features(files[:5], encoder, False, place)
    assert len(counted) == 5
    again = features(files, encoder, False, place)
    assert len(counted) == 11
    assert torch.equal(again[np.arange(5)], first[np.arange(5)])
    moved = files[0].rename(tmp_path / "moved.png")
    features([moved, *files[1:]], encoder, False, place)
    assert len(counted) == 11  # known by content
    Image.new("RGB", (9, 9), "red").save(files[1])
    changed = features([files[1]], encoder, False, place)
    assert len(counted) == 12 and not torch.equal(changed[np.array([0])], first[np.array([1])])


def test_the_key(files, encoder, tmp_path, counted):
    """Other weights, another preprocessing, parts instead of the mean: each has features of its own."""
    from dataclasses import replace

    place = str(tmp_path / "kept")
    features(files[:1], encoder, False, place)
    other = Encoder("squeezenet1_1", "random", None, CPU)
    other.preprocess = replace(other.preprocess, resize=300)
    features(files[:1], other, False, place)
    features(files[:1], encoder, True, place)
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "a.pth")
    features(files[:1], Encoder("squeezenet1_1", str(tmp_path / "a.pth"), None, CPU), False, place)
    assert len(counted) == 4
    assert len([*(tmp_path / "kept").iterdir()]) == 4
    features(files[:1], encoder, False, place)
    assert len(counted) == 4


def test_broken_images_stop_nothing(files, encoder, tmp_path, counted):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole, "JPEG")
    files[2].write_bytes(whole.getvalue()[:900])
    files[3].write_bytes(b"")
    for number in (4, 5, 6):
        files[number].unlink()
    head = struct.pack("<7I44x2I4s5I", 124, 0x1007, 8, 8, 0, 0, 0, 32, 4, b"ABCD", 0, 0, 0, 0, 0)
    files[5].write_bytes(b"DDS " + head + bytes(84))  # a format in which Pillow raises NotImplementedError
    os.mkfifo(files[6])
    found = features(files, encoder, False, str(tmp_path / "kept"))
    assert found.broken.keys() == {2, 3, 4, 5, 6} and found.broken[4] == "No such file or directory"
    assert "truncated" in found.broken[2] and found.broken[6] == "it is no regular file"
    assert (found.rows < 0).tolist() == [n in (2, 3, 4, 5, 6) for n in range(12)]
    assert len(counted) == 6
    again = features(files, encoder, False, str(tmp_path / "kept"))
    assert again.broken == found.broken and len(counted) == 6


def test_an_interrupted_pass_goes_on(files, encoder, tmp_path, counted, monkeypatch):
    """Killed in the third group, with half a row in the file."""
    monkeypatch.setattr(keeping, "TOGETHER", 2)
    place = str(tmp_path / "kept")
    add = keeping.Index.add

    def killed(self, rows):
        if len(counted) > 5:
            raise KeyboardInterrupt
        add(self, rows)

    monkeypatch.setattr(keeping.Index, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        features(files, encoder, False, place)
    monkeypatch.setattr(keeping.Index, "add", add)
    (store,) = (tmp_path / "kept").glob("*/features.bin")
    with store.open("ab") as out:
        out.write(b"half a row")
    before = len(counted)
    found = features(files, encoder, False, place)
    assert len(counted) - before == 11 - 4
    fresh = features(files, encoder, False, str(tmp_path / "fresh"))
    torch.testing.assert_close(found[np.arange(12)], fresh[np.arange(12)], rtol=2e-3, atol=2e-3)


def test_rows_that_got_lost_are_computed_again(files, encoder, tmp_path, counted):
    place = str(tmp_path / "kept")
    was = features(files, encoder, False, place)[np.arange(12)]
    (store,) = (tmp_path / "kept").glob("*/features.bin")
    os.truncate(store, 5 * 2 * encoder.channels + 7)
    again = features(files, encoder, False, place)[np.arange(12)]
    assert len(counted) == 11 + 6
    torch.testing.assert_close(again, was, rtol=2e-3, atol=2e-3)


class Full(io.BytesIO):
    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["rows", "index"])
def test_a_full_disk(files, encoder, tmp_path, monkeypatch, where):
    """One line; and what was encoded before stays."""
    monkeypatch.setattr(keeping, "TOGETHER", 4)
    place = str(tmp_path / "kept")
    features(files[:4], encoder, False, place)
    if where == "rows":
        monkeypatch.setattr(os, "fsync", lambda _: Full().write(b""))
    else:

        def full(self, rows):
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(keeping.Index, "add", full)
    with pytest.raises(UserError, match="features cannot be kept in .*the disk is full .*: free some space") as error:
        features(files, encoder, False, place)
    one_line(error)
    monkeypatch.undo()
    assert not features(files, encoder, False, place).broken


def test_places_that_cannot_be_used(files, encoder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="features cannot be kept in .*give --encoder.cache another folder") as error:
        features(files, encoder, False, str(tmp_path / "file"))
    one_line(error)
    place = tmp_path / "kept"
    features(files, encoder, False, str(place))
    (index,) = place.glob("*/index.sqlite")
    index.write_bytes(b"no data base at all" * 100)
    with pytest.raises(UserError, match="features cannot be kept in .*not a database") as error:
        features(files, encoder, False, str(place))
    one_line(error)


def test_memory_is_bounded(encoder, tmp_path, monkeypatch):
    """Twice as many images take no more memory."""
    monkeypatch.setattr(keeping, "TOGETHER", 2)
    monkeypatch.setattr(Encoder, "__call__", lambda self, some, spatial: torch.zeros(len(some), 512).half())
    peaks = []
    for count in (10, 40):
        files = []
        for n in range(count):
            files.append(tmp_path / f"{count}-{n}.png")
            Image.new("RGB", (16, 16), (n, count, 0)).save(files[-1])
        tracemalloc.start()
        features(files, encoder, False, str(tmp_path / f"kept{count}"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 500_000


def test_what_is_kept_can_be_read(files, encoder, tmp_path):
    features(files[:1], encoder, False, str(tmp_path / "kept"))
    (said,) = (tmp_path / "kept").glob("*/what.json")
    content = json.loads(said.read_text())
    assert content["backbone"] == "squeezenet1_1" and content["weights"] == encoder.digest
    assert content["preprocessing"]["crop"] == 224
