"""Downloads from a server of our own, which misbehaves on demand and counts what it sends."""

import hashlib
import io
import re
import subprocess
import sys
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from etude import download
from etude.errors import UserError

BODY = bytes(range(256)) * 5000  # 1.28 MB: several blocks
HALF = len(BODY) // 2
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        self.server.answer(self)

    def begin(self, status, length, span=None):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()

    def send(self, data):
        self.server.sent += len(data)  # first: the client may be through before this thread goes on
        self.wfile.write(data)

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/set.tar.gz"
        self.over = threading.Event()
        self.answer = whole
        self.body = BODY
        self.ranges = []
        self.sent = 0

    def handle_error(self, request, client_address):
        """A client that hangs up is what these tests are about."""


def whole(request):
    """All of it, or the range asked for, as a well-behaved server does."""
    body = request.server.body
    if not (asked := request.headers.get("Range")):
        request.begin(200, len(body))
        request.send(body)
        return
    first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
    if first >= len(body):
        request.begin(416, 0, f"bytes */{len(body)}")
    else:
        request.begin(206, len(body) - first, f"bytes {first}-{len(body) - 1}/{len(body)}")
        request.send(body[first:])


def deaf(request):
    """Takes no notice of a Range."""
    request.begin(200, len(request.server.body))
    request.send(request.server.body)


def unmeasured(request):
    """Says nothing of the length."""
    request.begin(200, None)
    request.send(request.server.body)


def cut(request):
    request.begin(200, len(request.server.body))
    request.send(request.server.body[:HALF])


def cut_unmeasured(request):
    request.begin(200, None)
    request.send(request.server.body[:HALF])


def stalled(request):
    cut(request)
    request.server.over.wait()


def silent(request):
    request.server.over.wait()


def missing(request):
    request.send_error(404)


def shifted(request):
    """Sends another part than it was asked for."""
    request.begin(206, 10, f"bytes 0-9/{len(BODY)}")
    request.send(BODY[:10])


def garbage(request):
    request.wfile.write(b"what?\r\n\r\n")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "sets" / "set.tar.gz"


def fetch(server, file, digest=SHA):
    return download.fetch(server.url, file, digest, "the set")


def refusal(server, file, digest=SHA):
    with pytest.raises(UserError) as error:
        fetch(server, file, digest)
    assert not file.exists()
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"the set could not be downloaded from {server.url} (")
    assert message.endswith(f"; run it again, use --data sample, or put the file at {file} by hand")
    return message


def left(file):
    return {path.name: path.read_bytes() for path in file.parent.iterdir()}


def test_a_user_without_a_home(monkeypatch, tmp_path):
    """As in a container that runs under any user's number: neither HOME nor an entry among the users."""
    for variable in ("ETUDE_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    for place in (download.root, download.cache):
        with pytest.raises(UserError, match=r"^this user has no home folder [^\n]*: set ETUDE_DATA to a folder"):
            place()
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path))
    assert download.root() == tmp_path
    assert download.cache() == tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert download.cache() == tmp_path / "x" / "etude"
    monkeypatch.setenv("ETUDE_DATA", "~nobody/data")
    with pytest.raises(UserError, match="^'~nobody/data': there is no such home folder"):
        download.root()


