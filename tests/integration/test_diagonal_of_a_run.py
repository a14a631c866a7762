"""A run with the method posterior: the diagonal of the inverse, and never the inverse itself."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist import linalg
from ntkdist.analyses.bias import find_bias
from ntkdist.analyses.labelings import score_labelings
from ntkdist.analyses.status import read_status
from ntkdist.api import execute
from ntkdist.config import (
    DataConfig,
    FactorConfig,
    GramConfig,
    LabelsConfig,
    NoiseConfig,
    RunConfig,
)
from ntkdist.errors import InterruptedRunError
from ntkdist.events.types import LinalgProgress, PosteriorRound, StepContinues
from ntkdist.labels import block_error, class_matrix, invert, refurbish
from ntkdist.linalg import CholeskyFactor
from ntkdist.pipeline import Pipeline
from ntkdist.pipeline.extend import extend
from ntkdist.pipeline.verify import verify_run
from ntkdist.report.page import write_report
from ntkdist.runs.run import Overview, Run

N = 450
SMALL = "2MB"  # so that the factor has panels


def settings(folder: Path, **changes: Any) -> RunConfig:
    base: dict[str, Any] = {
        "run": str(folder),
        "architecture": "fc-2",
        "data": DataConfig(n=N),
        "noise": NoiseConfig(0.3),
        "gram": GramConfig(executor="inline", tile=150),
        "factor": FactorConfig(memory_limit=SMALL),
    }
    return RunConfig(**{**base, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    config = settings(tmp_path_factory.mktemp("diagonal") / "run")
    with Pipeline(config) as pipeline:
        execute(pipeline)
    return config


@pytest.fixture
def copied(finished: RunConfig, tmp_path: Path) -> RunConfig:
    shutil.copytree(finished.run, tmp_path / "run")
    return replace(finished, run=str(tmp_path / "run"))


def ridge_of(config: RunConfig) -> Path:
    return Path(config.run, "factor/ntk/ridge-0.001")


def without_labels(config: RunConfig) -> None:
    Run.open(config.run).write_attributes("labels", {"fingerprint": None, "summary": None})


def gram_of(config: RunConfig) -> np.ndarray:
    with Pipeline(config) as pipeline:
        return pipeline.gram_store()[:, :]


@pytest.mark.slow
def test_after_a_run_there_is_a_diagonal_and_no_inverse(finished: RunConfig) -> None:
    assert not (ridge_of(finished) / "inverse").exists()
    factor = CholeskyFactor.open(str(ridge_of(finished)))
    assert factor.panel_count > 3
    stored = factor.stored_diagonal()
    assert stored is not None
    dense = invert(gram_of(finished), 1e-3)
    np.testing.assert_allclose(stored, np.diagonal(dense), rtol=1e-7)
    assert read_status(finished.run).factored
    assert Overview.of(Run.open(finished.run)).stages["factor"]
    assert verify_run(Run.open(finished.run), recompute=0, entries=0).problems == []


@pytest.mark.slow
def test_labels_are_those_of_the_dense_inverse(finished: RunConfig) -> None:
    run = Run.open(finished.run)
    given = run.read("inputs", "labels")
    dense = invert(gram_of(finished), 1e-3)
    expected = refurbish(
        dense,
        given,
        10,
        method="posterior",
        noise_rate=run.attributes("noise")["noise_rate"],
        first_probs=run.read("noise", "pred_probs"),
    )
    np.testing.assert_array_equal(run.read("labels", "refurbished"), expected.labels)
    assert len(expected.history) > 100
    order = [flip.index for flip in expected.history]
    assert run.read("labels", "history", "index").tolist() == order
    losses = run.read("labels", "losses")
    np.testing.assert_allclose(losses, expected.losses, rtol=1e-6)
    summary = run.attributes("labels")["summary"]
    for name, value in (("given", losses[0]), ("refurbished", losses[1])):
        assert summary["block_error"][name] == pytest.approx(value, rel=1e-9)
    true = run.read("inputs", "labels_true")
    _, Z = class_matrix(dense, true, 10)
    right = block_error(Z, np.bincount(true, minlength=10))
    assert summary["block_error"]["true"] == pytest.approx(right, rel=1e-6)


@pytest.mark.slow
def test_a_stored_inverse_of_an_older_run_is_used(copied: RunConfig) -> None:
    labels = Run.open(copied.run).read("labels", "refurbished")
    shutil.rmtree(ridge_of(copied) / "diagonal")
    assert not read_status(copied.run).factored
    CholeskyFactor.open(str(ridge_of(copied))).inverse()
    assert read_status(copied.run).factored
    without_labels(copied)
    with Pipeline(copied) as pipeline:
        execute(pipeline)
    assert not (ridge_of(copied) / "diagonal").exists()
    np.testing.assert_array_equal(Run.open(copied.run).read("labels", "refurbished"), labels)


@pytest.mark.slow
def test_the_method_decides_what_of_the_inverse_is_computed(copied: RunConfig) -> None:
    exact = replace(copied, labels=LabelsConfig(method="exact", steps=5))
    assert not read_status_of(exact).factored
    with Pipeline(exact) as pipeline:
        execute(pipeline, ("factor", "labels"))
    assert (ridge_of(copied) / "inverse").exists()
    assert len(Run.open(copied.run).read("labels", "losses")) == 6


def read_status_of(config: RunConfig) -> Any:
    from ntkdist.analyses.status import is_factored

    run = Run.create(config)

    class Found:
        factored = is_factored(run, "ridge-0.001")

    return Found


def test_labelings_and_bias_need_solutions_only(copied: RunConfig) -> None:
    shutil.rmtree(ridge_of(copied))
    with Pipeline(copied) as pipeline:
        ranked = score_labelings(pipeline, [])
        bias = find_bias(pipeline, "given").ranking
        given = pipeline.run.read("inputs", "labels")
    assert not (ridge_of(copied) / "inverse").exists()
    assert not (ridge_of(copied) / "diagonal").exists()
    dense = invert(gram_of(copied), 1e-3)
    _, Z = class_matrix(dense, given, 10)
    counts = np.bincount(given, minlength=10)
    scores = {one.name: one.block_error for one in ranked}
    assert scores["given"] == pytest.approx(block_error(Z, counts), rel=1e-6)
    expected = np.diagonal(Z) / (counts * (counts - 1))
    np.testing.assert_allclose(bias.intra_scores, expected, rtol=1e-6)


@pytest.mark.slow(but="500")
@pytest.mark.parametrize("n", [500, 900])
def test_an_extended_run_has_the_diagonal_of_the_larger_factor(
    copied: RunConfig, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if n < 1.5 * N:  # few rows: the stored diagonal is extended

        def fail(*arguments: Any) -> None:
            raise AssertionError("computed anew")

        monkeypatch.setattr(linalg.inverse, "_column_norms", fail)
    with Pipeline(Run.open(copied.run, pending_extension=True).config) as pipeline:
        extend(pipeline, n)
    assert not (ridge_of(copied) / "inverse").exists()
    factor = CholeskyFactor.open(str(ridge_of(copied)))
    assert factor.n == n
    stored = factor.stored_diagonal()
    assert stored is not None
    H = gram_of(replace(copied, data=DataConfig(n=n))).astype(np.float64)
    np.fill_diagonal(H, np.diagonal(H) + factor.ridge_absolute)
    np.testing.assert_allclose(stored, np.diagonal(np.linalg.inv(H)), rtol=1e-7)
    assert read_status(copied.run).factored
    with Pipeline(Run.open(copied.run).config) as pipeline:
        execute(pipeline, ("factor", "labels"))
        assert len(pipeline.run.read("labels", "refurbished")) == n


@pytest.mark.slow
def test_an_extended_older_run_gets_a_diagonal_in_place_of_its_inverse(copied: RunConfig) -> None:
    shutil.rmtree(ridge_of(copied) / "diagonal")
    CholeskyFactor.open(str(ridge_of(copied))).inverse()
    with Pipeline(Run.open(copied.run, pending_extension=True).config) as pipeline:
        extend(pipeline, 470)
    assert not (ridge_of(copied) / "inverse").exists()
    assert CholeskyFactor.open(str(ridge_of(copied))).stored_diagonal() is not None


# -- progress ---------------------------------------------------------------------


@pytest.mark.slow
def test_every_long_step_is_told_from_the_calling_thread(
    finished: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linalg.tasks, "PROGRESS_SECONDS", 1e-3)
    monkeypatch.setattr("ntkdist.pipeline.stages.EVERY", 1e-3)
    events: list[Any] = []
    threads = set()

    def listen(event: Any) -> None:
        events.append(event)
        threads.add(threading.current_thread())

    config = replace(finished, run=str(tmp_path / "run"))
    with Pipeline(config, [listen]) as pipeline:
        execute(pipeline, ("gram", "factor", "labels"))
    assert threads == {threading.current_thread()}
    stages = {event.stage for event in events if isinstance(event, LinalgProgress)}
    assert {"factor", "diagonal", "solve"} <= stages
    steps = {event.step for event in events if isinstance(event, StepContinues)}
    assert {
        "choosing the ridge",
        "class matrices of the labels",
        "kernel principal components",
    } <= steps
    rounds = [event for event in events if isinstance(event, PosteriorRound)]
    assert [event.round for event in rounds] == list(range(1, len(rounds) + 1))
    assert rounds[0].most == 8


def test_a_stop_is_followed_within_a_round(
    copied: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = Run.open(copied.run).read("labels", "refurbished")
    without_labels(copied)
    seen: list[int] = []
    with Pipeline(copied) as pipeline:

        def listen(event: Any) -> None:
            if isinstance(event, PosteriorRound):
                seen.append(event.round)
                pipeline.stop.set()

        pipeline._emit.subscribe(listen)
        with pytest.raises(InterruptedRunError):
            pipeline.labels()
    assert 1 <= len(seen) < 8
    assert not Run.open(copied.run).attributes("labels")["summary"]
    with Pipeline(copied) as pipeline:
        pipeline.labels()
        np.testing.assert_array_equal(pipeline.run.read("labels", "refurbished"), labels)


@pytest.mark.slow
@pytest.mark.usefixtures("figures")
def test_the_report_shows_changes_and_no_curve(finished: RunConfig) -> None:
    page = Path(write_report(Run.open(finished.run))).read_text()
    assert 'id="fig-changes' in page or "changes" in page
    assert "L(Z) while labels are changed one at a time." not in page
    assert "What each changed label alone does to L(Z)" in page
    assert "all of them at once" in page
