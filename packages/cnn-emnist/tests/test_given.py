"""Images that are not what they seem: others under the same name, or of one class only."""

import numpy as np
import pytest

from cnn_emnist import data
from cnn_emnist.__main__ import main
from etude.errors import UserError

SMALL = ["--data", "mnist", "--model.channels", "4", "--model.layers", "2", "--fit.epochs", "1", "--no-augment"]
SMALL += ["--fit.batch-size", "30"]


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Writes a small set in MNIST's form; `change` may do something to (part, images, labels) first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path))

    def write(change=lambda *_: None):
        folder = tmp_path / "MNIST" / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        for part, count in (("train", 120), ("t10k", 40)):
            random = np.random.default_rng(count)
            images, labels = random.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10
            change(part, images, labels)
            for what, array in (("images-idx3", images), ("labels-idx1", labels)):
                header = np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes()
                (folder / f"{part}-{what}-ubyte").write_bytes(header + array.tobytes())

    write()
    return write


def another_pixel(part, images, _):
    images[0, 0, 0] ^= part == "t10k"


def another_label(part, _, labels):
    labels[0] = 9 if part == "t10k" else labels[0]


@pytest.mark.parametrize("change", [another_pixel, another_label])
def test_pixels_and_labels_are_what_a_run_was_trained_on(change, mnist, capsys):
    assert main(["train", *SMALL, "--run", "r"]) == 0
    assert main(["evaluate", "r"]) == 0
    mnist(change)
    for words in (["train", "--run", "r"], ["evaluate", "r"]):
        capsys.readouterr()
        assert main(words) == 2
        assert "(part test)" in capsys.readouterr().err
    assert main(["evaluate", "r", "--data", "mnist"]) == 0


def test_one_class_alone_is_refused(mnist):
    mnist(lambda _, __, labels: labels.fill(3))
    with pytest.raises(UserError, match="holds labels of one class only"):
        data.load("mnist", 0)
