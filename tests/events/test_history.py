from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ntkdist import storage
from ntkdist.events.history import Timeline, read_timeline
from tests.report.conftest import gram_events


def write(folder: Path, records: list[dict[str, Any]], torn: str = "") -> Timeline:
    folder.mkdir()
    text = "".join(json.dumps(r) + "\n" for r in records) + torn
    (folder / "events.jsonl").write_text(text, encoding="utf-8")
    return read_timeline(str(folder))


def test_starts_and_resumes_are_counted_and_pauses_left_out(tmp_path: Path) -> None:
    timeline = write(tmp_path / "e", gram_events([5, 3, 2], total=10))
    assert (timeline.starts, timeline.resumes) == (3, 2)
    assert (timeline.done, timeline.total, timeline.computed) == (10, 10, 10)
    assert timeline.seconds == pytest.approx(20)
    assert timeline.restarts == pytest.approx((10, 16))
    assert timeline.mean_rate == pytest.approx(1000 / 20)
    assert (timeline.bytes, timeline.edge, timeline.workers) == (4000, 10, 2)
    assert (timeline.executor, timeline.unit) == ("ray", "entries/s")


def test_a_start_that_finds_everything_done_is_no_resume(tmp_path: Path) -> None:
    records = gram_events([10], total=10)
    again = {**records[1], "done": 10, "time": 9000.0}
    timeline = write(tmp_path / "e", [*records, again])
    assert (timeline.starts, timeline.resumes, timeline.done) == (1, 0, 10)


def test_killed_stages_count_with_the_time_until_their_last_word(tmp_path: Path) -> None:
    timeline = write(tmp_path / "e", gram_events([5, 3, 2], total=10))
    stage = timeline.stages["gram"]
    assert (stage.starts, stage.done) == (3, True)
    assert stage.seconds == pytest.approx(20)


def test_a_stage_that_did_not_end_is_not_done(tmp_path: Path) -> None:
    stage = write(tmp_path / "e", gram_events([5], total=10)).stages["gram"]
    assert not stage.done
    assert stage.seconds == pytest.approx(10)


def test_troubles_are_counted(tmp_path: Path) -> None:
    records = [
        *gram_events([2], total=10),
        {"event": "TileFailed", "key": "r0003c0000", "final": False, "time": 1.0},
        {"event": "TileFailed", "key": "r0003c0000", "final": True, "time": 1.0},
        {"event": "WorkerLost", "worker": "w0", "reason": "killed", "time": 2.0},
        {"event": "Interrupted", "signal": "SIGINT", "time": 3.0},
    ]
    timeline = write(tmp_path / "e", records)
    assert (timeline.failures, timeline.given_up) == (2, 1)
    assert (timeline.worker_losses, timeline.interruptions) == (1, 1)


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "TileDone", "key": "r00',
        "[1, 2]",
        "null",
        "",
        '{"event": "TileDone"}',
        '{"event": "NeverHeardOf", "time": 1.0, "stage": 3}',
        '{"event": "WorkerIdle", "time": "yesterday"}',
        '{"time": 5.0}',
        '{"event": "StageDone", "stage": null, "time": 5.0}',
        '{"event": "TileFailed", "time": 1' + "0" * 400 + "}",
        '{"event": ["x"], "time": 5.0}',
        '{"event": "StageDone", "stage": null, "seconds": "long", "time": NaN}',
    ],
)
def test_lines_that_say_nothing_change_nothing(tmp_path: Path, line: str) -> None:
    records = gram_events([4], total=4)
    plain = write(tmp_path / "a", records)
    marred = write(tmp_path / "b", records, torn=line)
    assert (marred.done, marred.seconds, marred.entries) == (4, plain.seconds, plain.entries)


def test_missing_fields_and_no_start_still_count_tiles(tmp_path: Path) -> None:
    records = [{"event": "TileDone", "key": f"k{i}", "time": 10.0 + i} for i in range(3)]
    timeline = write(tmp_path / "e", records)
    assert (timeline.done, timeline.unit, timeline.starts) == (3, "tiles/s", 0)
    assert timeline.mean_rate == pytest.approx(3 / 2)
    _, rates = timeline.binned_rates()
    assert np.isfinite(rates).all()


