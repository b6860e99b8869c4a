import io
import json
import pickle
import resource
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy.__main__ import PACKAGE
from toy.config import Config
from toy.task import Toy

from etude import cli
from etude.errors import UserError
from etude.testing import CPU, different
from etude.train import checkpoint, run


@pytest.fixture
def one(tmp_path):
    opened = run.Run(tmp_path / "run", Config(), CPU)
    yield opened
    opened.close()


def state(number):
    return {"model": {"w": torch.full((1000,), float(number))}, "number": number}


def test_a_checkpoint_is_read_back_and_the_one_before_is_kept(one):
    for number in (1, 2, 3):
        one.save("last", state(number), keep=True)
    assert different(checkpoint.newest(one.path, True), state(3), "state") is None
    assert checkpoint.load(one.path / "checkpoints" / "last.prev.pt")["number"] == 2
    assert sorted(p.name for p in (one.path / "checkpoints").iterdir()) == ["last.prev.pt", "last.pt"]


def test_a_picture_is_the_same_in_tensorboard_and_among_the_samples(one):
    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8))
    one.open_tensorboard(0, "best/loss")
    one.picture("board", drawn, 3, "after")
    one.picture("grey", drawn.convert("L"), 4)
    one.close()
    events = EventAccumulator(str(one.path / "tb"))
    events.Reload()
    for tag, name, step, expected in (("board", "board-end", 3, drawn), ("grey", "grey", 4, drawn.convert("L"))):
        (shown,) = events.Images(tag)
        assert (shown.step, shown.width, shown.height) == (step, 5, 7)
        for file in (io.BytesIO(shown.encoded_image_string), one.path / "samples" / f"{name}.png"):
            with Image.open(file) as found:
                np.testing.assert_array_equal(found, expected.convert("RGB"))


def damages(data):
    yield "empty", b""
    yield "truncated", data[: len(data) // 2]
    yield "one byte short", data[:-1]
    yield "overwritten", b"\0" * len(data)
    yield "text", b"not a checkpoint"
    for at in range(0, len(data), 97):  # a flipped bit anywhere: found, or in the padding that nothing reads
        yield f"bit {at}", data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


def test_a_damaged_checkpoint_is_said_so_and_the_one_before_is_used(one, capsys):
    one.save("last", state(1), keep=True)
    one.save("last", state(2), keep=True)
    file = one.path / "checkpoints" / "last.pt"
    good = file.read_bytes()
    said = 0
    for name, data in damages(good):
        file.write_bytes(data)
        found = checkpoint.newest(one.path, True)
        error = capsys.readouterr().err
        if found["number"] == 1:
            assert "last.pt is damaged" in error, name
            assert error.count("\n") == 1, name
            said += 1
        else:  # the flipped bit lay in padding
            assert name.startswith("bit"), name
            assert different(found, state(2), "state") is None, name
    assert said > 40


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(tmp_path, capsys):
    assert toy("train", "--run", "r", "--fit.epochs", "1") == 0
    (tmp_path / "r" / "result.json").unlink()
    for name in ("last.pt", "last.prev.pt"):
        (tmp_path / "r" / "checkpoints" / name).write_bytes(b"gone")
    rows = (tmp_path / "r" / "metrics.jsonl").read_text()
    capsys.readouterr()
    assert toy("train", "--run", "r") == 2
    assert "last.pt is damaged" in said(capsys)
    assert (tmp_path / "r" / "metrics.jsonl").read_text() == rows


def test_files_of_a_run_that_were_tampered_with_are_one_line(tmp_path, capsys):
    def begin():
        assert toy("train", "--run", "r", "--fit.epochs", "1") == 0
        capsys.readouterr()
        return tmp_path / "r"

    folder = begin()
    (folder / "result.json").write_text("")
    assert toy("train", "--run", "r") == 2
    assert "result.json cannot be read" in said(capsys)
    (folder / "result.json").unlink()
    (folder / "environment.json").write_text("{")
    assert toy("train", "--run", "r") == 2
    assert "environment.json cannot be read" in said(capsys)
    (folder / "environment.json").unlink()
    last = folder / "checkpoints" / "last.pt"
    last.write_bytes((folder / "checkpoints" / "best.pt").read_bytes())
    assert toy("train", "--run", "r") == 2
    assert "last.pt is no checkpoint to go on from (KeyError('optimizer'))" in said(capsys)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("[8, 16]", "[8, 17]"))
    for words in (["train", "--run", "r"], ["evaluate", "r"], ["predict", "r", "1"]):
        assert toy(*words) == 2
        assert "does not fit this configuration" in said(capsys)


