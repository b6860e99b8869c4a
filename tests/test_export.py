"""The verb `export`: what it writes is read back equal, by others too; what cannot be read is refused in one line."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.numpy import load_file

import cifar_vae.config
import cnn_emnist.config
import grad_flow.config
import names_rnn.config
from etude import cli, tested
from etude.config import parse
from etude.errors import UserError
from etude.export import card, folder
from etude.export.plain import from_plain, to_plain
from etude.train.device import best_precision

NAMES, LETTERS, DENSE = names_rnn.config.PACKAGE, cnn_emnist.config.PACKAGE, grad_flow.config.PACKAGE
PICTURES = cifar_vae.config.PACKAGE


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The user's cache and data, which no test shares with the user."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(place))
        patch.setenv("ETUDE_DATA", str(place / "data"))
        patch.setenv("HF_HOME", str(place / "hub"))
        yield place


@pytest.fixture(scope="module")
def run(cache):
    """A finished, evaluated run of names-rnn."""
    folder = cache / "run"
    flags = ["--fit.epochs", "1", "--model.hidden", "16", "--fit.device", "cpu", "--fit.threads", "1"]
    assert cli.main(NAMES, ["train", *flags[:-2], "--run", str(folder)]) == 0
    assert cli.main(NAMES, ["evaluate", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def exported(run):
    out = run.parent / "exported"
    assert cli.main(NAMES, ["export", str(run), str(out)]) == 0
    return out


def said(capsys, package, *words):
    capsys.readouterr()
    code = cli.main(package, list(words))
    return code, capsys.readouterr()


def refused(capsys, package, *words):
    """The one line that a mistake of the user gets."""
    code, out = said(capsys, package, *words)
    assert code == 2
    lines = out.err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_weights_are_those_of_the_checkpoint(run, exported):
    ours = torch.load(run / "checkpoints/best.pt", weights_only=True)["model"]
    theirs = load_file(exported / "model.safetensors")
    assert {f"model.{name}" for name in ours} <= theirs.keys()
    for name, tensor in ours.items():
        assert np.array_equal(tensor.numpy(), theirs[f"model.{name}"])


def test_predicts_and_embeds_the_same(run, exported, capsys, tmp_path):
    inputs = ["Satoshi", "Jones"]
    assert said(capsys, NAMES, "predict", str(run), *inputs) == said(capsys, NAMES, "predict", str(exported), *inputs)
    for place, name in ((run, "a"), (exported, "b")):
        assert cli.main(NAMES, ["embed", str(place), *inputs, "--out", str(tmp_path / f"{name}.npy")]) == 0
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_it_is_scored_in_the_precision_of_the_run(run, tmp_path, capsys):
    """Even where auto would be another one here."""
    other, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(run, other)
    starts = json.loads((other / "environment.json").read_text())
    starts[0]["precision"] = "fp32" if best_precision(torch.device("cpu")) == "bf16" else "bf16"
    (other / "environment.json").write_text(json.dumps(starts))
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(re.sub("precision: fp32", "precision: auto", config))
    assert cli.main(NAMES, ["export", str(other), str(out)]) == 0
    code, of_run = said(capsys, NAMES, "evaluate", str(other))
    assert code == 0
    code, of_export = said(capsys, NAMES, "evaluate", str(out))
    assert code == 0
    device, scores = of_run.out.splitlines()[2], json.loads(of_run.out.splitlines()[-1])
    assert f", {starts[0]['precision']} (as the run began" in device
    assert of_export.out.splitlines()[2] == device
    assert json.loads(of_export.out.splitlines()[-1]) | {tested.MARK: None} == scores | {tested.MARK: None}


def test_the_card_is_one(run, exported):
    """By what the hub's library checks itself, as it reads it; its `validate` asks the hub."""
    card = ModelCard.load(exported / "README.md", ignore_metadata_errors=False)
    front = yaml.safe_load((exported / "README.md").read_text().split("---\n")[1])
    assert card.data.to_dict() == front == ModelCard(str(card)).data.to_dict()
    test = json.loads((run / "test.json").read_text())
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results["accuracy"] == test["accuracy"]
    assert card.data.license == "mit"
    assert f"{test['accuracy']:.4f} ± 0.0" in card.text  # with its interval
    assert "**Made by:** not known" in card.text  # by a test, in this process
    assert json.loads((exported / "test.json").read_text()) == test
    assert "- **Licence:** " in card.text  # of the data, from the package's DATA.md


