from __future__ import annotations

import io

import pytest

from ntkdist.events.progress import GramProgress
from ntkdist.events.types import GramStarted, StageDone, TileDone, TileFailed, WorkerStarted


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("every", "lines"), [(30.0, 4), (1e9, 2)])
def test_lines_come_first_last_and_at_most_every_half_minute(every: float, lines: int) -> None:
    stream, now = io.StringIO(), [0.0]
    with GramProgress(stream, every=every, clock=lambda: now[0]) as progress:
        progress(GramStarted(80, 10, 100, 2, "cpu", "ray"))
        progress(WorkerStarted("w0"))
        for _ in range(70):
            now[0] += 1.0
            progress(TileDone("r0000c0000", "w0", 1.0, 40_000, 1, 10_000))
    written = stream.getvalue().splitlines()
    assert len(written) == lines
    assert "10 of 80 tiles are stored" in written[0]
    assert written[-1].startswith("gram: 80 of 80 tiles (100 %), 1 tiles/s, 10 k entries/s")
    if lines == 4:
        assert "40 of 80 tiles (50 %)" in written[1]
        assert "40 s left, 1 worker" in written[1]


def test_threads_of_a_worker_are_said() -> None:
    stream = io.StringIO()
    with GramProgress(stream) as progress:
        progress(GramStarted(1, 0, 100, 1, "cpu", "inline"))
        progress(WorkerStarted("w0", threads=2))
        progress(TileDone("r0000c0000", "w0", 1.0, 40_000, 1, 10_000))
    assert "1 worker of 2 threads" in stream.getvalue()


def test_failures_are_said_at_once() -> None:
    stream = io.StringIO()
    with GramProgress(stream) as progress:
        progress(GramStarted(3, 0, 100, 1, "cpu", "inline"))
        progress(TileFailed("r0000c0001", "w0", 1, "E: passing", "", False))
        progress(TileFailed("r0000c0001", "w0", 3, "E: broken", "", True))
    assert "tile r0000c0001 failed for good: E: broken" in stream.getvalue()
    assert "passing" not in stream.getvalue()
    assert "1 failed" in stream.getvalue().splitlines()[-1]


def test_terminal_gets_a_bar() -> None:
    stream = Terminal()
    with GramProgress(stream) as progress:
        progress(GramStarted(2, 0, 100, 1, "cpu", "inline"))
        progress(TileDone("r0000c0000", "w0", 1.0, 40_000, 1, 10_000))
        progress(TileDone("r0000c0001", "w0", 1.0, 40_000, 1, 10_000))
    assert "2/2" in stream.getvalue()
    assert "tiles/s" in stream.getvalue()


def test_other_stages_are_ignored() -> None:
    stream = io.StringIO()
    with GramProgress(stream) as progress:
        progress(StageDone("factor", 1.0))
    assert stream.getvalue() == ""
