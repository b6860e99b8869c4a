"""Training, studies, resuming and reports where everything that Windows does not have is refused: see windows/."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BLOCKED = Path(__file__).parent / "windows"
STUDY = "{{question: q, metric: accuracy, compare: {{norm: [true]}}, fixed: {{fit.epochs: 1}}, seeds: 2, together: {}}}"


@pytest.fixture
def windows(tmp_path, monkeypatch):
    """Runs Python code as on Windows, and gives what it said; it and its processes have to succeed."""
    monkeypatch.setenv("WINDOWS_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(BLOCKED), os.environ["PYTHONPATH"]]))
    monkeypatch.setenv("PYTHONWARNDEFAULTENCODING", "1")

    def run(code):
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    return run


TOY = """
import toy.__main__
def toy_(*words):
    assert toy.__main__.main([*words]) == 0, words
"""


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import fcntl", "No module named 'fcntl'"),
        ("from resource import getrusage", "No module named 'resource'"),
        ("import os; os.fork()", "no attribute 'fork'"),
        ("import os; os.sched_getaffinity(0)", "no attribute 'sched_getaffinity'"),
        ("from signal import SIGKILL", "SIGKILL"),
        ("import subprocess; subprocess.Popen(['true'], process_group=0)", "process_group is not supported"),
        ("open('/proc/meminfo', encoding='utf-8')", "there is no /proc"),
        ("open('a:b', 'w', encoding='utf-8')", "takes no such name"),
        ("from pathlib import Path; Path('aux.txt').touch()", "takes no such name"),
        ("from pathlib import Path; Path('dot.').mkdir()", "takes no such name"),
        ("from pathlib import Path; Path('x' * 230).mkdir()", "too long"),
        ("from pathlib import Path; Path('a').open('w').close()", "EncodingWarning"),
        ("import os; f = open('a', 'wb'); os.replace('a', 'b')", "in use by this process"),
        ("import os; f = open('a', 'wb'); os.remove('a')", "in use by this process"),
    ],
)
def test_what_windows_does_not_have_is_refused_to_our_modules_alone(windows, tmp_path, code, error):
    """Else the other tests would prove nothing."""
    script = f"""
try:
    exec({code!r}, {{"__name__": "etude.x"}})
except (Exception, Warning) as error:
    print(type(error).__name__, error)
"""
    assert error in windows(script)


def test_libraries_do_as_ever(windows):
    code = "import fcntl, os; os.sched_getaffinity(0); open('/proc/meminfo').close()"
    windows(f"exec({code!r}, {{'__name__': 'library'}})")


def test_training_resuming_and_predicting(windows):
    windows(
        TOY
        + """
import pathlib
toy_("train", "--run", "r", "--fit.epochs", "2")
pathlib.Path("r/result.json").unlink()  # as of a run that was stopped
toy_("train", "--run", "r")
toy_("evaluate", "r")
toy_("predict", "r", "123", "--out", "answer.txt")
toy_("train", "--fit.epochs", "1")  # in a folder that gets its name from the time
"""
    )
    assert Path("answer.txt").read_text(encoding="utf-8").startswith("123\t")
    assert json.loads(Path("r/result.json").read_text(encoding="utf-8"))["epochs"] == 2


def study(windows, together):
    Path("s.yaml").write_text(STUDY.format(together), encoding="utf-8")
    said = windows(TOY + 'toy_("study", "s.yaml", "--out", "s", "--jobs", "2")')
    assert "missing" not in said
    for seed in (0, 1):
        assert Path(f"s/norm=true/seed={seed}/test.json").is_file()


def test_a_study_in_one_process(windows):
    study(windows, "on")


def test_a_study_in_several_processes_and_its_report(windows):
    study(windows, "off")
    said = windows(TOY + 'toy_("report", "s")')
    assert "not complete" not in said
    assert {"report.html", "task0.ipynb", "tensorboard0.zip"} <= {path.name for path in Path("s").iterdir()}


def test_a_download(windows, tmp_path):
    (tmp_path / "there.csv").write_text("a,b\n", encoding="utf-8")
    windows(
        """
import http.server, pathlib, threading
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
from etude import download
url = f"http://127.0.0.1:{server.server_port}/there.csv"
download.fetch(url, pathlib.Path("data/here.csv"), None, "a table")
"""
    )
    assert [path.name for path in Path("data").iterdir()] == ["here.csv"]
    assert Path("data/here.csv").read_text(encoding="utf-8") == "a,b\n"
