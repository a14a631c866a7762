"""A page that shows a run while another process works on it, served on this machine alone.

It reads the run and writes nothing. Browsers fetch what has changed and redraw it in place; without
scripts the page loads anew. As soon as there is a report it stands below.
"""

from __future__ import annotations

import json
import logging
import secrets
import sys
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ntkdist import storage
from ntkdist.errors import InputError, NtkdistError
from ntkdist.report.live.page import Page, State
from ntkdist.report.live.state import Follower
from ntkdist.runs.run import Run

_log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_NAMES = frozenset([_HOST, "localhost"])
_SHUT = "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "


def watch(
    url: str,
    *,
    port: int = 0,
    open_browser: bool = False,
    interval: float = 2.0,
    on_ready: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Serve the live page of a run until it is stopped.

    Args:
        url: Folder or URL of the run; another process may work on it or not.
        port: Port on 127.0.0.1; 0 takes a free one. From another machine it is reached through
            ssh -L alone.
        open_browser: Whether to open the page in the browser.
        interval: Seconds between two looks at the run.
        on_ready: Told the page's address once it is served.
        stop: Ends the serving when set; Ctrl-C does as well.

    Raises:
        InputError: If there is no run, or the port is taken.
    """
    run = Run.open(url, pending_extension=True)
    if not interval > 0:
        raise InputError(f"interval={interval} s must be more than 0")
    stop = threading.Event() if stop is None else stop
    page = Page(run, interval)
    with _server(run, page, port) as server:
        address = f"http://{_HOST}:{server.server_address[1]}/"
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            if on_ready is not None:
                on_ready(address)
            if open_browser:
                webbrowser.open(address)
            follower = Follower(run)
            while not stop.is_set():
                server.state = _look(page, follower)
                stop.wait(interval)
        except KeyboardInterrupt:
            pass
        finally:
            server.shutdown()
            thread.join()


def _look(page: Page, follower: Follower) -> State:
    try:
        return page.state(follower.look())
    except (NtkdistError, OSError) as error:  # a store that is away comes back
        return page.state(None, trouble=" ".join(str(error).split()))


class _Server(ThreadingHTTPServer):
    """Answers from the latest state, so that many readers cost no more than one.

    Attributes:
        state: What is shown now.
    """

    daemon_threads = True

    def __init__(self, run: Run, page: Page, port: int) -> None:
        self.run, self.page = run, page
        self.state = page.state(None)
        super().__init__((_HOST, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over browsers that went away in the midst of an answer; log anything else."""
        if not isinstance(sys.exception(), ConnectionError):
            _log.warning("a request to the live page failed", exc_info=True)


def _server(run: Run, page: Page, port: int) -> _Server:
    try:
        return _Server(run, page, port)
    except OSError as error:
        raise InputError(
            f"port {port} of {_HOST} cannot be served ({error.strerror}); give another, or 0 for a "
            "free one"
        ) from None
    except OverflowError:
        raise InputError(f"port {port} must be from 0 to 65535") from None


class _Handler(BaseHTTPRequestHandler):
    """``/``, ``/state?since=VERSION`` and ``/report.html``; GET and HEAD."""

    server: _Server
    timeout = 10
    server_version, sys_version = "ntkdist", ""

    def do_GET(self) -> None:
        """Answer one request."""
        if self.headers.get("Host", "").partition(":")[0].lower() not in _NAMES:
            # a page of another site that calls itself this machine (DNS rebinding)
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"for this machine only\n")
            return
        parts = urlsplit(self.path)
        if parts.path == "/":
            self._page()
        elif parts.path == "/state":
            self._state(parse_qs(parts.query).get("since", [""])[0])
        elif parts.path == "/report.html":
            self._report()
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there is no such page\n")

    do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

    def _page(self) -> None:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"{_SHUT}script-src 'nonce-{nonce}'; connect-src 'self'; frame-src 'self'; "
            "img-src data:; frame-ancestors 'none'"
        )
        text = self.server.page.whole(self.server.state, nonce)
        self._answer(HTTPStatus.OK, "text/html", text.encode(), policy)

    def _state(self, since: str) -> None:
        state = self.server.state
        if since == str(state.version):
            self._answer(HTTPStatus.NO_CONTENT, "application/json", b"")
        else:
            self._answer(HTTPStatus.OK, "application/json", json.dumps(asdict(state)).encode())

    def _report(self) -> None:
        try:
            content = storage.read_bytes(self.server.run.address("report.html"))
        except NtkdistError as error:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{error}\n".encode())
            return
        if content is None:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there is no report yet\n")
            return
        policy = f"{_SHUT}img-src data:; frame-ancestors 'self'"
        self._answer(HTTPStatus.OK, "text/html", content, policy)

    def _answer(
        self, status: HTTPStatus, kind: str, content: bytes, policy: str = "default-src 'none'"
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: standard error is the command's."""