def test_no_file_is_an_empty_timeline(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    for url in (str(tmp_path / "none"), str(tmp_path), "memory://report-none", "nosuch://x/y"):
        timeline = read_timeline(url)
        assert (timeline.total, timeline.computed, timeline.mean_rate) == (0, 0, None)


def test_the_parts_of_a_remote_run_are_joined(tmp_path: Path) -> None:
    records = gram_events([5, 5], total=10)
    for part, lines in enumerate((records[:7], records[7:])):
        text = "".join(json.dumps(record) + "\n" for record in lines)
        storage.write_text(f"memory://report-parts/r/events/{part:06d}.jsonl", text)
    remote, local = read_timeline("memory://report-parts/r"), write(tmp_path / "e", records)
    assert (remote.done, remote.resumes, remote.stages) == (10, 1, local.stages)
    np.testing.assert_array_equal(remote.spans, local.spans)


def test_a_stage_that_tells_only_its_end_was_started_too(tmp_path: Path) -> None:
    done = {"event": "StageDone", "stage": "inputs", "seconds": 0.5, "detail": "60×8×8×1"}
    records = [{**done, "time": 1.0}, {**done, "time": 2.0}]
    stage = write(tmp_path / "e", records).stages["inputs"]
    assert (stage.starts, stage.done, stage.seconds) == (2, True, 1.0)
    assert stage.detail == "60×8×8×1"


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.floats(0, 1e4), st.floats(0, 50), st.integers(1, 10**6)),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 90),
)
def test_binning_loses_no_entries(tiles: list[tuple[float, float, int]], bins: int) -> None:
    spans = np.array([(begin, begin + took, entries) for begin, took, entries in tiles])
    timeline = Timeline(seconds=float(spans[:, 1].max()), spans=spans)
    edges, rates = timeline.binned_rates(bins)
    assert (np.diff(edges) > 0).all()
    assert np.sum(rates * np.diff(edges)) == pytest.approx(spans[:, 2].sum(), rel=1e-3)


def test_tiles_of_another_matrix_are_work_and_nothing_else(tmp_path: Path) -> None:
    records = gram_events([4], total=4)
    plain = write(tmp_path / "a", records)
    cross = [{**r, "stage": "cross"} if "stage" in r else r for r in gram_events([3], total=9)]
    cross = [{**r, "time": r["time"] + 5000.0} for r in cross]
    both = write(tmp_path / "b", [*records, *cross])
    assert (both.total, both.done, both.starts, both.bytes) == (4, 4, 1, plain.bytes)
    np.testing.assert_array_equal(both.spans, plain.spans)
    assert both.work == {"core": pytest.approx(14.0)}


def test_work_counts_threads_of_cores_and_whole_gpus(tmp_path: Path) -> None:
    records = gram_events([2], total=4)
    records[1:1] = [{"event": "WorkerStarted", "worker": "w0", "threads": 8, "time": 1000.0}]
    gpu = {**records[-1], "worker": "w1", "backend": "cuda-1", "key": "r0009c0000"}
    timeline = write(tmp_path / "e", [*records, gpu])
    assert timeline.work == {"core": pytest.approx(2 * 2 * 8), "gpu": pytest.approx(2)}


def test_work_is_computing_and_not_the_writing_beside_it(tmp_path: Path) -> None:
    tile = {"event": "TileDone", "worker": "w", "backend": "cuda-1", "seconds": 5.0}
    told = {"computing": 4.0}
    records = [{**tile, **told, "key": "a", "time": 10.0}, {**tile, "key": "b", "time": 20.0}]
    timeline = write(tmp_path / "e", records)
    assert timeline.work == {"gpu": pytest.approx(4.0 + 5.0)}  # all of it where it is not told


def test_workers_come_and_go(tmp_path: Path) -> None:
    records = gram_events([5], total=5)  # 10 s
    at = records[1]["time"]
    events = [
        {"event": "WorkerStarted", "worker": "w0", "time": at},
        {"event": "WorkerStarted", "worker": "w1", "time": at + 2},
        {"event": "WorkerLost", "worker": "w1", "time": at + 6},
        {"event": "TileFailed", "key": "r0001c0000", "time": at + 7},
    ]
    ordered = sorted([*records, *events], key=lambda r: r["time"])
    timeline = write(tmp_path / "e", ordered)
    steps = timeline.worker_counts()
    assert steps is not None
    times, counts = steps
    assert times == pytest.approx([0, 2, 6, 10])
    assert counts.tolist() == [1, 2, 1, 0]
    assert [what for _, what in timeline.marks] == ["lost", "failed"]
    assert [when for when, _ in timeline.marks] == pytest.approx([6, 7])


def test_without_workers_no_number_is_made_up() -> None:
    assert Timeline().worker_counts() is None
