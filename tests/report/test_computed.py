from __future__ import annotations

import shlex

import pytest
from cyclopts import App

from ntkdist.cli.options import Settings
from ntkdist.config import DataConfig, GramConfig, LabelsConfig, RunConfig
from ntkdist.events.history import Timeline
from ntkdist.report.story import facts, faults
from ntkdist.runs.run import Run

from .conftest import MakeRun

DEFAULTS = RunConfig()


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("timeline", "sentence"),
    [
        (Timeline(), ""),
        (
            Timeline(total=6, starts=1),
            "The matrix was computed in one go; nothing went wrong.",
        ),
        (
            Timeline(total=6, starts=3, resumes=2),
            "The matrix was computed in 3 starts, 2 of which went on with the tiles already "
            "stored.",
        ),
        (
            Timeline(total=6, starts=1, worker_losses=1),
            "The matrix was computed in 1 start. There was 1 worker lost: what was finished was "
            "kept, and the rest was computed again.",
        ),
        (
            Timeline(
                total=6, starts=2, resumes=1, interruptions=1, worker_losses=2, failures=3,
                given_up=1,
            ),
            "The matrix was computed in 2 starts, 1 of which went on with the tiles already "
            "stored. There were 1 interruption by a signal, 2 workers lost, 3 failed attempts at "
            "a tile: 1 tile had to be given up.",
        ),
    ],
)  # fmt: skip
def test_faults_are_told_in_a_sentence(timeline: Timeline, sentence: str) -> None:
    assert plain(faults(timeline)) == sentence


@pytest.mark.parametrize(
    ("work", "cost"),
    [
        ({"core": 30.0}, "30 core-seconds for all kernel entries"),
        ({"core": 150.0}, "2.5 core-minutes for all kernel entries"),
        ({"core": 5400.0}, "1.5 core-hours for all kernel entries"),
        ({"gpu": 7200.0, "core": 60.0}, "2 GPU-hours and 1 core-minutes for all kernel entries"),
    ],
)
def test_the_cost_is_told_in_a_fitting_unit(
    make_run: MakeRun, work: dict[str, float], cost: str
) -> None:
    assert dict(facts(make_run(), Timeline(work=work), None))["Cost"] == cost


def test_without_work_there_is_no_cost(make_run: MakeRun) -> None:
    assert "Cost" not in dict(facts(make_run(), Timeline(), None))


def test_the_command_to_repeat_a_run_gives_the_same_settings(make_run: MakeRun) -> None:
    given = RunConfig(
        run="somewhere else",
        architecture="fc-2",
        data=DataConfig(source="images:my $(touch x) 'pictures'", n=60, subset="balanced", seed=3),
        gram=GramConfig(kinds=("ntk", "nngp"), executor="inline", tile=16),
        labels=LabelsConfig(method="exact", steps=7, confidence=0.25),
    )
    made = make_run()
    command = Run(made.url, made.manifest, given).repeat_command
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("ntkdist", "run")

    app = App()

    @app.default
    def read(*, settings: Settings = DEFAULTS) -> RunConfig:
        return settings

    again = app(arguments, result_action="return_value")
    assert again.data == given.data
    assert again.labels == given.labels
    assert again.architecture == given.architecture
    assert again.gram.kinds == given.gram.kinds
    assert again.gram.backend == made.manifest.backend
    assert again.gram.tile == "auto"  # does not change what comes out


def test_a_network_without_a_preset_is_spelt_out(make_run: MakeRun) -> None:
    run = make_run(architecture="[Flatten(), Dense(W_std=1.1)]")
    assert shlex.quote(run.config.architecture) in run.repeat_command
