"""A page that shows a run while another process works on it, served on this machine alone.

It reads the run and writes nothing. Browsers fetch what has changed and redraw it in place; without
scripts the page loads anew. As soon as there is a report it stands below.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.analyses.section import read_verdict
from ntkdist.display.tile_map import ABSENT, DONE, FAILED, FLIGHT, States, counts, legend, tile_map
from ntkdist.display.words import count, duration, moment, percent, rate
from ntkdist.errors import InputError, NtkdistError, StoreError
from ntkdist.events.history import Activity, History
from ntkdist.events.log import EventReader
from ntkdist.networks.architecture import preset_of
from ntkdist.report.templates import HERE, templates
from ntkdist.runs import STAGES
from ntkdist.runs.run import Run
from ntkdist.storage import lease
from ntkdist.words import CANNOT_JUDGE

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


_MOST_CELLS = 200
_MOST_FAULTS = 8
_LONGEST = 200  # characters of an error


@dataclass(frozen=True)
class State:
    """What the page shows at one moment.

    Attributes:
        version: Goes up with every state.
        title: Of the window.
        html: What changes.
        summary: What a screen reader is told: changes seldom.
        report: Changes whenever a report was written; None where there is none.
    """

    version: int
    title: str
    html: str
    summary: str
    report: str | None


class Page:
    """Makes the page of a run.

    Args:
        run: The run.
        interval: Seconds between two looks.
    """

    def __init__(self, run: Run, interval: float) -> None:
        from markupsafe import Markup

        self._run, self._interval = run, interval
        self._markup = Markup
        environment = templates()
        self._whole = environment.get_template("live.html.j2")
        self._part = environment.get_template("live_part.html.j2")
        self._style = (HERE / "live.css").read_text(encoding="utf-8")
        self._last: Snapshot | None = None
        self._version = 0

    def state(self, now: Snapshot | None, trouble: str = "") -> State:
        """Return the next state.

        Args:
            now: The run; None before it was looked at, or where it cannot be read.
            trouble: Why it cannot be read.
        """
        self._version += 1
        self._last = now or self._last
        return State(
            version=self._version,
            title=self._title(now),
            html=self._part.render(self._context(now, trouble)),
            summary=f"Cannot be read: {trouble}" if trouble else self._summary(now),
            report=None if self._last is None else self._last.report,
        )

    def whole(self, state: State, nonce: str) -> str:
        """Return the page as a browser first gets it; its script runs under the nonce alone."""
        return self._whole.render(
            state=replace(state, html=self._markup(state.html)),
            style=self._markup(self._style),
            nonce=nonce,
            refresh=max(1, round(self._interval)),
            milliseconds=round(1000 * self._interval),
        )

    def _title(self, now: Snapshot | None) -> str:
        if now is None or not now.states.size:
            return f"{self._run.url} – ntkdist"
        tiles = now.tiles
        return f"{percent(tiles[DONE] / sum(tiles.values()))} – {self._run.url} – ntkdist"

    def _summary(self, now: Snapshot | None) -> str:
        """Return a sentence that changes with every twentieth of the tiles and with the stage."""
        if now is None:
            return "Reading what has happened so far."
        activity, tiles = now.activity, now.tiles
        total = sum(tiles.values())
        parts = []
        if total:
            parts.append(f"{100 * tiles[DONE] // total // 5 * 5} % of the tiles are stored.")
        if tiles[FAILED]:
            parts.append(f"{count(tiles[FAILED])} tiles failed.")
        if now.driver is None:
            parts.append("No driver works on the run.")
        elif activity.stage:
            parts.append(f"At work: {activity.stage}.")
        if now.verdict is not None:
            parts.append(f"Verdict on the labels: {now.verdict}.")
        if now.report is not None:
            parts.append("The report is written.")
        return " ".join(parts)

    def _context(self, now: Snapshot | None, trouble: str) -> dict[str, Any]:
        run = self._run
        name = preset_of(run.architecture) or "a network of its own"
        about = f"{run.config.data.source}, {run.num_classes} classes, {name}"
        context: dict[str, Any] = {"run": run, "about": about, "now": now, "trouble": trouble}
        if now is None:
            return context
        tiles, activity = now.tiles, now.activity
        faults = [*activity.given_up, *activity.retried][::-1]
        since = activity.since_last_event(time.time())
        return context | {
            "total": sum(tiles.values()),
            "done": tiles[DONE],
            "speed": _speed(now, tiles),
            "driver": f"At work: {now.driver}" if now.driver else "No driver works on the run",
            "heard": None if since is None else _coarse(since),
            "map": self._markup(tile_map(now.states, most=_MOST_CELLS)) if now.states.size else "",
            "legend": self._markup(legend(parts=len(now.states) > _MOST_CELLS)),
            "stages": _stages(now),
            "workers": activity.alive if now.driver else {},
            "faults": [replace(one, error=one.error[:_LONGEST]) for one in faults[:_MOST_FAULTS]],
            "more_faults": max(0, len(faults) - _MOST_FAULTS),
        }


def _speed(now: Snapshot, tiles: dict[int, int]) -> str:
    activity = now.activity
    parts = []
    if tiles[FLIGHT]:
        parts.append(f"{count(tiles[FLIGHT])} in work")
    if tiles[FAILED]:
        parts.append(f"{count(tiles[FAILED])} failed")
    if activity.tiles_per_second is not None and now.driver and tiles[FLIGHT]:
        parts.append(f"{rate(60 * activity.tiles_per_second)} a minute")
        if activity.seconds_left is not None:
            parts.append(f"about {_coarse(activity.seconds_left)} left")
    return ", ".join(parts)


def _coarse(seconds: float) -> str:
    """Return a time in whole seconds, so that the page is quiet."""
    return f"{seconds:.0f}\u00a0s" if seconds < 59.5 else duration(seconds)


def _judged(verdict: str, detail: str) -> str:
    """Return the outcome of the label stage with its verdict, and no counts where it has none."""
    if verdict == CANNOT_JUDGE:
        return f"verdict: {verdict}; nothing is flagged and nothing is called clean"
    return f"{detail}; verdict: {verdict}" if detail else f"verdict: {verdict}"


def _stages(now: Snapshot) -> list[dict[str, str]]:
    """Return the stages of a run in order, then others that it went through."""
    activity = now.activity
    at_work = activity.stage if now.driver else None
    names = [*STAGES, *(name for name in activity.stages if name not in (*STAGES, "inputs"))]
    if at_work and at_work not in names:
        names.append(at_work)
    rows = []
    for name in names:
        seconds, detail = activity.stages.get(name, (0.0, ""))
        if name == at_work:
            row = {"mark": "▸", "look": "", "words": "at work"}
        elif name in activity.stages:
            words = f"done in {duration(seconds)}"
            if name == "labels" and now.verdict is not None:
                detail = _judged(now.verdict, detail)
            row = {"mark": "✓", "look": "done", "words": words + (f", {detail}" if detail else "")}
        elif name == activity.stage:
            row = {"mark": "‖", "look": "bad", "words": "stopped"}
        else:
            row = {"mark": "·", "look": "soft", "words": "not yet"}
        rows.append({"name": name, **row})
    return rows


_KEY = re.compile(r"r(\d+)c(\d+)")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A run at one moment.

    Attributes:
        activity: The state of its workers, tiles and stages.
        states: (B, B) of the Gram's tiles; (0, 0) where it was not begun.
        driver: Which process works on it, in words; None where none does.
        report: Changes whenever the report was written; None where there is none.
        verdict: How far to trust what is said about labels; None where the run does not say.
    """

    activity: Activity
    states: States = field(repr=False)
    driver: str | None
    report: str | None
    verdict: str | None = None

    @property
    def tiles(self) -> dict[int, int]:
        """State → how many tiles of the Gram."""
        return counts(self.states)


