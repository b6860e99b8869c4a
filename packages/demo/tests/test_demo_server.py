"""The page's server without a model: who is answered, what is refused, and that no text becomes a program."""

import base64
import http.client
import io
import json
import socket
import struct
import threading
import time
import zlib
from contextlib import contextmanager
from functools import partial

import pytest
from PIL import Image

from etude.demo import page
from etude.demo.page import Answer, Bars, Choice, Demo, Drawing, Lines, Panel, Photo, Plane, Slider, Text
from etude.demo.server import KEPT, SMALL, Server
from etude.errors import UserError

TOLD = {"name": "toy", "run": "one", "data": "sample", "scores": []}
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def parrot(text):
    if text == "mistake":
        raise UserError("give another text")
    if text == "bug":
        raise RuntimeError("a bug of ours")
    later = partial(more, text) if text.startswith("more") else None
    return Answer(text, [Lines("Said", [("you", text)])], later=later)


def more(text):
    if text == "more bugs":
        raise RuntimeError("a later bug of ours")
    return [Lines("Said again", [("you", text)])]


def numbers(x, word, point):
    return Answer(f"{x} {word} {point}", [Bars("Parts", [("all", 1.0)])])


def size(image):
    return page.NOTHING if image is None else Answer(f"{image.width} x {image.height} {image.mode}")


DEMO = Demo(
    f"What? {EVIL}",
    EVIL,
    [
        Panel("Say", [Text("text", "Text", EVIL, longest=100)], parrot),
        Panel(
            "Numbers",
            [
                Slider("x", "x", -1, 1, 0.1),
                Choice("word", "word", ("a", "b"), "a"),
                Plane("point", "point", ((-2, 2), (0, 1)), "data:,"),
            ],
            numbers,
        ),
        Panel("Picture", [Photo("image", "Picture")], size),
    ],
    EVIL,
)


@contextmanager
def served(demo, host="127.0.0.1"):
    server = Server(demo, TOLD, host, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.end()


@pytest.fixture(scope="module")
def server():
    with served(DEMO) as one:
        yield one


def ask(server, method="POST", path=None, body=b"", host=None, kind="application/json", **headers):
    """Status, headers and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    path = f"/{server.token}/answer" if path is None else path
    try:
        connection.putrequest(method, path, skip_host=True)
        given = {"Host": host or f"127.0.0.1:{server.server_port}", "Content-Type": kind, "Content-Length": len(body)}
        for name, value in (given | {name.replace("_", "-"): value for name, value in headers.items()}).items():
            if value is not None:
                connection.putheader(name, str(value))
        connection.endheaders(body or None)
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


def answer(server, panel, **given):
    status, _, body = ask(server, body=json.dumps({"panel": panel, "given": given}).encode())
    return status, json.loads(body) if status == 200 else body.decode()


def as_base64(content):
    return base64.b64encode(content).decode()


def png(width, height):
    """A PNG that says it is so large, and holds next to nothing."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_it_answers(server):
    assert answer(server, "Say", text="good day")[1]["headline"] == "good day"
    assert answer(server, "Numbers", x=0.5, word="b", point=[1, 0.5])[1]["headline"] == "0.5 b (1.0, 0.5)"
    file = io.BytesIO()
    Image.new("RGBA", (30, 20)).save(file, "PNG")
    assert answer(server, "Picture", image=as_base64(file.getvalue()))[1]["headline"] == "30 x 20 RGBA"
    assert answer(server, "Picture", image=None)[1]["headline"] == ""
    assert answer(server, "Say", text="mistake") == (200, {"problem": "give another text"})


def test_what_takes_longer_comes_when_it_is_asked_for_and_once(server, capfd):
    """Each answer has a part of its own, whoever asked in between; the server keeps those of the last answers only."""

    def rest(number):
        status, _, body = ask(server, body=json.dumps({"later": number}).encode())
        return json.loads(body)["shown"][0]["lines"] if status == 200 else (status, body.decode())

    assert "later" not in answer(server, "Say", text="good day")[1]
    one, other = (answer(server, "Say", text=text)[1] for text in ("more", "more of it"))
    assert [part["title"] for part in one["shown"]] == ["Said"], "the rest is not there yet"
    assert rest(other["later"]) == [["you", "more of it"]] and rest(one["later"]) == [["you", "more"]]
    for number in (one["later"], 0, 10**30, -1, "1", None, [1], 1.0):
        assert rest(number) == (400, "there is no more of such an answer")
    numbers = [answer(server, "Say", text=f"more {n}")[1]["later"] for n in range(KEPT + 1)]
    assert rest(numbers[0])[0] == 400 and rest(numbers[1]) == [["you", "more 1"]] and len(server.later) == KEPT - 1
    assert rest(answer(server, "Say", text="more bugs")[1]["later"])[0] == 500
    assert "a later bug of ours" in capfd.readouterr().err


def test_without_the_secret_nothing_is_answered(server):
    body = json.dumps({"panel": "Say", "given": {"text": "x"}}).encode()
    for path in (
        "/",
        "/answer",
        "//answer",
        "/wrong/answer",
        f"/{server.token[:-1]}/answer",
        "/%2e%2e/answer",
        "/%c3%a9/",
    ):
        for method in ("GET", "POST"):
            status, _, said = ask(server, method, path, body)
            assert status == 403 and server.token.encode() not in said
    other = Server(DEMO, TOLD, "127.0.0.1", 0)
    other.end()
    assert len(server.token) >= 32 and other.token != server.token


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "localhost.evil"]
)
def test_names_that_are_made_to_point_here_are_refused(server, host):
    """DNS rebinding: the page of an attacker whose name now means 127.0.0.1."""
    for method, path in (("GET", f"/{server.token}/"), ("POST", None)):
        assert ask(server, method, path, host=host or " ")[0] == 403


