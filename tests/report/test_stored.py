"""What the label stage stores for the report, in a run that is computed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ntkdist.api import execute
from ntkdist.config import DataConfig, FactorConfig, GramConfig, NoiseConfig, RunConfig
from ntkdist.events.types import StageDone
from ntkdist.pipeline import Pipeline
from ntkdist.report.findings import read_geometry
from ntkdist.report.page import write_report
from ntkdist.runs.run import Run


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, figures: None) -> RunConfig:
    """The configuration of a finished run."""
    given = RunConfig(
        run=str(tmp_path_factory.mktemp("stored") / "r"),
        architecture="fc-1",
        data=DataConfig(n=50),
        noise=NoiseConfig(rate=0.2),
        gram=GramConfig(executor="inline", backend="reference", tile=25, threads=1),
        factor=FactorConfig(scheduler="synchronous"),
    )
    with Pipeline(given) as pipeline:
        execute(pipeline)
    return given


def gram(run: Run) -> np.ndarray:
    from ntkdist.gram.store import GramStore

    return np.asarray(GramStore.open(run.address("gram", "ntk"), "r")[:, :], dtype=np.float64)


@pytest.mark.slow
def test_eigenvalues_are_on_the_scale_of_the_ridge(config: RunConfig) -> None:
    run = Run.open(config.run)
    found = read_geometry(run).eigenvalues
    H = gram(run)
    expected = np.linalg.eigvalsh(H / np.diagonal(H).mean())[::-1]
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-9 * expected[0])


def test_distances_of_all_components_are_those_of_features(config: RunConfig) -> None:
    run = Run.open(config.run)
    found = read_geometry(run)
    assert found.points is not None
    assert found.images is not None
    H = gram(run)[np.ix_(found.images, found.images)]
    n = len(H)
    C = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(C @ H @ C)
    leading = (vectors[:, -4:] * np.sqrt(values[-4:]))[:, ::-1]
    signs = np.sign((leading * found.points).sum(axis=0))
    np.testing.assert_allclose(found.points, leading * signs, atol=1e-3 * np.abs(leading).max())
    np.testing.assert_allclose(found.explained, values[:-5:-1] / values.sum(), rtol=1e-4)


def test_the_report_shows_them(config: RunConfig) -> None:
    text = Path(config.run, "report.html").read_text(encoding="utf-8")
    assert "A map of the images" in text
    assert "Eigenvalues of the kernel matrix" in text
    assert "kept no eigenvalues" not in text
    assert "nothing went wrong" in text
    assert "How far to trust this: cannot judge" in text  # five images a class
    assert "Why: there are 5 images per class on average" in text


@pytest.mark.slow
def test_a_run_of_an_older_version_gets_them_without_new_labels(
    config: RunConfig, tmp_path: Path
) -> None:
    old = replace(config, run=str(tmp_path / "old"))
    shutil.copytree(config.run, old.run)
    shutil.rmtree(tmp_path / "old" / "noise" / "eigenvalues")
    shutil.rmtree(tmp_path / "old" / "labels" / "kpca")
    run = Run.open(old.run)
    assert "kept no eigenvalues" in Path(write_report(run)).read_text(encoding="utf-8")
    before = run.attributes("labels")
    done: list[str] = []

    def listen(event: object) -> None:
        if isinstance(event, StageDone) and event.stage == "labels":
            done.append(event.detail)

    with Pipeline(old, [listen]) as pipeline:
        pipeline.labels()
    assert done == ["as stored"]
    assert run.attributes("labels") == before
    assert read_geometry(run).complete
    assert "kept no eigenvalues" not in Path(write_report(run)).read_text(encoding="utf-8")