def test_a_model_that_was_trained_on_a_gpu_predicts_here(tmp_path, capsys):
    assert toy("train", "--run", "r", "--fit.epochs", "1") == 0
    file = tmp_path / "r" / "config.yaml"
    file.write_text(
        file.read_text().replace("device: auto", "device: cuda").replace("precision: auto", "precision: fp16")
    )
    assert toy("predict", "r", "123") == 0


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_checkpoint_that_runs_code_is_refused(name, one, capsys):
    one.save(name, state(1))
    file = one.path / "checkpoints" / f"{name}.pt"
    torch.save({"model": Evil()}, file)
    with pytest.raises(UserError, match="is refused"):
        checkpoint.newest(one.path, True) if name == "last" else checkpoint.read(one.path)
    with zipfile.ZipFile(file, "w") as records:  # the same by hand, in an archive with correct checksums
        records.writestr("archive/data.pkl", pickle.dumps(Evil(), protocol=2))
        records.writestr("archive/version", "3")
    with pytest.raises((UserError, checkpoint.Damaged)):
        checkpoint.load(file)
    assert "code ran" not in capsys.readouterr().out


def test_a_full_disk_leaves_the_earlier_checkpoint(one):
    one.save("last", state(1), keep=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot save .*last\.pt: File too large; what was saved before is intact"):
            one.save("last", state(2), keep=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert checkpoint.newest(one.path, True)["number"] == 1
    assert [p.name for p in (one.path / "checkpoints").iterdir()] == ["last.pt"]


def toy(*words):
    return cli.main(PACKAGE, [*words])


def said(capsys):
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("toy: ")
    return lines[0]


def test_a_run_with_another_configuration_is_refused_by_its_keys(tmp_path, capsys):
    assert toy("train", "--run", "r", "--fit.epochs", "1") == 0
    capsys.readouterr()
    kept = (tmp_path / "r" / "metrics.jsonl").read_text()
    assert toy("train", "--run", "r", "--fit.lr", "7", "--no-norm") == 2
    line = said(capsys)
    assert "norm: True -> False" in line
    assert "fit.lr: 0.003 -> 7.0" in line
    assert (tmp_path / "r" / "metrics.jsonl").read_text() == kept
    assert toy("train", "--run", "r") == 0  # what is not given is what it was; and it is finished
    assert "already finished" in capsys.readouterr().out


@pytest.fixture
def stop(monkeypatch):
    """The run stops after its first epoch, as by SIGTERM, until it is called with False."""

    def set(on):
        monkeypatch.setattr(
            Toy, "show", (lambda *a: a[2] == "epoch 1" and signal.raise_signal(signal.SIGTERM)) if on else show
        )

    show = Toy.show
    set(True)
    return set


@pytest.fixture
def change(monkeypatch):
    """Exchanges the data of `toy` from now on: those of one part."""

    def set(part):
        before = Toy.__init__

        def other(self, config):
            before(self, config)
            self.rows = list(self.rows)
            self.rows[self.parts[part][0]] = np.array([1, 2, 3])

        monkeypatch.setattr(Toy, "__init__", other)

    return set


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_run_does_not_go_on_with_other_data(part, stop, change, tmp_path, capsys):
    assert toy("train", "--run", "r") == 143
    kept = (tmp_path / "r" / "checkpoints" / "last.pt").read_bytes()
    stop(False)
    change(part)
    capsys.readouterr()
    assert toy("train", "--run", "r") == 2
    assert f"r was trained on other data, which have changed since under the same name (part {part}" in said(capsys)
    assert (tmp_path / "r" / "checkpoints" / "last.pt").read_bytes() == kept


def test_a_run_goes_on_with_the_data_put_back_and_a_finished_one_knows_them_too(stop, change, tmp_path, capsys):
    assert toy("train", "--run", "r") == 143
    stop(False)
    assert toy("train", "--run", "r") == 0
    about = json.loads((tmp_path / "r" / "about.json").read_text())
    assert about["fingerprints"] == dict(Toy(Config()).fingerprints)
    change("train")
    capsys.readouterr()
    assert toy("train", "--run", "r") == 2
    assert "was trained on other data" in said(capsys)


def test_a_run_is_not_scored_on_other_data_under_the_same_name(change, tmp_path, capsys):
    assert toy("train", "--fit.epochs", "1", "--run", "r") == 0
    assert toy("evaluate", "r") == 0
    change("test")
    (tmp_path / "r" / "test.json").unlink()
    for flags in ([], ["--fit.batch-size", "3"], ["--checkpoint", "last"], ["--dropout", "0.2"]):
        capsys.readouterr()
        assert toy("evaluate", "r", *flags) == 2
        told = "r was trained on other data, which have changed since under the same name (part test)"
        assert told in said(capsys)
    assert not (tmp_path / "r" / "test.json").exists()
    assert toy("evaluate", "r", "--fit.seed", "1") == 0  # which may divide them in another way


def test_of_a_run_that_does_not_say_what_it_was_trained_on_nothing_false_is_said(stop, change, tmp_path, capsys):
    assert toy("train", "--run", "r") == 143
    for name in ("last", "last.prev", "best"):
        file = tmp_path / "r" / "checkpoints" / f"{name}.pt"
        state = checkpoint.load(file)
        del state["fingerprints"]
        torch.save(state, file)
    stop(False)
    change("valid")
    for words in (["evaluate", "r"], ["train", "--run", "r"]):
        capsys.readouterr()
        assert toy(*words) == 0
        line = "r does not say what it was trained on: whether the data have changed since cannot be checked"
        assert capsys.readouterr().err.count(line) == 1


def test_folders_that_are_no_run_are_refused(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all my work")
    (tmp_path / "file").write_text("")
    assert toy("train", "--run", "mine") == 2
    assert "is not empty and no run folder" in said(capsys)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert toy("train", "--run", "file/run") == 2
    assert "cannot write the run folder" in said(capsys)
    assert toy("train", "--run", "/proc/run") == 2
    assert "cannot write the run folder" in said(capsys)
    for verb in ("evaluate", "predict"):
        assert toy(verb, "nowhere", "1") == 2
        assert "is no run folder" in said(capsys) or verb == "evaluate"


def test_what_has_nothing_to_do_with_the_folder_is_not_blamed_on_it(tmp_path, monkeypatch):
    def broken(_):
        raise OSError(5, "Input/output error", "METADATA")

    monkeypatch.setattr(run, "versions", broken)
    with pytest.raises(OSError, match="METADATA"):
        run.Run(tmp_path / "r", Config(), CPU)


def test_a_run_is_written_by_one_process_only(one, capsys):
    code = "import sys; from toy.__main__ import main; sys.exit(main(['train', '--run', sys.argv[1]]))"
    ended = subprocess.run([sys.executable, "-c", code, str(one.path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "is in use by another process" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_missing_or_broken_best_is_one_line(tmp_path, capsys):
    assert toy("train", "--run", "r", "--fit.epochs", "1") == 0
    capsys.readouterr()
    file = tmp_path / "r" / "checkpoints" / "best.pt"
    file.write_bytes(file.read_bytes()[:-10])
    assert toy("evaluate", "r") == 2
    assert "best.pt is damaged" in said(capsys)
    file.unlink()
    assert toy("predict", "r", "12") == 2
    assert "has no checkpoints/best.pt" in said(capsys)


def test_the_environment_is_recorded_at_every_start(tmp_path):
    assert toy("train", "--run", "r", "--fit.epochs", "1", "--fit.seed", "3", "--fit.precision", "fp32") == 0
    (tmp_path / "r" / "result.json").unlink()
    assert toy("train", "--run", "r") == 0
    starts = json.loads((tmp_path / "r" / "environment.json").read_text())
    assert len(starts) == 2
    for start in starts:
        assert (start["seed"], start["precision"]) == (3, "fp32")
        assert start["versions"]["torch"] == torch.__version__.split("+")[0] or start["versions"]["torch"]


def test_points_are_read_back_by_the_projector(one):
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    torch.manual_seed(0)
    points = torch.randn(4, 3)
    columns = {
        "text": ["plain", "a\ttab", "two\nlines \u2028 \x0b and more", ""],
        "tag": ["0.0", "1.0", "a\r\nb", "x  y"],
    }
    one.embedding("early", points, columns, 0)  # before there is an event file nothing is written
    assert not list((one.path / "tb").iterdir())
    one.open_tensorboard(0, "accuracy")
    one.embedding("latents", points, columns, 0)
    one.embedding("latents", points + 1, columns, 7)
    tb = one.path / "tb"
    config = text_format.Parse((tb / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert [shown.tensor_name for shown in config.embeddings] == ["latents:00000", "latents:00007"]
    one._tb.close()
    one.open_tensorboard(5, "accuracy")  # it goes on after step 4, where it was saved
    one.embedding("latents", points - 1, columns, 9)
    after = text_format.Parse((tb / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert [shown.tensor_name for shown in after.embeddings] == [f"latents:0000{step}" for step in (0, 7, 9)]
    for shown, expected in zip(config.embeddings, (points, points + 1), strict=True):
        rows = (tb / shown.tensor_path).read_text().splitlines()
        found = torch.tensor([[float(number) for number in row.split("\t")] for row in rows])
        torch.testing.assert_close(found, expected)
        labels = [row.split("\t") for row in (tb / shown.metadata_path).read_text().split("\n")[:-1]]
        assert labels == [
            ["text", "tag"],
            ["plain", "0.0"],
            ["a tab", "1.0"],
            ["two lines and more", "a b"],
            ["", "x y"],
        ]


def test_a_single_column_of_labels_has_no_name_as_the_projector_would_take_it_for_a_label(one):
    one.open_tensorboard(0, "accuracy")
    one.embedding("latents", torch.zeros(2, 3), {"cluster": ["7", "8"]}, 0)
    assert (one.path / "tb/00000/latents/metadata.tsv").read_text() == "7\n8\n"


def test_thumbnails_are_read_back_by_the_projector_each_beside_its_point(one):
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
    from werkzeug.test import Client

    torch.manual_seed(0)
    thumbnails = torch.randint(256, (5, 3, 2, 4), dtype=torch.uint8)
    one.open_tensorboard(0, "accuracy")
    one.embedding("latents", torch.zeros(5, 3), {"class": list("abcde")}, 0)
    one.embedding("latents", torch.zeros(5, 3), {"class": list("abcde")}, 7, thumbnails)
    one._tb.close()
    one.open_tensorboard(8, "accuracy")
    one.embedding("latents", torch.zeros(2, 3), {"class": list("ab")}, 9)  # what an earlier start showed stays so
    tb = one.path / "tb"
    runs = EventMultiplexer().AddRunsFromDirectory(str(tb)).Reload()
    plugin = ProjectorPlugin(TBContext(logdir=str(tb), data_provider=MultiplexerDataProvider(runs, str(tb))))
    routes = plugin.get_plugin_apps()
    [config] = [Client(routes["/info"]).get("/info?run=.").json]
    assert [shown.get("sprite") for shown in config["embeddings"]] == [
        None,
        {"imagePath": "00007/latents/sprite-4x2.png", "singleImageDim": [4, 2]},
        None,
    ]
    answer = Client(routes["/sprite_image"]).get("/sprite_image?run=.&name=latents:00007")
    assert answer.mimetype == "image/png"
    with Image.open(io.BytesIO(answer.data)) as sprite:
        assert sprite.size == (3 * 4, 3 * 2), "as many rows as columns"
        pixels = np.asarray(sprite)
    for n in range(9):
        top, left = n // 3 * 2, n % 3 * 4
        found = pixels[top : top + 2, left : left + 4].transpose(2, 0, 1)
        np.testing.assert_array_equal(found, thumbnails[n] if n < 5 else 0)


def test_thumbnails_are_as_many_as_points_and_no_more_than_the_projector_shows(one):
    one.open_tensorboard(0, "accuracy")
    with pytest.raises(ValueError, match="there are 3 thumbnails of 2 points"):
        one.embedding("a", torch.zeros(2, 3), {"class": ["a", "b"]}, 0, torch.zeros(3, 3, 2, 2, dtype=torch.uint8))
    big = torch.zeros(5, 3, 1, 1, dtype=torch.uint8).expand(5, 3, 2731, 1)
    with pytest.raises(ValueError, match="more than 8,192 pixels a side"):
        one.embedding("a", torch.zeros(5, 3), {"class": list("abcde")}, 0, big)
    assert not (one.path / "tb/00000").exists()


def test_points_and_labels_are_as_many(one):
    one.open_tensorboard(0, "accuracy")
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        one.embedding("latents", torch.zeros(2, 3), {"cluster": ["7"]}, 0)
    assert not (one.path / "tb/00000").exists()
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        one.embedding("latents", torch.zeros(2, 3), {"text": ["a", "b"], "tag": ["0"]}, 0)


@pytest.mark.parametrize(
    ("tag", "when", "name"),
    [
        ("worst mistakes", None, "worst-mistakes"),
        ("board", "before", "board-epoch-000"),
        ("board", "epoch 12", "board-epoch-012"),
        ("left out", "after", "left-out-end"),
    ],
)
def test_the_name_of_a_sample_says_when_it_was_shown(tag, when, name):
    assert run.sample_name(tag, when) == name
