"""Pictures: drawn, published, in folders; files that lie or would run code."""

import hashlib
import os
import pickle
import subprocess
import sys
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_vae import batches, data, pictures, sample, yardsticks
from cifar_vae.__main__ import main
from cifar_vae.config import Data
from etude.download import root
from etude.errors import UserError
from etude.images import Broken

# -- the sample


def test_the_sample_is_a_function_of_the_number_and_has_every_class_equally_often():
    train, classes = sample.drawn("train", 120)
    assert np.array_equal(train[:40], sample.scenes("train", np.arange(40)))
    assert np.array_equal(train[[3, 77]], sample.scenes("train", np.array([3, 77])))
    assert np.bincount(classes).tolist() == [12] * 10
    others = np.concatenate([train, sample.drawn("valid", 120)[0], sample.drawn("test", 120)[0]])
    assert len(np.unique(data.marks(others))) == 360


def test_a_linear_code_fails_on_the_sample():
    """As on CIFAR-10 (0.00839 and 0.00508 of a variance of 0.062), many numbers leave a good part of the variance."""
    train, test = sample.drawn("train", 1500)[0], sample.drawn("test", 400)[0]
    errors = yardsticks.pca(yardsticks.spectrum(train), test)
    assert errors[64] > 0.10 * errors[0] and errors[128] > 0.06 * errors[0]


# -- published files


