import pytest

from etude.testing import check_presets, check_task
from grad_flow import data
from grad_flow.__main__ import PACKAGE, main

SMALL = ["--model.width", "32", "--model.depth", "3", "--model.dropout", "0.1", "--fit.batch-size", "300"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Ten test digits of the sample as rows of a CSV file, and what they are."""
    part = data.load("sample", 0).test
    file = tmp_path_factory.mktemp("rows") / "digits.csv"
    file.write_text("".join(",".join(map(str, image.ravel().tolist())) + "\n" for image in part.images[:10].numpy()))
    return file, part.labels[:10].tolist()


def test_the_battery(tmp_path, rows):
    check_task(PACKAGE, SMALL, [str(rows[0])], tmp_path)
