import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from cifar_vae import sample


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, tmp_path_factory, monkeypatch):
    """Every test in a folder of its own; yardsticks are computed once for all."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def write_batches(folder, train, test, **changes):
    """The first pictures of the sample as cifar-10-batches-py, in the form that Python 3 writes."""
    place = folder / "cifar-10-batches-py"
    place.mkdir(parents=True)
    for name, part, count in (("data_batch_1", "train", train), ("test_batch", "test", test)):
        pictures, classes = sample.drawn(part, count)
        rows = np.ascontiguousarray(pictures).reshape(count, -1)
        entry = {"batch_label": name, "labels": classes.tolist(), "data": rows, "filenames": ["?"] * count}
        (place / name).write_bytes(pickle.dumps(entry | changes, 2))
    meta = {"num_cases_per_batch": 10000, "label_names": list(sample.CLASSES), "num_vis": 3072}
    (place / "batches.meta").write_bytes(pickle.dumps(meta, 2))
    return str(folder)


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """A set of few pictures, for what goes through them many times: 96 to train, 40 to validate, 60 to test."""
    return write_batches(tmp_path_factory.mktemp("few"), 136, 60)


@pytest.fixture(scope="session")
def helpers():
    return SimpleNamespace(write_batches=write_batches, copy=shutil.copytree)
