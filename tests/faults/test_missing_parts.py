"""Every chunk of every array of a finished run is removed in turn: no answer comes without it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist import labels_table
from ntkdist.analyses import read_sections, stored_results
from ntkdist.analyses.bias import find_bias
from ntkdist.analyses.compare import compare_architectures
from ntkdist.analyses.dynamics import find_dynamics
from ntkdist.analyses.label_aware import compare_label_aware
from ntkdist.analyses.lookahead import simulate_active_learning
from ntkdist.analyses.predict import predict
from ntkdist.analyses.sweep import sweep
from ntkdist.analyses.widths import measure_widths
from ntkdist.api import execute
from ntkdist.config import (
    DataConfig,
    GramConfig,
    LabelsConfig,
    NoiseConfig,
    PredictConfig,
    RunConfig,
)
from ntkdist.errors import NtkdistError
from ntkdist.pipeline import Pipeline
from ntkdist.pipeline.verify import verify_and_repair, verify_run
from ntkdist.report.page import write_report
from ntkdist.runs.run import Run

N = 66


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run with the results of every command."""
    from ntkdist.data import load

    folder = tmp_path_factory.mktemp("missing")
    digits = load("digits")
    chosen = np.flatnonzero(digits.labels < 3)[: N + 20]
    source = folder / "three.npz"
    images = (digits.images[chosen] * 255).astype(np.uint8)
    np.savez(
        source,
        **{"x_train": images[:N], "y_train": digits.labels[chosen[:N]]},
        **{"x_test": images[N:], "y_test": digits.labels[chosen[N:]]},
    )
    config = RunConfig(
        run=str(folder / "run"),
        architecture="fc-2",
        data=DataConfig(source=f"npz:{source}"),
        noise=NoiseConfig(0.1),
        gram=GramConfig(executor="inline", tile=40, kinds=("ntk", "nngp")),
        labels=LabelsConfig(method="exact", probabilities=True),
        predict=PredictConfig(on="test"),
    )
    with Pipeline(config) as pipeline:
        execute(pipeline, ("gram", "factor", "labels"))
        pipeline.factor("diagonal")
        predict(pipeline)
        find_dynamics(pipeline, cross_entropy=True)
        sweep(pipeline, "W_std", ["1", "2"], images=20)
        compare_label_aware(pipeline, variants=["kr-v1"], folds=2)
        simulate_active_learning(
            pipeline, criteria=("margin", "random"), start=6, rounds=1, count=3, seeds=1
        )
        measure_widths(pipeline, widths=(8,), images=4, test=4, seeds=1)
    compare_architectures(config, ["fc-2", "fc-3"])
    return config


def chunks(config: RunConfig) -> list[str]:
    """Return the chunks of all arrays but the tiles, which are computed again where missing."""
    folder = Path(config.run)
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    tiles = [f"{kind}/c/" for kind in config.gram.kinds]
    return sorted(n for n in names if "/c/" in n and not any(tile in n for tile in tiles))


@contextmanager
def without(config: RunConfig, name: str) -> Iterator[None]:
    path = Path(config.run, name)
    aside = Path(config.run).with_name(f"aside-{name.replace('/', '-')}")
    path.rename(aside)
    try:
        yield
    finally:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(path)


@pytest.mark.slow
def test_every_missing_chunk_is_found(config: RunConfig) -> None:
    assert not verify_run(Run.open(config.run), recompute=1, entries=1).problems
    names = chunks(config)
    groups = {name.partition("/")[0] for name in names}
    assert groups == {
        *("inputs", "factor", "labels", "noise", "cross", "dynamics", "widths", "lookahead"),
        *("label_aware", "compare"),
    }
    for name in names:
        with without(config, name):
            said = verify_run(Run.open(config.run), recompute=0, entries=0).problems
        array, _, _ = name.partition("/c/")
        assert any(array.rsplit("/", 1)[1] in problem for problem in said), (name, said)