def test_hosts_that_mean_this_machine_are_known(server):
    for host in ("localhost", "127.0.0.1:1", "[::1]:8000", f"LOCALHOST:{server.server_port}"):
        assert ask(server, "GET", f"/{server.token}/", host=host)[0] == 200


def test_it_listens_to_this_machine_alone(server):
    assert server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "path", ["page.html", "../", "..%2f..%2fetc/passwd", "../../../../etc/passwd", "answer/../x", "server.py", "\\etc"]
)
def test_no_path_leads_anywhere(server, path):
    status, _, body = ask(server, "GET", f"/{server.token}/{path}")
    assert status == 404 and len(body) < 100


def test_other_methods_are_not_known(server):
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert ask(server, method)[0] == 501


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[" * 100_000,
        b'{"panel": "Nothing", "given": {}}',
        b'{"panel": ["Say"], "given": {"text": "x"}}',
        b'{"panel": "Say"}',
        b'{"panel": "Say", "given": []}',
        b'{"panel": "Say", "given": {"text": 3}}',
        b'{"panel": "Say", "given": {"text": "x", "more": 1}}',
        b'{"panel": "Numbers", "given": {"x": NaN, "word": "a", "point": [0, 0]}}',
        b'{"panel": "Numbers", "given": {"x": 1e999, "word": "a", "point": [0, 0]}}',
        b'{"panel": "Numbers", "given": {"x": true, "word": "a", "point": [0, 0]}}',
        b'{"panel": "Numbers", "given": {"x": 0, "word": "c", "point": [0, 0]}}',
        b'{"panel": "Numbers", "given": {"x": 0, "word": ["a"], "point": [0, 0]}}',
        b'{"panel": "Numbers", "given": {"x": 0, "word": "a", "point": [0, 9]}}',
        b'{"panel": "Numbers", "given": {"x": 0, "word": "a", "point": [0]}}',
        b'{"panel": "Picture", "given": {"image": "/etc/passwd"}}',
        b'{"panel": "Picture", "given": {"image": {"path": "/etc/passwd"}}}',
        b'{"panel": "Picture", "given": {"image": "\xc3\xa9"}}',
    ],
)
def test_what_the_page_never_sends_is_refused(server, body):
    status, _, said = ask(server, body=body)
    assert status == 400 and b"Traceback" not in said and b"passwd" not in said