def test_what_is_not_generated_is_shown_to_nobody_unasked(run, tmp_path):
    """Samples show the data, which may be other people's."""
    other = tmp_path / "run"
    shutil.copytree(run, other)
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("name: sample", "name: names"))
    assert cli.main(NAMES, ["export", str(other), str(tmp_path / "without")]) == 0
    assert not (tmp_path / "without/samples").exists()
    assert "license: other" in (tmp_path / "without/README.md").read_text()
    assert cli.main(NAMES, ["export", str(other), str(tmp_path / "with"), "--samples"]) == 0
    assert (tmp_path / "with/samples/confusion.png").is_file()


def test_a_sample_that_is_other_peoples_is_given_out_under_no_licence_of_ours(tmp_path):
    """As that of grad-flow, the digits of scikit-learn: neither is it MIT, nor shown unasked."""
    folder = tmp_path / "run"
    assert cli.main(DENSE, ["train", "--fit.epochs", "1", "--model.depth", "2", "--run", str(folder)]) == 0
    assert any((folder / "samples").iterdir())
    assert cli.main(DENSE, ["export", str(folder), str(tmp_path / "out")]) == 0
    told = ModelCard.load(tmp_path / "out/README.md", ignore_metadata_errors=False)
    assert (told.data.license, told.data.license_name) == ("other", "see-the-data")
    assert "BSD-3-Clause" in told.text
    assert not (tmp_path / "out/samples").exists()
    assert cli.main(DENSE, ["export", str(folder), str(tmp_path / "with"), "--samples"]) == 0
    assert any((tmp_path / "with/samples").iterdir())


def test_a_folder_by_its_address_is_made_with_those_above_it(run, exported, tmp_path, capsys):
    there = (tmp_path / "new/folder").as_uri()
    code, out = said(capsys, NAMES, "export", str(run), there)
    assert (code, out.err) == (0, "")
    found = {file.relative_to(tmp_path / "new/folder"): file for file in (tmp_path / "new/folder").rglob("*.*")}
    files = [file for file in exported.rglob("*") if file.is_file()]
    assert (exported / "samples/confusion.png") in files
    assert {name: file.read_bytes() for name, file in found.items()} == {
        file.relative_to(exported): file.read_bytes() for file in files
    }
    assert said(capsys, NAMES, "predict", there, "Jones") == said(capsys, NAMES, "predict", str(run), "Jones")


def test_a_card_does_not_say_where_somebody_keeps_his_data():
    config = parse(NAMES.config, ["--data.name", "/home/anna/surnames"])
    assert card.in_words("/home/anna/surnames, distinct, 3 names", config) == "./surnames, distinct, 3 names"
    assert card.in_words("sample, distinct", parse(NAMES.config, [])) == "sample, distinct"


def test_a_run_without_scores_says_so(run, tmp_path, capsys):
    other = tmp_path / "run"
    for file in ("config.yaml", "environment.json", "about.json", "result.json", "checkpoints/best.pt"):
        (other / file).parent.mkdir(parents=True, exist_ok=True)
        (other / file).write_bytes((run / file).read_bytes())
    code, out = said(capsys, NAMES, "export", str(other), str(tmp_path / "out"))
    assert code == 0
    assert "without test scores: it was never evaluated" in out.out
    card = (tmp_path / "out/README.md").read_text()
    assert "There are no test scores" in card
    assert "model-index" not in card
    assert not (tmp_path / "out/test.json").exists()


def test_old_scores_are_not_shown_for_another_checkpoint(run, tmp_path, capsys):
    other = tmp_path / "run"
    for file in ("config.yaml", "environment.json", "about.json", "result.json", "test.json", "checkpoints/best.pt"):
        (other / file).parent.mkdir(parents=True, exist_ok=True)
        (other / file).write_bytes((run / file).read_bytes())
    state = torch.load(other / "checkpoints/best.pt", weights_only=True)
    state["model"] = {name: x + 1 if x.is_floating_point() else x for name, x in state["model"].items()}
    torch.save(state, other / "checkpoints/best.pt")
    assert cli.main(NAMES, ["export", str(other), str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out/test.json").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["export", "RUN", "EXPORTED"], "is not an empty folder"),
        (["export", "nowhere", "out"], "it has no config.yaml"),
        (["export", "RUN", "OUT", "--onnx"], "leave --onnx out"),
        (["predict", "hf://nobody", "Jones"], "write hf://user/name"),
        (["predict", "nonsense://nobody", "Jones"], "is no address that fsspec knows"),
        (["export", "RUN", "hf://somebody/names"], "export to a folder"),
    ],
)
def test_mistakes(words, told, run, exported, tmp_path, capsys):
    places = {"RUN": run, "EXPORTED": exported, "OUT": tmp_path / "out"}
    line = refused(capsys, NAMES, *(str(places.get(word, word)) for word in words))
    assert told in line
    assert not (tmp_path / "out").exists()