class Follower:
    """Follows a run; every ``look`` reads only what is new since the last one.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._events = EventReader(run.url)
        self._history = History()
        self._stored: NDArray[np.bool_] = np.zeros((0, 0), bool)
        self._listed: tuple[int, int] | None = None  # starts and ends of the Gram at the listing
        self._judged = 0  # label stages finished when the verdict was read
        self._verdict: str | None = None

    def look(self) -> Snapshot:
        """Read what is new.

        Returns:
            The run as it is now.

        Raises:
            StoreError: If the store cannot be read.
        """
        history = self._history
        for record in self._events.read():
            history.take(record)
            if record["event"] == "TileDone" and history.in_gram:
                self._mark(self._stored, str(record.get("key")), True)
        # a start may have removed tiles, or found a larger matrix
        begun = history.gram_starts, history.finished["gram"]
        if begun != self._listed and self._list():
            self._listed = begun
        if history.finished["labels"] != self._judged:
            self._verdict = read_verdict(self._run)
            self._judged = history.finished["labels"]
        driver = self._driver()
        written = storage.exists(self._run.address("report.html"))
        return Snapshot(
            activity=history.activity(),
            states=self._states(at_work=driver is not None),
            driver=driver,
            report=f"{history.finished['report']}" if written else None,
            verdict=self._verdict,
        )

    def _states(self, *, at_work: bool) -> States:
        """Return the map of the Gram; a driver that was killed has no tile in work."""
        states = np.where(self._stored, np.uint8(DONE), np.uint8(ABSENT))
        for key in self._history.failed:
            self._mark(states, key, FAILED)
        if at_work and self._history.in_gram:
            for key in self._history.in_flight:
                self._mark(states, key, FLIGHT)
        return states

    def _mark(self, tiles: NDArray, key: str, value: int) -> None:
        match = _KEY.fullmatch(key)
        if match is not None and (i := int(match[1])) <= (j := int(match[2])) < len(tiles):
            tiles[i, j] = value

    def _list(self) -> bool:
        """List the tiles that are stored; return False where there is no matrix yet."""
        try:
            array = self._run.array("gram", "ntk")
        except StoreError:
            return False
        blocks = -(-array.shape[0] // array.chunks[0])
        self._stored = np.zeros((blocks, blocks), bool)
        for name in storage.list_objects(self._run.address("gram", "ntk", "c")):
            row, _, column = name.partition("/")
            # any other name is the temporary file of a writer that was killed
            if row.isdecimal() and column.isdecimal():
                i, j = int(row), int(column)
                if i <= j < blocks:
                    self._stored[i, j] = True
        return True

    def _driver(self) -> str | None:
        holder = lease.holder_of(self._run.url)
        if holder is None or holder.lives() is False:
            return None
        who = f"{holder.user}@{holder.host}, process {holder.pid}"
        return f"{who}, since {moment(holder.since)}"
