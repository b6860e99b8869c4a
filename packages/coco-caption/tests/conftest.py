"""A small sample, and a cache that is not the user's."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coco_caption import sample

REAL = os.environ.get("ETUDE_DATA", "")


@pytest.fixture(scope="session")
def real():
    """The folder of the real data, which the other tests do not see."""
    return Path(REAL)


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def cache(kept):
    """The sample, with fewer pictures, and all features are kept in one place, by the tests of this package only."""
    with pytest.MonkeyPatch.context() as patch:
        place = kept
        patch.setenv("XDG_CACHE_HOME", str(place))
        patch.delenv("ETUDE_DATA", raising=False)
        patch.setattr(sample, "COUNTS", {"train": 120, "val": 24, "test": 24})
        yield place


@pytest.fixture
def coco(tmp_path):
    """Makes a folder in COCO's form: of each part some images, each a plain colour, with two captions each."""

    def make(images=None, annotations=None, part="train", count=12, name="set"):
        folder = tmp_path / name
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        (folder / part).mkdir(exist_ok=True)
        if images is None:
            images = [{"id": n, "file_name": f"{part}{n}.jpg"} for n in range(count)]
            for n in range(count):
                colour = np.array([[[(37 * n) % 256, (91 * n) % 256, len(part) * 11]]], np.uint8)
                Image.fromarray(colour.repeat(40, 0).repeat(50, 1)).save(folder / part / f"{part}{n}.jpg")
        if annotations is None:
            annotations = [
                {"id": 2 * n + k, "image_id": n, "caption": f"A picture of the colour {'abcdefg'[n % 7]} ."}
                for n in range(count)
                for k in range(2)
            ]
        content = {"images": images, "annotations": annotations}
        (folder / "annotations" / f"captions_{part}.json").write_text(json.dumps(content))
        return folder

    return make
