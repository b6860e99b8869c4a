"""Downloads from a server of our own, which misbehaves on demand and counts what it sends."""

import errno
import gzip
import hashlib
import io
import re
import subprocess
import sys
import threading
import zipfile
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from etude import download, files
from etude.errors import UserError

BODY = b"\x1f\x8b" + bytes(range(2, 256)) + bytes(range(256)) * 4999  # 1.28 MB: several blocks
HALF = len(BODY) // 2
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        self.server.paths.append(self.path)
        self.server.conditions.append(self.headers.get("If-Range"))
        self.server.answer(self)

    def begin(self, status, length, span=None):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if span:
            self.send_header("Content-Range", span)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
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
        self.headers = {}
        self.ranges, self.conditions, self.paths = [], [], []
        self.sent = 0

    def handle_error(self, request, client_address):
        """A client that hangs up is what these tests are about."""


def whole(request):
    """All of it, or the range asked for, as a well-behaved server does."""
    body, known = request.server.body, request.server.headers
    asked, condition = request.headers.get("Range"), request.headers.get("If-Range")
    if not asked or (condition and condition not in (known.get("ETag"), known.get("Last-Modified"))):
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
        with pytest.raises(UserError, match=r"^there is no home folder here [^\n]*ETUDE_DATA"):
            place()
    monkeypatch.setenv("ETUDE_DATA", str(tmp_path))
    assert download.root() == tmp_path
    assert download.cache() == tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert download.cache() == tmp_path / "x" / "etude"
    monkeypatch.setenv("ETUDE_DATA", "~nobody/data")
    with pytest.raises(UserError, match="^there is no home folder here for '~nobody/data'"):
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


def test_an_environment_that_names_no_folder_is_one_line(monkeypatch):
    monkeypatch.setenv("ETUDE_DATA", "")
    with pytest.raises(UserError, match="ETUDE_DATA is empty: .* or unset it"):
        download.root()
    monkeypatch.delenv("ETUDE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    for folder in (download.root, download.cache):
        with pytest.raises(UserError, match="XDG_CACHE_HOME is 'caches', no absolute path: .* or unset it"):
            folder()
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.delenv("HOME")

    def nobody(_):
        raise KeyError("no such user id")  # as in a container that was started with --user

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for folder in (download.root, download.cache):
        with pytest.raises(UserError, match="no home folder here for '~/.cache': set HOME, or ETUDE_DATA"):
            folder()
    monkeypatch.setenv("ETUDE_DATA", "~nobody-of-this-name/data")
    with pytest.raises(UserError, match="no home folder here for '~nobody-of-this-name/data'"):
        download.root()


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
        (stalled, r"\(nothing was received for 0.2 s\)", HALF),
        (silent, r"\(nothing was received for 0.2 s\)", 0),
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


OLD = "Sun, 01 Nov 2026 08:00:00 GMT"


def part(file, content, version=""):
    """What an interrupted transfer left, and what the server had said of its version."""
    file.parent.mkdir()
    file.with_name(file.name + ".part").write_bytes(content)
    if version:
        file.with_name(file.name + ".part.version").write_text(version)


@pytest.mark.parametrize("had", [0, 1000, len(BODY)])
def test_without_a_hash_the_length_counts(server, file, had):
    server.headers = {"ETag": '"1"'}
    part(file, BODY[:had], '"1"')
    fetch(server, file, None)
    assert left(file) == {file.name: BODY} and server.sent == len(BODY) - had


def test_without_a_hash_it_goes_on_with_the_same_version(server, file):
    version = '"1"'
    server.answer, server.headers = cut, {"ETag": version}
    refusal(server, file, None)
    assert left(file) == {file.name + ".part": BODY[:HALF], file.name + ".part.version": version.encode()}
    server.answer = whole
    fetch(server, file, None)
    assert left(file) == {file.name: BODY} and server.ranges == [None, f"bytes={HALF}-"]
    assert server.conditions == [None, version]


@pytest.mark.parametrize("deaf_to_conditions", [False, True])
@pytest.mark.parametrize("had", [HALF, len(BODY)])
@pytest.mark.parametrize("before", ['"1"', OLD])  # a date: as an earlier version of this package kept it
def test_without_a_hash_two_versions_of_one_length_do_not_mix(server, file, before, had, deaf_to_conditions):
    part(file, b"\x1f\x8b" + b"x" * (had - 2), before)
    server.headers = {"ETag": '"2"'}
    if deaf_to_conditions:

        def deaf_to_if_range(request):
            del request.headers["If-Range"]
            whole(request)

        server.answer = deaf_to_if_range
    fetch(server, file, None)
    assert left(file) == {file.name: BODY}


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"1"'}, {"Last-Modified": OLD}])
def test_without_a_hash_or_a_version_it_begins_anew(server, file, headers):
    """A date proves nothing: the file may change twice within a second."""
    server.answer, server.headers = cut, headers
    refusal(server, file, None)
    assert left(file) == {file.name + ".part": BODY[:HALF]}
    server.answer = whole
    fetch(server, file, None)
    assert left(file) == {file.name: BODY} and server.ranges == [None, None]


def test_without_a_hash_more_than_there_is_begins_anew(server, file):
    """The bytes that were there are of another, longer version."""
    part(file, b"x" * (len(BODY) + 1), '"1"')
    server.headers = {"ETag": '"2"'}
    fetch(server, file, None)
    assert left(file) == {file.name: BODY}


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
    with pytest.raises(UserError, match="^[^\n]*set.tar.gz cannot be written: .*; set ETUDE_DATA to another folder$"):
        fetch(server, file)


# --------------------------------------------------------------------------- what is no archive, no address, no disk


PAGE = b"\n<!DOCTYPE html>\n<html><body>Welcome to the WLAN of this hotel</body></html>"


def packed(name):
    """An archive as its name says."""
    out = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("a.txt", "text")
        return out.getvalue()
    return gzip.compress(b"text")


def sent(body, status=200):
    def answer(request):
        request.begin(status, len(body))
        request.send(body)

    return answer


@pytest.mark.parametrize("name", ["set.zip", "set.csv.gz", "set.tar.gz", "set.jpg", "set.bin"])
@pytest.mark.parametrize("digest", [None, SHA])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the answer is empty"),
        (PAGE, "the server sent an HTML page"),
        (b"\xef\xbb\xbf<html lang='ru'>", "the server sent an HTML page"),
    ],
)
def test_nothing_that_is_not_the_archive_is_kept(server, tmp_path, name, digest, body, says):
    """An empty answer and the page of a network that wants a login: named, and no fault of the disk."""
    server.answer, server.headers = sent(body), {"ETag": '"1"'}
    file = tmp_path / "sets" / name
    assert f"({says}" in refusal(server, file, digest)
    assert left(file) == {}


