"""A page that shows a run while another process works on it, served on this machine alone.

It reads the run and writes nothing. Browsers fetch what has changed and redraw it in place; without
scripts the page loads anew. As soon as there is a report it stands below. Every state of a tile has
a pattern as well as a colour, and a legend names them.
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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.analyses import read_verdict
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
        url: Folder or URL of the run; another process may be working on it.
        port: Port on 127.0.0.1; 0 takes a free one. From another machine it is reached through
            ssh -L alone.
        open_browser: Whether to open the page in the browser.
        interval: Seconds between two reads of the run; more than 0.
        on_ready: Called with the address of the page once it is served.
        stop: Event that stops the server when set; Ctrl-C stops it as well.

    Raises:
        InputError: If there is no run, or the interval or the port cannot be used.
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
    except (NtkdistError, OSError) as error:  # shown, not raised: the next read may succeed
        return page.state(None, trouble=" ".join(str(error).split()))


class _Server(ThreadingHTTPServer):
    """Answers from the latest state, so that many readers cost no more than one.

    Attributes:
        state: The latest state of the page.
    """

    daemon_threads = True

    def __init__(self, run: Run, page: Page, port: int) -> None:
        self.run, self.page = run, page
        self.state = page.state(None)
        super().__init__((_HOST, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that the browser closed during an answer; log other errors."""
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
            # DNS rebinding: the name of another site was resolved to 127.0.0.1
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
        """Log no requests: standard error is kept for the messages of the command."""


_MOST_CELLS = 200
_MOST_FAULTS = 8
_LONGEST = 200  # characters of an error


@dataclass(frozen=True)
class State:
    """What the page shows at one moment.

    Attributes:
        version: Number of the state; each state has the next one.
        title: Title of the browser window.
        html: HTML of the part of the page that is redrawn.
        summary: Text for screen readers; it changes seldom.
        report: Version of the report, new whenever one is written; None if there is no report.
    """

    version: int
    title: str
    html: str
    summary: str
    report: str | None


class Page:
    """Makes the page of a run."""

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

        ``now`` is None before the run was read, and where it cannot be, for the reason ``trouble``.
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
            return "Reading the events of the run."
        activity, tiles = now.activity, now.tiles
        total = sum(tiles.values())
        parts = []
        if total:
            parts.append(f"{100 * tiles[DONE] // total // 5 * 5} % of the tiles are stored.")
        if tiles[FAILED]:
            parts.append(f"{count(tiles[FAILED])} tiles failed.")
        if now.driver is None:
            parts.append("No driver is running.")
        elif activity.stage:
            parts.append(f"Running: {activity.stage}.")
        if now.verdict is not None:
            parts.append(f"Verdict on the labels: {now.verdict}.")
        if now.report is not None:
            parts.append("The report is written.")
        return " ".join(parts)

    def _context(self, now: Snapshot | None, trouble: str) -> dict[str, Any]:
        run = self._run
        name = preset_of(run.architecture) or "a network of its own"
        average = "" if run.config.gram.invariance == "none" else ", averaged over flips"
        about = f"{run.config.data.source}, {run.num_classes} classes, {name}{average}"
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
            "driver": f"Driver: {now.driver}" if now.driver else "No driver is running",
            "last_event": None if since is None else _coarse(since),
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
        parts.append(f"{count(tiles[FLIGHT])} in progress")
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
    running = activity.stage if now.driver else None
    names = [*STAGES, *(name for name in activity.stages if name not in (*STAGES, "inputs"))]
    if running and running not in names:
        names.append(running)
    rows = []
    for name in names:
        seconds, detail = activity.stages.get(name, (0.0, ""))
        if name == running:
            row = {"mark": "▸", "look": "", "words": "running"}
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
        return count_tiles(self.states)


class Follower:
    """Follows a run; every ``look`` reads only what is new since the last one."""

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
            states=self._states(running=driver is not None),
            driver=driver,
            report=f"{history.finished['report']}" if written else None,
            verdict=self._verdict,
        )

    def _states(self, *, running: bool) -> States:
        """Return the map of the Gram; a driver that was killed has no tile in progress."""
        states = np.where(self._stored, np.uint8(DONE), np.uint8(ABSENT))
        for key in self._history.failed:
            self._mark(states, key, FAILED)
        if running and self._history.in_gram:
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


ABSENT, FLIGHT, DONE, FAILED = range(4)
"""States of a tile."""

_PART = 4  # of a cell of several tiles, some of which are stored
_SIDE = 400

States: TypeAlias = NDArray[np.uint8]

# in the order of the legend: state, id of its pattern, what it is called
_LOOKS = (
    (DONE, "done", "stored"),
    (_PART, "part", "some stored"),
    (FLIGHT, "flight", "in progress"),
    (FAILED, "failed", "failed"),
    (ABSENT, "absent", "not yet"),
)