def test_the_root(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("ETUDE_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert download.root() == tmp_path / ".cache" / "etude"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert download.root() == Path("/elsewhere/etude")
    monkeypatch.setenv("ETUDE_DATA", "~/mine")
    assert download.root() == tmp_path / "mine"


@pytest.mark.parametrize("answer", [whole, unmeasured])
@pytest.mark.parametrize("digest", [SHA, SHA.upper(), "sha256:" + SHA, "md5:" + hashlib.md5(BODY).hexdigest()])
def test_it_is_fetched_once(server, file, answer, digest, capsys):
    server.answer = answer
    assert fetch(server, file, digest) == file
    assert left(file) == {file.name: BODY}
    # no terminal here: one line instead of a bar
    assert capsys.readouterr() == ("", f"fetching the set from {server.url} to {file}\n")
    fetch(server, file, digest)
    assert server.ranges == [None]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(server, file, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(server, file)
    assert "the set: 100%" in terminal.getvalue() and "1.28M/1.28M" in terminal.getvalue()


def test_what_is_there_is_used_as_it_is(server, file):
    file.parent.mkdir()
    file.write_bytes(b"put by hand")
    fetch(server, file)
    assert left(file) == {file.name: b"put by hand"} and not server.ranges


def test_slow_is_not_silent(server, file, monkeypatch):
    """Longer in all than the patience, but never so long without a byte."""
    monkeypatch.setattr(download, "PATIENCE", 1.0)
    server.body = BODY[:12]

    def trickle(request):
        request.begin(200, 12)
        for i in range(12):
            request.send(BODY[i : i + 1])
            server.over.wait(0.1)

    server.answer = trickle
    fetch(server, file, hashlib.sha256(server.body).hexdigest())
    assert left(file) == {file.name: server.body}


@pytest.mark.parametrize(
    ("answer", "says", "kept"),
    [
        (cut, f"ended after {HALF:,} of {len(BODY):,} bytes|IncompleteRead", HALF),
        (stalled, r"\(no byte for 0.2 s\)", HALF),
        (silent, r"\(no byte for 0.2 s\)", 0),
        (missing, r"\(HTTP Error 404: Not Found\)", 0),
        (garbage, "what?", 0),
        (cut_unmeasured, f"its sha256 is .*, not {SHA}", 0),  # only the hash can tell
    ],
)
def test_a_failure_leaves_nothing_that_looks_whole(server, file, answer, says, kept, monkeypatch):
    with monkeypatch.context() as patch:
        if answer in (stalled, silent):
            patch.setattr(download, "PATIENCE", 0.2)
        server.answer = answer
        assert re.search(says, refusal(server, file))
    assert left(file) == ({file.name + ".part": BODY[:kept]} if kept else {})
    server.answer, server.sent = whole, 0
    fetch(server, file)
    assert left(file) == {file.name: BODY}
    assert server.sent == len(BODY) - kept


@pytest.mark.parametrize("had", [0, 1000, len(BODY)])
def test_without_a_hash_the_length_counts(server, file, had):
    file.parent.mkdir()
    file.with_name(file.name + ".part").write_bytes(BODY[:had])
    fetch(server, file, None)
    assert left(file) == {file.name: BODY} and server.sent == len(BODY) - had


def test_without_a_hash_it_goes_on_too(server, file):
    server.answer = cut
    refusal(server, file, None)
    assert left(file) == {file.name + ".part": BODY[:HALF]}
    server.answer = whole
    fetch(server, file, None)
    assert left(file) == {file.name: BODY} and server.ranges == [None, f"bytes={HALF}-"]


def test_without_a_hash_more_than_there_is_begins_anew(server, file):
    """The bytes that were there are of another, longer version."""
    file.parent.mkdir()
    file.with_name(file.name + ".part").write_bytes(b"x" * (len(BODY) + 1))
    fetch(server, file, None)
    assert left(file) == {file.name: BODY} and server.ranges == [f"bytes={len(BODY) + 1}-", None]


@pytest.mark.parametrize("answer", [unmeasured, cut_unmeasured])
def test_neither_hash_nor_length(server, file, answer):
    server.answer = answer
    assert "(the server does not say how long it is)" in refusal(server, file, None)
    assert left(file) == {}


def test_the_wrong_hash_is_refused(server, file):
    server.body = BODY[:-1] + b"x"
    actual = hashlib.sha256(server.body).hexdigest()
    assert f"(its sha256 is {actual}, not {SHA})" in refusal(server, file)
    assert left(file) == {} and server.ranges == [None]


def test_no_server(file):
    closed = Server()
    closed.server_close()
    assert "Connection refused" in refusal(closed, file)
    assert left(file) == {}


def test_interrupted_then_resumed(server, file, monkeypatch):
    """Ctrl-C in the middle, twice: no byte that had arrived is sent again."""

    class Interrupted(download.tqdm):
        def update(self, n=1):
            super().update(n)
            raise KeyboardInterrupt

    kept = []
    with monkeypatch.context() as patch:
        patch.setattr(download, "tqdm", Interrupted)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                fetch(server, file)
            assert left(file).keys() == {file.name + ".part"}
            kept.append(len(left(file)[file.name + ".part"]))
    assert 0 < kept[0] < kept[1] < len(BODY)
    server.sent = 0
    fetch(server, file)
    assert left(file) == {file.name: BODY}
    assert server.sent == len(BODY) - kept[1]
    assert server.ranges == [None, *(f"bytes={n}-" for n in kept)]


def test_interrupted_after_the_last_byte(server, file):
    file.parent.mkdir()
    file.with_name(file.name + ".part").write_bytes(BODY)
    fetch(server, file)
    assert left(file) == {file.name: BODY} and server.sent == 0


def test_a_server_that_ignores_the_range(server, file):
    file.parent.mkdir()
    file.with_name(file.name + ".part").write_bytes(BODY[:1000])
    server.answer = deaf
    fetch(server, file)
    assert left(file) == {file.name: BODY} and server.ranges == ["bytes=1000-"]


def test_a_server_that_sends_another_range(server, file):
    file.parent.mkdir()
    file.with_name(file.name + ".part").write_bytes(BODY[:1000])
    server.answer = shifted
    assert "another part" in refusal(server, file)
    assert left(file) == {}


@pytest.mark.parametrize("had", [1000, len(BODY), len(BODY) + 1000])
def test_the_file_changed_in_between(server, file, had):
    """Bytes of another version do not fit the hash: once more from the start, without being asked."""
    file.parent.mkdir()
    file.with_name(file.name + ".part").write_bytes(b"x" * had)
    fetch(server, file)
    assert left(file) == {file.name: BODY} and server.ranges == [f"bytes={had}-", None]


def test_a_changed_file_that_is_wrong_too(server, file):
    file.parent.mkdir()
    file.with_name(file.name + ".part").write_bytes(BODY[:1000])
    server.body = BODY[:-1] + b"x"
    refusal(server, file)
    assert left(file) == {} and server.ranges == ["bytes=1000-", None]


CHILD = """
import sys
from pathlib import Path
from etude.download import fetch
fetch(sys.argv[1], Path(sys.argv[2]), sys.argv[3], "the set")
"""


@pytest.mark.parametrize("first", ["finishes", "breaks off", "gets something else"])
def test_several_processes(server, file, first):
    """While the first is in the middle, two more want it; they wait, whatever comes of the first."""
    go = threading.Event()

    def held(request):
        server.answer = whole
        if first == "gets something else":
            request.begin(200, HALF)
            request.send(BODY[1:HALF])
        else:
            request.begin(200, len(BODY))
            request.send(BODY[:HALF])
        go.wait()
        request.send(b"?" if first == "gets something else" else BODY[HALF:] if first == "finishes" else b"")

    server.answer = held
    command = [sys.executable, "-c", CHILD, server.url, str(file), SHA]
    with ExitStack() as stack:
        stack.callback(go.set)
        processes = []
        for says in ("fetching", "waiting", "waiting"):
            processes.append(stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True)))
            assert processes[-1].stderr.readline().startswith(says)
        go.set()
        errors = [process.communicate()[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0 if first == "finishes" else 1, 0, 0], errors
    assert left(file) == {file.name: BODY}
    assert (
        server.ranges
        == {
            "finishes": [None],
            "breaks off": [None, f"bytes={HALF}-"],
            "gets something else": [None, None],
        }[first]
    )
    assert server.sent == {"finishes": 1, "breaks off": 1, "gets something else": 1.5}[first] * len(BODY)


@pytest.mark.parametrize("what", ["a file where the folder should be", "a folder where the part should be"])
def test_a_folder_that_cannot_be_written(server, file, what):
    if what.startswith("a file"):
        file.parent.write_text("")
    else:
        file.with_name(file.name + ".part").mkdir(parents=True)
    with pytest.raises(UserError, match="^[^\n]*set.tar.gz cannot be written .*; set ETUDE_DATA to another folder$"):
        fetch(server, file)
