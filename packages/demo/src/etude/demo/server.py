"""The page's server: one page and its answers, for whoever has the address, which contains a secret.

What it guards against: other users of the machine and other pages in the browser (the token is in the path, so that
no request without it is answered, and is never sent to other sites), names that are made to point here (DNS
rebinding: of the header Host only addresses, localhost and the name given with --host pass), and bodies that are too
large. Nothing is read from the disk at a request, so no path leads anywhere.
"""

import hmac
import html
import ipaddress
import json
import os
import secrets
import socket
import socketserver
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from etude.demo.page import BYTES, Demo, Panel, Photo, Refused, Shown, plain
from etude.errors import UserError

SMALL = 1 << 18  # bytes of a request without pictures
PATIENCE = 20  # seconds that a connection may be silent
KEPT = 16  # answers that have a part which comes later, for as many windows


@cache
def template() -> str:
    return files("etude.demo").joinpath("page.html").read_text("utf-8")


class Server(ThreadingHTTPServer):
    """Serves one demo. `told` is what the page says of the run; the model answers in one thread, one at a time.

    Raises OSError if the port or the host cannot be had.
    """

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there it would let two servers have one port

    def __init__(self, demo: Demo, told: dict[str, Any], host: str, port: int) -> None:
        self.demo, self.told, self.host = demo, told, host
        self.token = secrets.token_urlsafe(24)
        self.count, self.later = 0, dict[int, Callable[[], Sequence[Shown]]]()  # of the last answers, by number
        # One thread for all: OpenMP keeps a pool of workers for each thread that ever asked it for something.
        self.model = ThreadPoolExecutor(1)
        photos = max(sum(isinstance(one, Photo) for one in panel.inputs) for panel in demo.panels)
        self.most = SMALL + photos * BYTES * 3 // 2  # base64 takes four thirds
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # that of HTTPServer asks the network for our name
        self.server_name, self.server_port = self.host, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who hangs up is no error of ours; anything else is one, and is told."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_port}/{self.token}/"

    def knows(self, header: str | None) -> bool:
        """Whether a request with this header Host was meant for us, and not for a name that is made to point here."""
        try:
            host = urlsplit(f"//{header or ''}").hostname or ""
            if host in ("localhost", self.host.lower()):
                return True
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def page(self, nonce: str) -> str:
        about = {
            "question": self.demo.question,
            "about": self.demo.about,
            "know": self.demo.know,
            "panels": [panel.plain() for panel in self.demo.panels],
            "most": BYTES,
            **self.told,
        }
        plain = json.dumps(about).replace("<", "\\u003c")  # so that no text in it can end the script
        title = html.escape(f"{self.told['name']}: {self.demo.question}")
        return template().replace("NONCE", nonce).replace("TITLE", title).replace('"ABOUT"', plain)

    def answer(self, body: bytes) -> dict[str, Any]:
        """What the model answers to a request, or the `problem` that a person can mend. Raises Refused."""
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            raise Refused("the body is not JSON") from None
        if not isinstance(asked, dict):
            raise Refused("the body is not a JSON object")
        if "later" in asked:
            return self.model.submit(self.rest, asked["later"]).result()
        panel = self.demo.panel(asked.get("panel"))
        try:
            return self.model.submit(self.first, panel, asked.get("given")).result()
        except UserError as error:
            return {"problem": str(error)}

    def first(self, panel: Panel, given: Any) -> dict[str, Any]:
        """An answer; with the number under which there is more of it `later`, if there is."""
        answer = panel.answered(given)
        if answer.later is None:
            return answer.plain()
        self.count += 1
        self.later[self.count] = answer.later
        self.later.pop(self.count - KEPT, None)
        return {**answer.plain(), "later": self.count}

    def rest(self, number: Any) -> dict[str, Any]:
        """What was left for later of the answer of this number. Raises Refused if it has been, or is too old."""
        later = self.later.pop(number, None) if isinstance(number, int) else None
        if later is None:
            raise Refused("there is no more of such an answer")
        return {"shown": plain(later())}

    def end(self) -> None:
        self.server_close()
        self.model.shutdown(wait=False, cancel_futures=True)


class Handler(BaseHTTPRequestHandler):
    """GET /TOKEN/ is the page, POST /TOKEN/answer an answer, and there is nothing else."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "etude", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        if self.admitted("/"):
            nonce = secrets.token_urlsafe(16)
            policy = (
                f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data: blob:; "
                "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
            )
            more = {"Content-Security-Policy": policy}
            self.reply(200, "text/html; charset=utf-8", self.server.page(nonce).encode(errors="replace"), more)

    def do_POST(self) -> None:
        if not self.admitted("/answer"):
            return None
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or self.headers.get("Transfer-Encoding"):
            return self.refuse(411, "say how long the body is")
        if len(length) > 12 or int(length) > self.server.most:
            return self.refuse(413, "the body is too large")
        if self.headers.get_content_type() != "application/json":
            return self.refuse(415, "the body is not JSON")
        try:
            answer = json.dumps(self.server.answer(self.rfile.read(int(length))), allow_nan=False)
        except Refused as error:
            return self.refuse(400, str(error))
        except Exception:  # a bug of ours: the person at the terminal sees it whole, the page only that there is one
            traceback.print_exc()
            return self.refuse(500, "the model failed; the terminal says why")
        return self.reply(200, "application/json", answer.encode())

    def admitted(self, place: str) -> bool:
        """Whether the request is for us, with the token, and for this place; otherwise it is refused here."""
        path = self.path.partition("?")[0]
        token, _, rest = path.removeprefix("/").partition("/")
        if not self.server.knows(self.headers.get("Host")):
            self.refuse(403, "this name is not known here")
        elif not hmac.compare_digest(token.encode(errors="replace"), self.server.token.encode()):
            self.refuse(403, "the address lacks its secret: take the one that the terminal shows")
        elif f"/{rest}" != place:
            self.refuse(404, "there is nothing here")
        else:
            return True
        return False

    def refuse(self, code: int, why: str) -> None:
        self.close_connection = True  # what is left of the body is not read
        with suppress(OSError):
            self.reply(code, "text/plain; charset=utf-8", why.encode(errors="replace"), {"Connection": "close"})

    def reply(self, code: int, kind: str, content: bytes, more: dict[str, str] | None = None) -> None:
        self.send_response(code)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in (headers | (more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal shows the address and faults, not every stroke."""