_DONE, _FLIGHT = "var(--accent,#1f62ad)", "var(--map-flight,#c26a00)"
_FAILED, _ABSENT = "var(--bad,#b03a27)", "var(--line,#dfe2e6)"
_BACK = "var(--surface,#fff)"


def tile_map(states: States, *, most: int = 200) -> str:
    """Draw the upper triangle of a symmetric matrix."""
    cells = _cells(states, most)
    paths = "".join(
        f'<path fill="url(#map-{name})" d="{path}"/>'
        for state, name, _ in _LOOKS
        if (path := "".join(_runs(cells, state)))
    )
    return (
        f'<svg class="map" viewBox="0 0 {_SIDE} {_SIDE}" role="img" '
        f'aria-label="{describe_tiles(states)}" shape-rendering="crispEdges">'
        f"<defs>{''.join(map(_pattern, (name for _, name, _ in _LOOKS)))}</defs>{paths}</svg>"
    )


def legend(*, parts: bool) -> str:
    """Return what the patterns mean, as an HTML list for the page that has the map."""
    entries = "".join(
        '<li><svg width="18" height="18" viewBox="0 0 18 18" aria-hidden="true">'
        f'<rect width="18" height="18" fill="url(#map-{name})"/></svg> {words}</li>'
        for state, name, words in _LOOKS
        if parts or state != _PART
    )
    return f'<ul class="legend">{entries}</ul>'


def count_tiles(states: States) -> dict[int, int]:
    """Return how many tiles on and above the diagonal are in each state."""
    tiles = np.bincount(states[np.triu_indices(len(states))], minlength=4)
    return {state: int(tiles[state]) for state in (ABSENT, FLIGHT, DONE, FAILED)}


def describe_tiles(states: States) -> str:
    """Return the numbers that the map shows, in one sentence."""
    tiles = count_tiles(states)
    return (
        f"Map of {sum(tiles.values())} tiles: {tiles[DONE]} stored, {tiles[FLIGHT]} in progress, "
        f"{tiles[FAILED]} failed, {tiles[ABSENT]} not yet"
    )


def _cells(states: States, most: int) -> States:
    """Return the states of at most ``most`` cells along an edge; below the diagonal 255."""
    blocks = len(states)
    upper = np.triu(np.ones((blocks, blocks), bool))
    if blocks <= most:
        return np.where(upper, states, np.uint8(255)).astype(np.uint8)
    # tiles of row i go to cell i·most // blocks
    starts = -(-np.arange(most) * blocks // most)

    def total(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        rows = np.add.reduceat((chosen & upper).astype(np.int64), starts, axis=0)
        return np.add.reduceat(rows, starts, axis=1)

    tiles, done = total(upper), total(states == DONE)
    cells = np.full((most, most), ABSENT, np.uint8)
    cells[done > 0] = _PART
    cells[done == tiles] = DONE
    cells[total(states == FLIGHT) > 0] = FLIGHT
    cells[total(states == FAILED) > 0] = FAILED
    cells[tiles == 0] = 255
    return cells


def _runs(cells: States, state: int) -> Iterator[str]:
    """Yield a rectangle for every run of cells of one state in a row."""
    side = _SIDE / len(cells)
    for i, row in enumerate(cells == state):
        edges = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0))
        for start, stop in edges.reshape(-1, 2).tolist():
            width = (stop - start) * side
            yield f"M{start * side:g} {i * side:g}h{width:g}v{side:g}h{-width:g}z"


def _pattern(name: str) -> str:
    """Return a pattern of 8 units a side, drawn from its colour and the page's background."""
    lines = {
        "done": f'<rect width="8" height="8" style="fill:{_DONE}"/>',
        "part": (
            f'<rect width="8" height="8" style="fill:{_BACK}"/>'
            f'<path d="M0 2h8M0 6h8" style="stroke:{_DONE};stroke-width:2"/>'
        ),
        "flight": (
            f'<rect width="8" height="8" style="fill:{_BACK}"/>'
            f'<path d="M-2 2l4-4M0 8l8-8M6 10l4-4" style="stroke:{_FLIGHT};stroke-width:3"/>'
        ),
        "failed": (
            f'<rect width="8" height="8" style="fill:{_BACK}"/>'
            f'<path d="M0 0l8 8M0 8l8-8" style="stroke:{_FAILED};stroke-width:2"/>'
        ),
        "absent": (
            f'<rect width="8" height="8" style="fill:{_BACK}"/>'
            f'<circle cx="4" cy="4" r="1.5" style="fill:{_ABSENT}"/>'
        ),
    }
    return (
        f'<pattern id="map-{name}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f"{lines[name]}</pattern>"
    )
