"""What ``ntkdist status`` says of a run, from its store and its events alone."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from ntkdist import storage
from ntkdist.analyses import status
from ntkdist.analyses.status import describe_driver, next_after_report, read_status
from ntkdist.config import DataConfig, GramConfig, RunConfig
from ntkdist.events.history import WINDOW, Activity, History
from ntkdist.events.log import to_record
from ntkdist.events.types import (
    GramStarted,
    StageDone,
    StageStarted,
    TileDone,
    TileFailed,
    TileStarted,
    WorkerLost,
    WorkerStarted,
)
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import Tiling
from ntkdist.runs.run import Run
from ntkdist.storage.lease import Holder, Lease
from tests.status_text import describe

START = 1_000_000.0


def begun(total: int = 10, *, done: int = 0, time: float = START) -> GramStarted:
    return GramStarted(total, done, 16, 2, "cpu", "ray", time=time)


def tile(key: str, time: float, *, worker: str = "w000", entries: int = 256) -> TileDone:
    return TileDone(key, worker, 1.0, 4 * entries, 1, entries, "cpu", time=time)


def failed(key: str, time: float, *, final: bool, error: str = "OSError: gone") -> TileFailed:
    return TileFailed(key, "w000", 1, error, "", final, time=time)


def fold(records: list[dict[str, Any]]) -> Activity:
    history = History()
    for record in records:
        history.take(record)
    return history.activity()


def activity(*events: Any) -> Any:
    return fold([to_record(event) for event in events])


def two_workers(time: float = START) -> list[WorkerStarted]:
    return [
        WorkerStarted("w000", 11, "alpha", time=time),
        WorkerStarted("w001", 12, "beta", time=time),
    ]


def test_rate_is_of_computing_and_leads_to_the_time_left() -> None:
    # 30 s to start, then a tile every 2 s
    tiles = [tile(f"r0000c{i:04d}", START + 30 + 2 * i) for i in range(1, 5)]
    found = activity(begun(), *two_workers(START + 30), *tiles)
    assert found.tiles_per_second == pytest.approx(0.5)
    assert found.entries_per_second == pytest.approx(128)
    assert found.seconds_left == pytest.approx(6 / 0.5)


def test_rate_forgets_what_was_long_ago() -> None:
    slow = [tile(f"r0000c{i:04d}", START + 100 * i) for i in range(1, 20)]
    after = START + 1900
    quick = [tile(f"r0001c{i:04d}", after + i) for i in range(1, int(WINDOW) + 50)]
    found = activity(begun(1000), *two_workers(), *slow, *quick)
    assert found.tiles_per_second == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("jump", [-7200.0, 7200.0])
def test_a_clock_that_is_set_does_not_make_rates_absurd(jump: float) -> None:
    before = [tile(f"r0000c{i:04d}", START + i) for i in range(1, 11)]
    after = [tile(f"r0001c{i:04d}", START + jump + 10 + i) for i in range(1, 400)]
    found = activity(begun(1000), *two_workers(), *before, *after)
    assert found.tiles_per_second == pytest.approx(1.0, rel=0.05)
    assert 0 < found.seconds_left < 1000


def test_another_machines_clock_that_is_behind_says_no_negative_time() -> None:
    found = activity(begun(), tile("r0000c0000", START + 5))
    assert found.since_last_event(START - 3600) == 0.0
    assert found.since_last_event(START + 65) == pytest.approx(60)


def test_nothing_left_gives_no_time_left() -> None:
    found = activity(begun(2), *two_workers(), tile("a", START + 1), tile("b", START + 2))
    assert found.seconds_left is None
    assert found.done == 2


def test_a_tile_without_a_step_of_the_clock_gives_no_rate() -> None:
    found = activity(begun(), *two_workers(), tile("a", START))
    assert found.tiles_per_second is None
    assert found.seconds_left is None


def test_workers_alive_lost_and_seen_with_their_hosts() -> None:
    found = activity(
        begun(),
        *two_workers(),
        WorkerLost("w001", "node died", ("r0000c0001",), time=START + 1),
        WorkerStarted("w001", 99, "alpha", time=START + 9),
    )
    assert (found.alive, found.lost) == ({"alpha": 2}, 1)
    assert found.seen == {"alpha": 2, "beta": 1}


def test_a_new_driver_begins_with_no_worker_and_no_tile_in_flight() -> None:
    found = activity(
        begun(), *two_workers(), TileStarted("a", "w000", 1, time=START), begun(time=START + 50)
    )
    assert (found.alive, found.in_flight, found.lost) == ({}, (), 0)


def test_in_flight_is_what_was_handed_out_and_did_not_come_back() -> None:
    started = [TileStarted(key, "w000", 1, time=START) for key in "abcd"]
    found = activity(
        begun(),
        *started,
        tile("a", START + 1),
        failed("b", START + 1, final=False),
        WorkerLost("w000", "died", ("c",), time=START + 2),
    )
    assert found.in_flight == ("d",)


def test_given_up_until_it_is_computed_after_all() -> None:
    tries = [
        failed("a", START + 1, final=False, error="first"),
        failed("a", START + 2, final=True, error="OSError: disk\nfull"),
    ]
    found = activity(begun(), *tries)
    assert [(t.key, t.times, t.error) for t in found.given_up] == [("a", 2, "OSError: disk full")]
    later = activity(begun(), *tries, begun(time=START + 9), tile("a", START + 10))
    assert later.given_up == ()
    assert [t.key for t in later.retried] == ["a"]


def test_unknown_and_damaged_events_are_passed_over() -> None:
    records = [
        {"event": "FromTheFuture", "time": START},
        {"event": "TileDone", "key": "a"},
        {"event": "GramStarted", "time": "nan", "total": "many"},
    ]
    assert fold(records).total == 0


# -- the whole of it --------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = RunConfig(
        run=str(tmp_path / "run"),
        architecture="fc-1",
        data=DataConfig(n=20),
        gram=GramConfig(tile=10, executor="inline"),
    )
    made = Run.create(config)
    store = GramStore.create(
        made.address("gram", "ntk"),
        Tiling(20, 10),
        fingerprint=made.fingerprint,
        kind="ntk",
        attributes={"arithmetic": made.manifest.arithmetic},
    )
    store.write(store.tiling.keys()[0], np.eye(10, dtype="f4"))
    return made


def tell(run: Run, *events: Any) -> None:
    with open(Path(run.url) / "events.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps(to_record(event)) + "\n" for event in events)


def test_no_worker_of_a_killed_driver_is_said_to_be_alive(run: Run) -> None:
    begun_tile = TileStarted("r0000c0001", "w001", 1, time=START)
    tell(run, StageStarted("gram", time=START), begun(3), *two_workers(), begun_tile)
    for pid, alive in ((os.getpid(), True), (2**22 + 1, False)):
        holder = dataclasses.replace(Holder.of_this_process(10.0), pid=pid)
        storage.write_text(f"{run.url}/lease.json", json.dumps(dataclasses.asdict(holder)))
        text = describe(run.url, now=START + 64)
        assert ("2 alive" in text, "in flight" in text) == (alive, alive)
        assert "2 seen" in text


def test_lines_of_a_run_at_work(run: Run) -> None:
    tell(
        run,
        StageDone("inputs", 0.5, time=START),
        StageStarted("gram", time=START),
        begun(3),
        *two_workers(),
        TileStarted("r0000c0001", "w001", 1, time=START),
        failed("r0001c0001", START + 1, final=True, error="StoreError: NaN"),
        tile("r0000c0000", START + 4),
    )
    text = describe(run.url, now=START + 64)
    assert "gram      ntk: 1 of 3 tiles of edge 10" in text
    assert "rate      15 tiles/min, 64 entries/s" in text
    assert "about 4 s of work left" in text
    assert "workers   2 alive (1 on alpha, 1 on beta), 2 seen" in text
    assert "in flight 1 tile: r0000c0001" in text
    assert "given up  1 tile; last errors:\n  r0001c0001 (1×): StoreError: NaN" in text
    assert "last      event 1 min 00 s ago, in stage gram" in text
    assert text.endswith(f"next      ntkdist run {run.url}")
    assert "would have written more" not in text
    assert "would have written more" in describe(run.url, now=START + 3600)


def test_a_run_without_events_says_what_is_stored(run: Run) -> None:
    text = describe(run.url)
    assert "1 of 3 tiles" in text
    assert "\nworkers " not in text
    assert "\nlast " not in text


def test_other_results_are_named(run: Run) -> None:
    assert "\nresults " not in describe(run.url)
    run.write_attributes("predict", {"accuracy": 0.9})
    run.write_attributes("label_aware", {"classes": [0, 1]})
    assert "results   predict, label-aware" in describe(run.url)


def test_events_and_tiles_are_listed_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    real = GramStore.done
    monkeypatch.setattr(GramStore, "done", lambda self: listed.append("tiles") or real(self))
    fold_all = status.read_history
    monkeypatch.setattr(
        status, "read_history", lambda url: listed.append("events") or fold_all(url)
    )
    describe(run.url)
    assert sorted(listed) == ["events", "tiles"]


def test_what_the_gram_took_is_not_hidden_by_a_look_at_it() -> None:
    found = activity(
        StageStarted("gram", time=START),
        begun(1),
        tile("a", START + 40),
        StageDone("gram", 42.0, "1 tile computed", time=START + 42),
        StageStarted("gram", time=START + 50),  # predict begins so
        begun(1, done=1, time=START + 50),
        StageDone("gram", 0.1, "nothing to compute", time=START + 50),
        StageStarted("cross", time=START + 51),
        begun(1, time=START + 51),
        tile("b", START + 52),
        StageDone("cross", 2.0, "1 tile computed", time=START + 53),
    )
    assert found.stages["gram"] == (42.0, "1 tile computed")
    assert found.stages["cross"][0] == 2.0


def test_while_a_driver_works_nothing_is_advised_that_it_refuses(run: Run) -> None:
    with Lease(run.url):
        assert read_status(run.url).next == f"ntkdist report {run.url} --watch"
    assert read_status(run.url).next == f"ntkdist run {run.url}"
    elsewhere = dataclasses.replace(Holder.of_this_process(10.0), machine="another")
    storage.write_text(f"{run.url}/lease.json", json.dumps(dataclasses.asdict(elsewhere)))
    assert read_status(run.url).next == f"ntkdist run {run.url}"  # nothing was ever heard of it
    tell(run, StageStarted("gram", time=START))
    assert read_status(run.url, now=START + 60).next.endswith("--watch")
    assert read_status(run.url, now=START + 6000).next == f"ntkdist run {run.url}"


def test_next_leads_on_and_not_in_a_circle(run: Run) -> None:
    for name in ("report", "predict", "dynamics"):
        assert status._next(run, True, None) == f"ntkdist {name} {run.url}"
        if name == "report":
            storage.write_text(run.address("report.html"), "<html>")
        else:
            assert next_after_report(run) == f"ntkdist {name} {run.url}"
            run.write_attributes(name, {"found": 1})
    assert next_after_report(run) is None


def test_no_driver_is_said_to_hold_a_run_that_none_holds(run: Run) -> None:
    assert describe_driver(run) is None
    assert "\ndriver " not in describe(run.url)


def test_who_holds_a_run_is_said(tmp_path: Path) -> None:
    run = Run(str(tmp_path), cast(Any, None), cast(Any, None))
    assert describe_driver(run) is None
    with Lease(str(tmp_path)):
        assert f"process {os.getpid()}, since" in (describe_driver(run) or "")
    dead = dataclasses.replace(Holder.of_this_process(10.0), pid=2**22 + 1)
    elsewhere = dataclasses.replace(dead, machine="another", beat=7)
    for holder, said in ((dead, "was killed"), (elsewhere, "renewed 7 times, every 10 s")):
        storage.write_text(f"{tmp_path}/lease.json", json.dumps(dataclasses.asdict(holder)))
        assert said in (describe_driver(run) or "")