def changed(exported, folder, name, how):
    folder.mkdir()
    for file in ("config.json", "assets.json", "model.safetensors"):
        (folder / file).write_bytes((exported / file).read_bytes())
    (folder / name).write_bytes(how((folder / name).read_bytes()))
    return folder


@pytest.mark.parametrize(
    ("name", "how", "told"),
    [
        ("model.safetensors", lambda data: data[:100], "cannot be read"),
        ("config.json", lambda data: data.replace(b'"format": 1', b'"format": 2'), "has format 2"),
        ("config.json", lambda data: data.replace(b"names-rnn", b"cnn-emnist"), "is a model of cnn-emnist"),
        ("config.json", lambda data: data.replace(b'"hidden": 16', b'"hidden": 17'), "does not fit"),
        ("config.json", lambda data: b"[]", "config.json cannot be read"),
        ("config.json", lambda data: re.sub(rb'\n "precision": "\w+"', b'\n "precision": "odd"', data), "no precision"),
        ("assets.json", lambda data: b'{"$nothing": 1}', "cannot be read"),
    ],
)
def test_damaged(name, how, told, exported, tmp_path, capsys):
    folder = changed(exported, tmp_path / "model", name, how)
    assert told in refused(capsys, NAMES, "predict", str(folder), "Jones")


def test_a_changed_model_is_not_taken_for_the_one_before(exported, tmp_path, capsys):
    """The run folder in the cache is of these very files, whatever the folder is called."""
    state = load_file(exported / "model.safetensors")
    before = said(capsys, NAMES, "predict", str(exported), "Jones")
    from safetensors.numpy import save

    flipped = save({name: -x if x.dtype == np.float32 else x for name, x in state.items()}, {"format": "pt"})
    folder = changed(exported, tmp_path / exported.name, "model.safetensors", lambda _: flipped)
    assert said(capsys, NAMES, "predict", str(folder), "Jones") != before


