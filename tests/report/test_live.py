"""The live page: served here alone, following a run that another process works on."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from ntkdist import storage
from ntkdist.errors import InputError
from ntkdist.events.log import EventLog, EventReader
from ntkdist.events.types import (
    GramStarted,
    RunStarted,
    StageDone,
    StageStarted,
    TileDone,
    TileFailed,
    TileStarted,
    WorkerLost,
    WorkerStarted,
)
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.report import live
from ntkdist.report.live import ABSENT, DONE, FAILED, FLIGHT, Follower, Page, watch
from ntkdist.runs.run import Run
from ntkdist.storage.lease import Holder, Lease
from tests.report.conftest import MakeRun, add_labels, add_reliability
from tests.s3 import S3Server
from tests.storage.conftest import s3, shared_server

__all__ = ["s3", "shared_server"]  # fixtures

EDGE = 20  # of 60 images: six tiles


class Driver:
    """Works on a run as a driver does: lease, events, tiles."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.lease = Lease(run.url)
        self.lease.acquire()
        self.log = EventLog(run.url, part_seconds=0)
        address = run.address("gram", "ntk")
        if GramStore.exists(address):
            self.store = GramStore.open(address, "r+")
        else:
            self.store = GramStore.create(
                address, Tiling(60, EDGE), fingerprint=run.fingerprint, kind="ntk"
            )
        self.tell(RunStarted(run.url), StageStarted("gram"))
        self.tell(GramStarted(6, len(self.store.done()), EDGE, 1, "cpu", "ray"))
        self.tell(WorkerStarted("w0", 1, "node-1"))

    def tell(self, *events: Any) -> None:
        for event in events:
            self.log(event)

    def begin(self, i: int, j: int) -> None:
        self.tell(TileStarted(str(TileKey(i, j)), "w0", 1))

    def finish(self, i: int, j: int) -> None:
        self.store.write(TileKey(i, j), np.ones((EDGE, EDGE), np.float32))
        self.tell(TileDone(str(TileKey(i, j)), "w0", 1.0, 1600, 1, 400))

    def end(self) -> None:
        self.log.close()
        self.lease.release()


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    return make_run()


@pytest.fixture
def driver(run: Run) -> Iterator[Driver]:
    made = Driver(run)
    yield made
    made.end()