@pytest.mark.parametrize("name", ["set.zip", "set.csv.gz", "set.jpg", "set.png"])
@pytest.mark.parametrize("body", [b"no such file\n", b'{"error": 7}', b"PK\x03\x04 and no more", b"\x1f"])
def test_without_a_hash_it_has_to_begin_as_a_file_of_its_name(server, tmp_path, name, body):
    server.answer = sent(body)
    file = tmp_path / "sets" / name
    assert f"(what the server sent is not a {file.suffix} file)" in refusal(server, file, None)
    assert left(file) == {}


@pytest.mark.parametrize("name", ["set.zip", "set.csv.gz"])
def test_without_a_hash_an_archive_is_kept(server, tmp_path, name):
    body = packed(name)  # once, as a zip file has the time in it
    server.answer = sent(body)
    file = tmp_path / "sets" / name
    fetch(server, file, None)
    assert left(file) == {name: body}


def test_what_was_coded_on_the_way_is_not_kept(server, tmp_path):
    server.answer, server.headers = sent(gzip.compress(b"text")), {"Content-Encoding": "gzip"}
    file = tmp_path / "sets" / "set.csv"
    assert "sent it encoded as gzip" in refusal(server, file, None)
    assert left(file) == {}


def test_a_redirect_to_a_page_of_errors(server, tmp_path):
    def elsewhere(request):
        server.answer = sent(PAGE)
        request.send_response(302)
        request.send_header("Location", "/sorry?what=нет".encode().decode("latin-1"))
        request.end_headers()

    server.answer = elsewhere
    file = tmp_path / "sets" / "set.zip"
    assert "an HTML page" in refusal(server, file, None)
    assert left(file) == {}


def test_a_proxy_that_wants_a_password_is_named(server, file):
    server.answer = lambda request: request.send_error(407)
    assert "407: Proxy Authentication Required: set https_proxy to http://USER:PASSWORD@" in refusal(server, file)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/данные/набор.tar.gz", "/%D0%B4%D0%B0%D0%BD%D0%BD%D1%8B%D0%B5/%D0%BD%D0%B0%D0%B1%D0%BE%D1%80.tar.gz"),
        ("/a b.gz?q=слово", "/a%20b.gz?q=%D1%81%D0%BB%D0%BE%D0%B2%D0%BE"),
        ("/%D0%B4.gz?a=1&b=%20", "/%D0%B4.gz?a=1&b=%20"),
    ],
)
def test_an_address_as_people_write_it(server, file, path, asked):
    server.url = server.url.replace("/set.tar.gz", path)
    fetch(server, file)
    assert server.paths == [asked]


@pytest.mark.parametrize(
    "url", ["", "set.zip", "//host/set.zip", "http://", "http://" + "ы" * 80, "http://[::1", "x://a", "http://a:b/"]
)
def test_no_address(server, file, url):
    server.url = url
    refusal(server, file)
    assert left(file) == {}


def test_a_full_disk_is_told_as_one(server, file, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(UserError, match=r"set.tar.gz cannot be written: No space left on device; set ETUDE_DATA"):
        fetch(server, file)
