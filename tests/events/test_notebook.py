"""Progress in a notebook: one output that changes, however many tiles there are."""

from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ntkdist.events.progress import GramProgress, in_notebook
from ntkdist.events.types import GramStarted, StageDone, TileDone, TileFailed, WorkerStarted


class Cell:
    """What IPython's display shows: a list of outputs, and how often each was drawn."""

    def __init__(self, kernel: object) -> None:
        self.outputs: list[dict[str, str]] = []
        self.drawn = 0
        self.kernel = kernel

    def get_ipython(self) -> Any:
        return SimpleNamespace(kernel=self.kernel)

    def display(self, shown: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        place = len(self.outputs)
        self.outputs.append(shown)
        self.drawn += 1

        def update(shown: dict[str, str], *, raw: bool) -> None:
            assert raw
            self.outputs[place] = shown
            self.drawn += 1

        return SimpleNamespace(update=update)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Cell:
    cell = Cell(kernel=getattr(request, "param", object()))
    package, display = ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython = cell.get_ipython  # type: ignore[attr-defined]
    display.display = cell.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return cell


def compute(progress: GramProgress, now: list[float], tiles: int) -> None:
    progress(GramStarted(tiles, 0, 100, 1, "cpu", "inline"))
    progress(WorkerStarted("w0"))
    for _ in range(tiles):
        now[0] += 0.01
        progress(TileDone("r0000c0000", "w0", 1.0, 40_000, 1, 10_000))
    progress(StageDone("gram", 1.0))


def test_a_bar_changes_in_its_place(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    compute(GramProgress(clock=lambda: now[0]), now, 1000)
    assert len(cell.outputs) == 1
    assert 20 < cell.drawn < 60  # ten seconds, at most four drawings a second
    shown = cell.outputs[0]
    assert shown["text/plain"].startswith("gram: 1000 of 1000 tiles, 100 tiles/s")
    assert '<progress max="1000" value="1000"' in shown["text/html"]
    assert capsys.readouterr() == ("", "")


def test_notes_are_escaped_and_the_latest_five_stay(cell: Cell) -> None:
    progress = GramProgress()
    progress(GramStarted(10, 0, 100, 1, "cpu", "inline"))
    for i in range(7):
        progress(TileFailed(f"t{i}", "w0", 3, "a < b", "", final=True))
    progress.close()
    html = cell.outputs[0]["text/html"]
    assert "tile t1" not in html
    assert all(f"tile t{i} failed for good: a &lt; b" in html for i in range(2, 7))


@pytest.mark.parametrize("cell", [None], indirect=True)
def test_ipython_in_a_terminal_is_no_notebook(cell: Cell) -> None:
    assert not in_notebook()


def test_a_stream_that_is_given_is_written_to(cell: Cell) -> None:
    stream, now = io.StringIO(), [0.0]
    compute(GramProgress(stream, clock=lambda: now[0]), now, 3)
    assert not cell.outputs
    assert "3 of 3 tiles" in stream.getvalue()