def test_every_array_without_chunks_is_named(config: RunConfig) -> None:
    arrays = sorted({name.partition("/c/")[0] for name in chunks(config)})
    with ExitStack() as removed:
        for name in arrays:
            removed.enter_context(without(config, f"{name}/c"))
        said = "\n".join(verify_run(Run.open(config.run), recompute=0, entries=0).problems)
    # of a factor one problem is enough
    lost = [name for name in arrays if not name.startswith("factor/")]
    assert [name for name in lost if f"{name}/c" not in said] == []
    factors = {"/".join(name.split("/")[:3]) for name in arrays if name.startswith("factor/")}
    assert [name for name in factors if name not in said] == []


@pytest.mark.parametrize("name", ["labels_true", "files", "pictures"])
def test_an_array_of_the_inputs_that_is_gone_is_not_one_that_never_was(
    config: RunConfig, name: str
) -> None:
    run = Run.open(config.run)
    if name not in run.stored_names("inputs"):
        assert not run.has("inputs", name)
        return
    with without(config, f"inputs/{name}"):
        with pytest.raises(NtkdistError, match=f"inputs/{name}: is missing; restore it"):
            run.has("inputs", name)
        assert any(name in text for text in verify_run(run, recompute=0, entries=0).problems)


def everything(config: RunConfig) -> Any:
    with Pipeline(config) as pipeline:
        execute(pipeline)
    return labels_table(config.run, probabilities=True).to_csv()


def report(config: RunConfig) -> Any:
    run = Run.open(config.run)
    table = labels_table(run, probabilities=True)
    return Path(write_report(run)).read_text(), table.to_csv(), read_sections(run)[1]


def predictions(config: RunConfig) -> Any:
    with Pipeline(config) as pipeline:
        result = predict(pipeline)
    return result.evaluation.accuracy, result.outputs.tolist()


def held_out(config: RunConfig) -> Any:
    return predictions(dataclasses.replace(config, predict=PredictConfig(on="holdout")))


def bias(config: RunConfig) -> Any:
    with Pipeline(config) as pipeline:
        return repr(find_bias(pipeline))


READERS: dict[str, list[Callable[[RunConfig], Any]]] = {
    "inputs": [everything, predictions, held_out, bias],
    "labels": [everything, bias],
    "noise": [everything],
    "cross": [predictions],
    "factor": [everything, predictions, bias],
    "dynamics": [report],
    "widths": [report],
    "lookahead": [report],
    "label_aware": [report],
    "compare": [report],
}


@pytest.mark.slow(but="noise")
@pytest.mark.parametrize("group", READERS)
def test_no_command_answers_otherwise_without_a_chunk(config: RunConfig, group: str) -> None:
    right = {reader: reader(config) for reader in READERS[group]}
    for name in chunks(config):
        if not name.startswith(f"{group}/"):
            continue
        for reader in READERS[group]:
            with without(config, name):
                try:
                    answer = reader(config)
                except NtkdistError as error:
                    assert str(config.run) in str(error)  # noqa: PT017
                else:
                    assert answer == right[reader], (name, reader)


def test_repair_removes_a_damaged_result_for_its_command_to_compute_again(
    config: RunConfig, tmp_path: Path
) -> None:
    shutil.copytree(config.run, tmp_path / "run")
    copy = dataclasses.replace(config, run=str(tmp_path / "run"))
    right = labels_table(config.run).to_csv()
    run = Run.open(copy.run)
    [(looked_ahead, _)] = stored_results(run, "lookahead", "criteria")
    [(followed, _)] = stored_results(run, "dynamics", "squared")
    for name in ("labels/refurbished", f"{followed}/energy", f"{looked_ahead}/accuracy"):
        shutil.rmtree(tmp_path / "run" / name / "c")
    for name in ("labels", "noise", "sweep", looked_ahead):
        (tmp_path / "run" / name / "zarr.json").write_text("")
    check, done = verify_and_repair(copy, 0, 0, repair=True)
    assert not check.problems
    assert sum("computes it again" in line for line in done) == 5, done
    assert any("ntkdist dynamics" in line for line in done)
    assert not stored_results(run, "lookahead", "criteria")
    with Pipeline(copy) as pipeline:
        execute(pipeline, ("labels",))
    assert labels_table(copy.run).to_csv() == right