@pytest.mark.parametrize(
    ("package", "flags", "shape", "ranged", "given"),
    [
        (LETTERS, ["--model.channels", "4"], (28, 28), "0..1", "scores of the classes; the largest is the answer"),
        (DENSE, ["--model.depth", "3"], (8, 8), "0..16", "Logarithms of the probabilities of the classes"),
        (
            *(PICTURES, ["--data.images", "300", "--model.width", "8", "--model.latent", "12"], (3, 32, 32)),
            *("[-1, 1]", "Pictures restored from their latents"),
        ),
    ],
    ids=["cnn-emnist", "grad-flow", "cifar-vae"],
)
def test_onnx_says_what_the_model_says(package, flags, shape, ranged, given, cache, tmp_path, capsys):
    """And the card says what it takes and gives."""
    folder, out = tmp_path / "run", tmp_path / "out"
    flags = [*flags, "--fit.epochs", "1", "--fit.device", "cpu", "--fit.precision", "fp32"]
    assert cli.main(package, ["train", *flags, "--run", str(folder)]) == 0
    capsys.readouterr()
    assert cli.main(package, ["export", str(folder), str(out), "--onnx"]) == 0
    task = cli.restored(package, folder)
    inputs = torch.rand(7, *shape, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    (takes,), (gives,) = session.get_inputs(), session.get_outputs()
    told = (out / "README.md").read_text()
    sizes = ", ".join(map(str, shape))
    assert f"- input `{takes.name}`, float32 [batch, {sizes}], values in {ranged}\n" in told
    (of_output,) = re.findall(
        rf"^- output `{gives.name}`, float32 \[batch, ([\d, ]+)\]: {given}(.*)$", told, flags=re.M
    )
    assert of_output[0] == ", ".join(map(str, found.shape[1:]))
    names = re.findall("`(.)`", of_output[1])
    known = {LETTERS.name: "ABCDEFGHIJKLMNOPQRSTUVWXYZ", DENSE.name: "0123456789"}
    assert names == list(known.get(package.name, ""))
    with torch.inference_mode():
        np.testing.assert_allclose(found, task.model(inputs).float().numpy(), atol=1e-5, rtol=1e-5)


def test_a_card_names_the_classes_by_the_test_scores_too(tmp_path):
    """Of a task that does not keep them in its predictor."""
    facts = card.Facts(tmp_path, None, {}, {}, {}, None, {"per_class": {"ten": {}, "one": {}}}, {}, "", {})
    assert card.classes(object(), facts) == ("ten", "one")
    assert card.classes(object(), dataclasses.replace(facts, test=None)) == ()


def digest(data):
    return hashlib.sha1(data).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as a download asks for: which commit, which files, and each of them."""

    folder: Path
    commit = "0123456789abcdef0123456789abcdef01234567"

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, body):
        path = self.path.split("?")[0]
        if path.startswith("/api/models/somebody/names"):
            there = [file for file in sorted(self.folder.iterdir()) if file.is_file()]
            told = {"id": "somebody/names", "sha": self.commit, "private": False, "tags": []}
            told["siblings"] = [{"rfilename": file.name} for file in there]
            tree = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": digest(file.read_bytes())}
                for file in there
            ]
            return self.send(json.dumps(tree if "/tree/" in path else told).encode(), body)
        file = self.folder / path.rpartition("/")[2]
        if path.startswith("/somebody/names/resolve/") and file.is_file():
            return self.send(file.read_bytes(), body)
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def send(self, data, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{digest(data)}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(exported):
    """The address of a hub that has this one model."""
    handler = type("Handler", (Hub,), {"folder": exported})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_model_on_the_hub(hub, run, capsys, tmp_path):
    def predict(address):
        """In a process of its own, as the hub's address is read from the environment when it starts."""
        command = [sys.executable, "-m", "names_rnn", "predict", address, "Jones"]
        environment = os.environ | {"HF_ENDPOINT": hub, "HF_HUB_CACHE": str(tmp_path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    before = said(capsys, NAMES, "predict", str(run), "Jones")[1].out
    assert predict("hf://somebody/names").stdout == before
    missing = predict("hf://somebody/nothing")
    assert missing.returncode == 2
    assert "hf://somebody/nothing cannot be had" in missing.stderr.splitlines()[-1]


@pytest.fixture
def bucket(monkeypatch):
    """A bucket of an S3 server on this machine."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    boto3.client("s3").create_bucket(Bucket="models")
    yield "s3://models"
    server.stop()


@pytest.mark.filterwarnings("ignore")  # of the clients, of sockets that they leave open
def test_a_model_on_s3(bucket, run, exported, tmp_path):
    def call(*words):
        """In a process of its own, as the client keeps what it has seen of a bucket."""
        command = [sys.executable, "-m", "names_rnn", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True)

    there = f"{bucket}/one"
    written = call("export", run, there)
    assert written.returncode == 0, written.stderr
    assert call("predict", there, "Jones").stdout == call("predict", run, "Jones").stdout
    again = call("export", run, there)
    assert (again.returncode, again.stderr) == (2, f"names-rnn: {there} is not empty: give another one\n")
    for address, told in ((f"{bucket}/two", "cannot be used"), ("s3://nobody/x", "cannot be used")):
        found = call("predict", address, "Jones")
        assert (found.returncode, len(found.stderr.splitlines())) == (2, 1), found.stderr
        assert told in found.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["/env/bin/names-rnn", "train", "--fit.epochs", "2"], "names-rnn train --fit.epochs 2"),
        (["/env/bin/train", "--fit.epochs", "2", "--run", "/home/me/x"], "names-rnn train --fit.epochs 2"),
        (["python", "-m", "names_rnn", "train", "--data=/home/me/names", "--run=x"], "names-rnn train --data=./names"),
        (["python", "-m", "names_rnn", "train", "--data", "C:\\me\\names"], "names-rnn train --data ./names"),
        (["pytest"], ""),
    ],
)
def test_the_command_is_told_without_the_folders_of_its_machine(words, told):
    assert card.command(NAMES, words) == told


def test_a_card_tells_no_folder_of_the_machine(run, tmp_path):
    data = tmp_path / "secret/names"
    data.mkdir(parents=True)
    other = tmp_path / "run"
    shutil.copytree(run, other)
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("name: sample", f"name: {data}").replace("clip: 1.0", "clip: inf"))
    assert cli.main(NAMES, ["export", str(other), str(tmp_path / "out")]) == 0
    for file in ("README.md", "config.json"):
        assert "secret" not in (tmp_path / "out" / file).read_text()
    assert cli.main(NAMES, ["predict", str(tmp_path / "out"), "Jones"]) == 0


def test_a_model_in_the_cache_is_refused_by_another_task(exported, capsys):
    assert cli.main(NAMES, ["predict", str(exported), "Jones"]) == 0
    assert "is a model of names-rnn" in refused(capsys, LETTERS, "predict", str(exported), "x.png")


def test_plain_and_back():
    whole = {"a": (1, 2.5, None, True), "b": [{"$odd": "x"}, {3: torch.arange(4)}], "c": "\udcff", "d": {}}
    tensors = {}
    form = json.loads(folder.as_json(to_plain(whole, tensors, "assets")))
    found = from_plain(form, tensors)
    assert torch.equal(found["b"][1].pop(3), whole["b"][1].pop(3))
    assert found == whole
    assert isinstance(found["a"], tuple)
    with pytest.raises(UserError, match=r"assets\.x of the checkpoint is a set"):
        to_plain({"x": {1}}, {}, "assets")
    with pytest.raises(UserError, match="two tensors"):
        to_plain({"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)}, {}, "assets")