def test_published_files_of_either_python_are_read(tmp_path, helpers):
    folder = Path(helpers.write_batches(tmp_path, 30, 20)) / "cifar-10-batches-py"
    x, y = batches.part(folder / "data_batch_1", "labels", 10)
    assert np.array_equal(x, sample.drawn("train", 30)[0]) and y.tolist() == [i % 10 for i in range(30)]
    # As Python 2 and NumPy 1 wrote them: keys and names are bytes, the module is numpy.core.
    old = pickle.dumps({b"labels": [1, 0], b"data": np.arange(6144, dtype=np.uint8).reshape(2, 3072)}, 2)
    (tmp_path / "old").write_bytes(old.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    x, y = batches.part(tmp_path / "old", "labels", 10)
    assert x.shape == (2, 3, 32, 32) and x.reshape(-1)[:300].tolist() == [i % 256 for i in range(300)]
    assert y.tolist() == [1, 0]
    assert batches.names(folder / "batches.meta", "label_names") == sample.CLASSES


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        (os.mkdir, ("made",)),
        (eval, ("__import__('os').mkdir('made')",)),
        (subprocess.call, (["mkdir", "made"],)),
        (np.load, ("x",)),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_in_a_file_is_run(call, protocol, tmp_path):
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": Evil(*call), "labels": [0]}, protocol))
    with pytest.raises(UserError, match="is refused: it asks for .* could run code") as error:
        batches.part(tmp_path / "batch", "labels", 10)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made").exists()


def rows(count=4, size=3072, kind=np.uint8):
    return np.zeros((count, size), kind)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is damaged"),
        (b"not a pickle", "is damaged"),
        (pickle.dumps({"data": rows(), "labels": [0] * 4}, 2)[:-2000], "is damaged"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({"labels": [0]}), "has no 'data'"),
        (pickle.dumps({"data": rows()}), "has no 'labels'"),
        (pickle.dumps({"data": rows(4, 3071), "labels": [0] * 4}), "no rows of 3,072 bytes"),
        (pickle.dumps({"data": rows(kind=np.float32), "labels": [0] * 4}), "no rows of 3,072 bytes"),
        (pickle.dumps({"data": np.asfortranarray(rows()), "labels": [0] * 4}), "no rows of 3,072 bytes"),
        (pickle.dumps({"data": rows(0), "labels": []}), "no rows of 3,072 bytes"),
        (pickle.dumps({"data": [[0] * 3072], "labels": [0]}), "no rows of 3,072 bytes"),
        (pickle.dumps({"data": rows(), "labels": [0] * 3}), "no class for each of its 4 pictures"),
        (pickle.dumps({"data": rows(), "labels": "0000"}), "no class for each of its 4 pictures"),
        (pickle.dumps({"data": rows(), "labels": [0, 1, 2, 10]}), "classes outside 0..9"),
        (pickle.dumps({"data": rows(), "labels": [0, 1, 2, -1]}), "classes outside 0..9"),
    ],
)
def test_a_damaged_batch_is_one_line(content, says, few, tmp_path, capsys, helpers):
    helpers.copy(few, tmp_path / "set")
    file = tmp_path / "set" / "cifar-10-batches-py" / "test_batch"
    file.write_bytes(content)
    with pytest.raises(UserError, match=says):
        batches.part(file, "labels", 10)
    assert main(["train", "--data", str(tmp_path / "set")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert str(file) in line and "put a whole copy" in line
    assert not (tmp_path / "runs").exists()


def test_an_array_that_lies_about_its_shape_is_refused(tmp_path):
    """A pickle whose array says that it is larger than its bytes."""
    content = pickle.dumps({"data": rows(3), "labels": [0] * 3}, 2)
    at = content.index(b"K\x03M\x00\x0c")  # the shape, 3 and 3072
    (tmp_path / "b").write_bytes(content[:at] + b"K\x7f" + content[at + 2 :])
    with pytest.raises(UserError, match="no rows of 3,072 bytes"):
        batches.part(tmp_path / "b", "labels", 10)


def test_a_set_that_is_not_whole_says_so(few, capsys):
    found = data.load(Data(few, held_out=0.3))
    assert [len(part) for part in (found.train, found.valid, found.test)] == [96, 40, 60]
    assert "not whole" in found.note and found.classes == sample.CLASSES
    again = data.load(Data(str(Path(few) / "cifar-10-batches-py"), held_out=0.3))
    assert np.array_equal(found.train.pictures, again.train.pictures)
    less = data.load(Data(few, held_out=0.3, images=50))
    assert len(less.train) == 50 and np.array_equal(less.valid.pictures, found.valid.pictures)
    assert np.isin(data.marks(less.train.pictures), data.marks(found.train.pictures)).all()


# -- downloads


@pytest.fixture
def server(few, tmp_path, monkeypatch):
    """CIFAR-10 and CIFAR-100 as archives on a server of our own, which torchvision is told is theirs."""
    from torchvision import datasets

    place, home = tmp_path / "served", tmp_path / "home"
    place.mkdir()
    home.mkdir()
    monkeypatch.setenv("ETUDE_DATA", str(home))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with tarfile.open(place / "cifar-10-python.tar.gz", "w:gz") as out:
        out.add(Path(few) / "cifar-10-batches-py", "cifar-10-batches-py")
        (tmp_path / "outside").write_text("x")
        out.add(tmp_path / "outside", "../outside")  # which is not unpacked
    handler = lambda *of: Quiet(*of, directory=str(place))  # noqa: E731
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    archive = place / "cifar-10-python.tar.gz"
    monkeypatch.setattr(datasets.CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    yield archive
    server.shutdown()
    server.server_close()
    thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_download_is_checked_and_unpacked_once(server, capsys):
    found = data.load(Data("cifar10"))
    assert len(found.test) == 60 and found.classes == sample.CLASSES
    assert sorted(p.name for p in (root() / "cifar-10-batches-py").iterdir()) == [
        "batches.meta",
        "data_batch_1",
        "test_batch",
    ]
    assert not (root().parent / "outside2").exists()
    server.unlink()
    assert len(data.load(Data("cifar10")).test) == 60
    assert capsys.readouterr().err.count("fetching cifar10") == 1


def test_an_archive_that_is_another_leaves_nothing(server, capsys):
    server.write_bytes(server.read_bytes()[:-5] + b"other")
    assert main(["train", "--data", "cifar10"]) == 2
    [said, line] = capsys.readouterr().err.splitlines()
    assert "md5" in line and "--data sample" in line
    assert list(root().iterdir()) == []


# -- folders of pictures


def picture(file, seed, size=(32, 32), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(values).convert(mode).save(file)


def test_the_first_pictures_of_a_folder_are_of_all_classes(tmp_path):
    """Starts, probes and pictures are made of the first so many of a part."""
    images, classes = sample.drawn("test", 200)
    for n, k in enumerate(classes):
        (tmp_path / "set" / f"c{k}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[n].transpose(1, 2, 0)).save(tmp_path / "set" / f"c{k}" / f"{n:03}.png")
    found = data.load(Data(str(tmp_path / "set"), held_out=0.3, images=90))
    assert len(found.train) == 90
    for part in (found.train, found.valid, data.pictures_of(tmp_path / "set").test):
        assert len(np.unique(part.classes[:40])) == 10
        for k in range(10):  # and each with its own class still
            mine = set(data.marks(part.pictures[part.classes == k]).tolist())
            assert mine <= set(data.marks(images[classes == k]).tolist())


def test_a_picture_of_floats_is_as_bright_as_it_looks():
    """Also one that was resized, whose values are a little beyond 0 and 1; what could be anything is refused."""
    plain = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    seen = data.square(Image.fromarray(plain)).astype(int)
    assert seen.max() == 255 and seen.min() == 0
    for values in (plain * 1.02 - 0.01, plain * 255):
        assert np.abs(data.square(Image.fromarray(values.astype(np.float32))) - seen).max() <= 3
    for values in (plain * 2 - 1, plain * 100_000):
        with pytest.raises(Broken, match="its values go from"):
            data.square(Image.fromarray(values.astype(np.float32)))


def test_a_folder_of_pictures_of_any_size_and_mode(tmp_path):
    for n in range(24):
        name, mode = f"pets/{'cat' if n % 2 else 'dog'}/sub/{n}.png", ["RGB", "L", "RGBA", "P"][n % 4]
        picture(tmp_path / name, n, (32 + n % 5, 30 + n), mode)
    picture(tmp_path / "pets/cat/again.png", 1, (33, 31), "L")  # the same as 1.png
    (tmp_path / "pets/notes.txt").write_text("no picture")
    (tmp_path / "pets/empty").mkdir()
    found = data.load(Data(str(tmp_path / "pets"), held_out=0.2))
    assert found.classes == ("cat", "dog") and "1 that are there twice left out" in found.note
    assert [len(part) for part in (found.train, found.valid, found.test)] == [18, 4, 2]
    marks = np.concatenate([data.marks(part.pictures) for part in (found.train, found.valid, found.test)])
    assert len(np.unique(marks)) == 24


def test_a_picture_of_32_pixels_is_read_as_it_is_and_a_larger_one_keeps_its_middle(tmp_path):
    picture(tmp_path / "a.png", 5)
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(data.read(tmp_path / "a.png"), np.asarray(opened).transpose(2, 0, 1))
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 200
    Image.fromarray(wide).save(tmp_path / "b.png")
    assert (data.read(tmp_path / "b.png") == 200).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "is not a folder"),
        (lambda p: p.mkdir(), "has pictures of 0 classes"),
        (lambda p: [picture(p / "a" / f"{n}.png", n) for n in range(12)], "has pictures of 1 classes"),
        (lambda p: [picture(p / c / f"{n}.png", n) for c in "ab" for n in range(3)], "3 different pictures, too few"),
        (lambda p: [(p / c).mkdir(parents=True) or (p / c / "x.png").write_text("x") for c in "ab"], "as an image"),
    ],
)
def test_a_folder_that_will_not_do_is_one_line(make, says, tmp_path, capsys):
    make(tmp_path / "set")
    assert main(["train", "--data", str(tmp_path / "set")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert says in line
    assert not (tmp_path / "runs").exists()


# -- what is made of pictures


def test_a_training_picture_is_a_function_of_its_id_and_the_epoch():
    images = torch.from_numpy(sample.drawn("train", 30)[0])
    ids = np.arange(30)
    for how in ("none", "mirror", "shift"):
        whole = pictures.varied(images, ids, how, 0, 1)
        for some in ([3], [5, 9, 2]):
            assert torch.equal(pictures.varied(images[some], ids[some], how, 0, 1), whole[some])
        assert torch.equal(whole, images) == (how == "none")
        assert torch.equal(pictures.varied(images, ids, how, 0, 2), whole) == (how == "none")


def test_moving_is_the_obvious_shift():
    image = torch.arange(3 * 1024, dtype=torch.int32).view(1, 3, 32, 32).remainder(251).to(torch.uint8)
    both = [image[0].numpy(), image[0].numpy()[..., ::-1]]
    possible = {
        np.pad(one, ((0, 0), (4, 4), (4, 4)), mode="reflect")[:, a : a + 32, b : b + 32].tobytes()
        for one in both
        for a in range(9)
        for b in range(9)
    }
    found = pictures.varied(image.expand(200, -1, -1, -1), np.arange(200), "shift", 0, 1)
    seen = {one.numpy().tobytes() for one in found}
    assert seen <= possible and len(seen) > 80


def test_a_picture_is_known_again_by_its_content():
    images = sample.drawn("train", 20)[0].copy()
    marks = data.marks(images)
    assert np.array_equal(data.marks(images[[7]]), marks[[7]])
    images[4, 2, 31, 31] ^= 1
    changed = data.marks(images)
    assert (changed != marks).sum() == 1 and changed[4] != marks[4]


# -- the real pictures


@pytest.mark.real_data
def test_the_real_pictures(tmp_path):
    """The two fifths of CIFAR-10 that the data root holds, unpacked by the script beside them."""
    subprocess.run([sys.executable, str(root() / "cifar10" / "expand.py"), str(tmp_path)], check=True)
    found = data.load(Data(str(tmp_path)))
    assert [len(part) for part in (found.train, found.valid, found.test)] == [18_000, 2_000, 5_000]
    assert found.classes[:3] == ("airplane", "automobile", "bird")
    means = found.train.pictures.mean((0, 2, 3)) / 255  # of all 50,000, as published: 0.4914, 0.4822, 0.4465
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=0.003)
    mean, _ = yardsticks.apart(found.test.pictures)
    assert 4 * 3072 * mean == pytest.approx(1518, rel=0.02)