class Browser:
    """Asks a served page."""

    def __init__(self, address: str) -> None:
        self.place = urlsplit(address)

    def ask(
        self, path: str = "/", host: str | None = None, method: str = "GET"
    ) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection(self.place.hostname or "", self.place.port)
        connection.request(method, path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        found = answer.status, dict(answer.headers), answer.read().decode()
        connection.close()
        return found

    def state(self) -> dict[str, Any]:
        return json.loads(self.ask("/state")[2])

    def until(self, words: str) -> dict[str, Any]:
        give_up = time.monotonic() + 20
        while words not in (state := self.state())["html"]:
            assert time.monotonic() < give_up, state["html"]
            time.sleep(0.02)
        return state


@pytest.fixture
def served() -> Iterator[Callable[..., Browser]]:
    stop, threads = threading.Event(), []

    def serve(run: Run) -> Browser:
        ready: list[str] = []
        there = threading.Event()

        def on_ready(address: str) -> None:
            ready.append(address)
            there.set()

        thread = threading.Thread(
            target=watch,
            args=(run.url,),
            kwargs={"interval": 0.05, "stop": stop, "on_ready": on_ready},
        )
        thread.start()
        threads.append(thread)
        assert there.wait(20)
        return Browser(ready[0])

    yield serve
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_tiles_are_followed_from_work_to_store(run: Run, driver: Driver) -> None:
    follower = Follower(run)
    driver.begin(0, 0)
    driver.begin(0, 1)
    assert follower.look().tiles == {ABSENT: 4, FLIGHT: 2, DONE: 0, FAILED: 0}
    driver.finish(0, 0)
    driver.tell(TileFailed("r0000c0001", "w0", 1, "boom", "", final=False))
    now = follower.look()
    assert now.tiles == {ABSENT: 5, FLIGHT: 0, DONE: 1, FAILED: 0}
    assert now.activity.alive == {"node-1": 1}
    driver.begin(0, 1)
    driver.begin(1, 1)
    driver.tell(TileFailed("r0000c0001", "w0", 3, "boom", "", final=True))
    driver.tell(WorkerLost("w0", "died", ("r0001c0001",)))
    now = follower.look()
    assert now.tiles == {ABSENT: 4, FLIGHT: 0, DONE: 1, FAILED: 1}
    assert now.states[0, 1] == FAILED
    assert now.driver is not None


def test_tiles_of_other_matrices_do_not_stand_in_the_map(run: Run, driver: Driver) -> None:
    follower = Follower(run)
    driver.tell(StageDone("gram", 1.0), StageStarted("cross"))
    driver.tell(GramStarted(2, 0, EDGE, 1, "cpu", "ray"), TileDone("r0000c0002", "w0", 1, 1, 1))
    assert follower.look().tiles[DONE] == 0


@pytest.mark.parametrize("verdict", ["reliable", "weak", "cannot judge", None])
def test_the_verdict_on_the_labels_is_told_once_they_are_done(
    run: Run, driver: Driver, verdict: str | None
) -> None:
    follower, page = Follower(run), Page(run, 1.0)
    driver.tell(StageDone("gram", 1.0), StageStarted("labels"))
    assert follower.look().verdict is None
    add_labels(run)
    if verdict is not None:
        add_reliability(run, verdict)
    driver.tell(StageDone("labels", 2.0, "0 changed labels, 0 suspicious labels"))
    now = follower.look()
    assert now.verdict == verdict
    state = page.state(now)
    if verdict is None:
        assert "verdict" not in state.html.lower()
        assert "Verdict" not in state.summary
        return
    assert f"verdict: {verdict}" in state.html
    assert f"Verdict on the labels: {verdict}." in state.summary
    assert ("suspicious labels" in state.html) == (verdict != "cannot judge")
    assert ("nothing is called clean" in state.html) == (verdict == "cannot judge")


def test_the_verdict_is_read_again_when_the_labels_are_made_again(run: Run, driver: Driver) -> None:
    add_labels(run)
    add_reliability(run, "weak")
    driver.tell(StageDone("gram", 1.0), StageDone("labels", 1.0))
    follower = Follower(run)
    assert follower.look().verdict == "weak"
    add_reliability(run, "reliable")
    assert follower.look().verdict == "weak"
    driver.tell(StageDone("labels", 1.0))
    assert follower.look().verdict == "reliable"


def test_a_new_start_takes_what_is_stored_from_the_store(run: Run, driver: Driver) -> None:
    for tile in ((0, 0), (0, 1), (1, 1)):
        driver.finish(*tile)
    follower = Follower(run)
    driver.begin(0, 2)
    assert follower.look().tiles[DONE] == 3
    driver.end()
    driver.store.remove(TileKey(1, 1))
    Driver(run).end()
    assert follower.look().tiles == {ABSENT: 4, FLIGHT: 0, DONE: 2, FAILED: 0}


def test_a_killed_driver_has_no_tiles_in_work(
    run: Run, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.begin(0, 0)
    follower = Follower(run)
    assert follower.look().tiles[FLIGHT] == 1
    monkeypatch.setattr(Holder, "lives", lambda self: False)
    now = follower.look()
    assert now.driver is None
    assert now.tiles[FLIGHT] == 0


def test_only_what_is_new_is_read_and_torn_lines_wait(tmp_path: Path) -> None:
    events, file = EventReader(str(tmp_path)), tmp_path / "events.jsonl"
    assert list(events.read()) == []
    file.write_text('{"time": 1, "event": "A"}\nnonsense\n[1]\n{"time": 2, "ev')
    assert [one["event"] for one in events.read()] == ["A"]
    with file.open("a") as more:
        more.write('ent": "é"}\n{"time": 3, "event": "C"}\n')
    assert [one["event"] for one in events.read()] == ["é", "C"]
    file.write_bytes(b"x" * file.stat().st_size)  # what was read is not read again
    assert list(events.read()) == []


@pytest.mark.slow
def test_a_run_in_an_object_store_is_followed(s3: S3Server, run: Run) -> None:
    there = Run.create(replace(run.config, run=s3.url("bucket/live")))
    driver, follower = Driver(there), Follower(there)
    driver.begin(0, 0)
    driver.finish(0, 0)
    assert follower.look().tiles[DONE] == 1
    driver.begin(0, 1)
    now = follower.look()
    assert (now.tiles[DONE], now.tiles[FLIGHT], now.report) == (1, 1, None)
    driver.end()
    storage.write_text(there.address("report.html"), "<p>found</p>")
    assert follower.look().report is not None


def test_the_page_fills_up_and_ends_with_the_report(
    run: Run, driver: Driver, served: Callable[..., Browser]
) -> None:
    browser = served(run)
    driver.finish(0, 0)
    driver.begin(0, 1)
    state = browser.until("Map of 6 tiles: 1 stored, 1 in progress")
    assert state["report"] is None
    assert "1 of 6</strong>" in state["html"]
    assert state["title"].startswith("16.7")
    assert state["summary"] == "15 % of the tiles are stored. Running: gram."
    assert browser.ask("/report.html")[0] == 404
    driver.tell(StageDone("gram", 1.0, "all"), StageStarted("report"))
    Path(run.address("report.html")).write_text("<h1>found</h1>")
    driver.tell(StageDone("report", 1.0))
    driver.end()
    state = browser.until("No driver is running")
    assert state["report"] is not None
    assert state["summary"].endswith("No driver is running. The report is written.")
    assert browser.ask("/report.html")[2] == "<h1>found</h1>"
    assert '<iframe src="/report.html"' in browser.ask()[2]


def test_faults_are_named_and_escaped(
    run: Run, driver: Driver, served: Callable[..., Browser]
) -> None:
    driver.tell(TileFailed("r0000c0001", "w0", 3, "<img src=x>" + "y" * 900, "", final=True))
    html = served(run).until("given up")["html"]
    assert "<img" not in html
    assert "&lt;img src=x&gt;" in html
    assert "y" * 300 not in html
    assert "1 failed" in html


def test_the_page_works_without_scripts_and_its_script_under_its_nonce_alone(
    run: Run, driver: Driver, served: Callable[..., Browser]
) -> None:
    browser = served(run)
    status, headers, page = browser.ask()
    assert status == 200
    assert re.search(r'<noscript><meta http-equiv="refresh" content="\d+"></noscript>', page)
    nonce = re.search(r'<script nonce="([^"]+)">', page)
    assert nonce is not None
    assert f"script-src 'nonce-{nonce[1]}'" in headers["Content-Security-Policy"]
    assert nonce[1] not in browser.ask()[2]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert 'aria-live="polite"' in page
    assert 'name="viewport"' in page


@pytest.mark.slow(but="/report.html-127.0.0.1.evil.example")
@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
@pytest.mark.parametrize("path", ["/", "/state", "/report.html"])
def test_other_hosts_are_refused(
    run: Run, served: Callable[..., Browser], host: str, path: str
) -> None:
    status, _, text = served(run).ask(path, host=host)
    assert (status, text) == (403, "for this machine only\n")


def test_what_it_answers(run: Run, served: Callable[..., Browser]) -> None:
    browser = served(run)
    assert browser.place.hostname == "127.0.0.1"
    assert browser.ask("/", host="localhost:8888")[0] == 200  # through ssh -L
    assert browser.ask("/events.jsonl")[0] == 404
    assert browser.ask("/../zarr.json")[0] == 404
    assert browser.ask("/", method="POST")[0] == 501
    status, headers, text = browser.ask("/", method="HEAD")
    assert (status, text) == (200, "")
    assert int(headers["Content-Length"]) > 1000


def test_a_browser_that_goes_away_is_passed_over(
    run: Run,
    served: Callable[..., Browser],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    browser = served(run)

    def gone(self: live._Handler) -> None:
        raise gone.error  # type: ignore[attr-defined]

    monkeypatch.setattr(live._Handler, "_page", gone)
    for error in (BrokenPipeError(), ConnectionResetError(), ValueError("a fault of ours")):
        gone.error = error  # type: ignore[attr-defined]
        with pytest.raises(http.client.RemoteDisconnected):
            browser.ask()
    assert [str(one.exc_info[1]) for one in caplog.records if one.exc_info] == ["a fault of ours"]
    assert capfd.readouterr().err == ""


def test_a_state_that_is_known_is_not_sent_again(run: Run, tmp_path: Path) -> None:
    stop = threading.Event()

    def look(address: str) -> None:
        browser = Browser(address)
        state = browser.state()
        answers.append(browser.ask(f"/state?since={state['version']}")[0])
        answers.append(browser.ask(f"/state?since={state['version'] - 1}")[0])
        stop.set()

    answers: list[int] = []
    watch(run.url, on_ready=look, stop=stop)
    assert answers == [204, 200]


def test_a_store_that_is_away_is_said_and_waited_for(
    run: Run, driver: Driver, served: Callable[..., Browser], monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = served(run)
    browser.until("0 of 6</strong>")
    look = Follower.look
    with monkeypatch.context() as broken:

        def away(self: Follower) -> Any:
            raise OSError("the <server> is away")

        broken.setattr(Follower, "look", away)
        assert "the &lt;server&gt; is away" in browser.until("cannot be read")["html"]
    assert Follower.look is look
    browser.until("0 of 6</strong>")


def test_a_run_that_is_not_begun_has_a_page(run: Run, served: Callable[..., Browser]) -> None:
    assert "No driver is running" in served(run).until("has not been started")["html"]


def test_no_run_a_taken_port_and_a_bad_interval(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run here"):
        watch(str(tmp_path / "none"))
    with pytest.raises(InputError, match="interval=0 s must be more than 0"):
        watch(run.url, interval=0)
    with pytest.raises(InputError, match="must be from 0 to 65535"):
        watch(run.url, port=70_000)
    stop = threading.Event()

    def again(address: str) -> None:
        port = urlsplit(address).port or 0
        with pytest.raises(InputError, match=rf"port {port} of 127\.0\.0\.1 cannot be served"):
            watch(run.url, port=port)
        stop.set()

    watch(run.url, on_ready=again, stop=stop)
    assert stop.is_set()


def test_the_browser_is_opened_at_the_page(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    ready: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    stop = threading.Event()
    stop.set()
    watch(run.url, open_browser=True, on_ready=ready.append, stop=stop)
    assert opened == ready != []
