"""Lines of progress on the terminal."""

import io

import pytest

from ntkdist.cli.console import StageLines
from ntkdist.events.types import (
    BandDone,
    InverseBlockDone,
    IterationDone,
    LinalgProgress,
    PanelDone,
    PosteriorRound,
    RidgeTried,
    SketchDone,
    StepContinues,
)


def said(*events):
    stream = io.StringIO()
    lines = StageLines(stream)
    for event in events:
        lines(event)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            PanelDone(1, 4, 2.0, 57.31, resumed=False, fraction=0.5),
            "factor: panel 2 of 4, 57.3 GFLOP/s, ",
        ),
        (PanelDone(1, 4, 2.0, 57.3, resumed=True, fraction=0.5), ""),
        (InverseBlockDone("rows", 2, 7, 0.1, resumed=False), "inverse, rows: block 3 of 7\n"),
        (
            InverseBlockDone("diagonal", 2, 7, 0.1, resumed=False),
            "diagonal of the inverse: block 3 of 7\n",
        ),
        (LinalgProgress("diagonal", 0.342, 125.2), "diagonal of the inverse: 34 %, 125 s so far\n"),
        (LinalgProgress("factor", None, 61.0), "factor: 61 s so far\n"),
        (StepContinues("choosing the ridge", 15.0), "choosing the ridge: 15 s so far\n"),
        (PosteriorRound(3, 8, 41.5), "labels: round 3 of at most 8, 41.5 s\n"),
        (BandDone(0, 500, 10_500, 1.2, 43.2, 0.5), "append: 10500 rows, 50 %, 43.2 GFLOP/s\n"),
        (SketchDone(768, 1e4, 1.0, 13.27), "preconditioner of rank 768 in 13.3 s\n"),
        (
            IterationDone("cg", 12, 3.21e-5, 1e-8, 0.4),
            "cg: pass 12, residual 3.21e-05, until 1e-08, 0.4 s a pass\n",
        ),
        (RidgeTried(1e-6, passed=True), "ridge 1e-06: passes\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_event_is_a_line(event, line):
    assert said(event).startswith(line)
    assert bool(said(event)) == bool(line)


def test_many_events_are_few_lines():
    panels = [PanelDone(k, 100, 1.0, 50.0, resumed=False, fraction=k / 100) for k in range(100)]
    assert said(*panels).count("\n") == 1