def test_bodies_are_limited(server):
    for length in (server.most + 1, 10**40):
        assert ask(server, Content_Length=length)[0] == 413
    for length in (None, "-1", "x", "1e3", "٣".encode().decode("latin-1")):
        assert ask(server, Content_Length=length)[0] == 411
    assert ask(server, Transfer_Encoding="chunked")[0] == 411
    assert ask(server, kind="text/plain", body=b"{}")[0] == 415, "what a form of another site can send"
    only_text = Demo("", "", DEMO.panels[:1], "")
    with served(only_text) as small:
        assert small.most == SMALL


def test_texts_are_limited(server):
    assert answer(server, "Say", text="x" * 100)[1]["headline"] == "x" * 100
    assert "at most 100" in answer(server, "Say", text="x" * 101)[1]["problem"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (png(30_000, 30_000), "million pixels"),
        (png(1_000_000, 1), "cannot be read"),
        (png(0, 0), "cannot be read|not a picture"),
        (b"", "not a picture"),
        (b"<svg onload='alert(1)'/>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"\x89PNG\r\n\x1a\n", "not a picture"),
    ],
    ids=["bomb", "wide", "empty picture", "empty", "svg", "postscript", "cut"],
)
def test_pictures_that_are_none_or_too_large_are_told(server, content, why):
    start = time.process_time()
    status, said = answer(server, "Picture", image=as_base64(content))
    assert status == 200 and any(part in said["problem"] for part in why.split("|")), said
    assert "/" not in said["problem"], "no path of the machine"
    assert time.process_time() - start < 2


def test_a_file_that_is_too_large_is_told(server):
    problem = answer(server, "Picture", image=as_base64(bytes(page.BYTES + 1)))[1]["problem"]
    assert "16 MB" in problem


def test_a_bug_is_told_in_the_terminal_and_not_on_the_page(server, capfd):
    status, said = answer(server, "Say", text="bug")
    assert status == 500 and "a bug of ours" not in said
    assert "RuntimeError: a bug of ours" in capfd.readouterr().err
    assert answer(server, "Say", text="well")[0] == 200, "the next one is answered"


def test_headers_allow_nothing_but_the_page(server):
    status, headers, body = ask(server, "GET", f"/{server.token}/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert headers["Referrer-Policy"] == "no-referrer", "else another site would be told the secret"
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    again = ask(server, "GET", f"/{server.token}/")[1]["Content-Security-Policy"]
    assert again != policy, "a nonce is used once"
    assert EVIL.encode() not in body and b"<script>alert" not in body


def test_requests_at_once_are_answered_one_after_another():
    at_work, most = 0, 0

    def slow(text):
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        time.sleep(0.02)
        at_work -= 1
        return Answer(text)

    with served(Demo("", "", [Panel("Say", [Text("text", "")], slow)], "")) as server:
        found = {}
        threads = [
            threading.Thread(target=lambda n=n: found.update({n: answer(server, "Say", text=str(n))})) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {n: said["headline"] for n, (_, said) in found.items()} == {n: str(n) for n in range(8)}
    assert most == 1


def test_who_hangs_up_in_the_middle_harms_nobody(server, capfd):
    for sent in (b"", b"GET", f"POST /{server.token}/answer HTTP/1.1\r\nHost: localhost\r\n".encode()):
        with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
            connection.sendall(sent)
    length = b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        connection.sendall(f"POST /{server.token}/answer HTTP/1.1\r\nHost: localhost\r\n".encode() + length)
    assert answer(server, "Say", text="still there")[1]["headline"] == "still there"
    assert "Traceback" not in capfd.readouterr().err


def test_what_is_not_certain_is_never_called_so():
    found = {p: page.percent(p) for p in (0.0, 1e-9, 0.0004, 0.5, 0.9994, 0.9999999, 1.0)}
    assert list(found.values()) == ["0.0 %", "< 0.1 %", "< 0.1 %", "50.0 %", "99.9 %", "> 99.9 %", "100.0 %"]
    assert "wrong" in page.sure(0.49) and page.sure(0.5) == "50.0 %" and "guess" in page.sure(0.9, blind=True)


def test_a_drawing_is_the_picture_that_was_drawn():
    file = io.BytesIO()
    drawn = Image.linear_gradient("L")
    drawn.save(file, "PNG")
    assert Drawing("image", "").read(as_base64(file.getvalue())).tobytes() == drawn.tobytes()
