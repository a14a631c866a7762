"""Runs from Python and from notebooks: compute one in a line, and read what it holds."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ntkdist import storage
from ntkdist.checks import check_choice, check_flag
from ntkdist.config import RunConfig, load_yaml
from ntkdist.errors import InputError, StageError, shown
from ntkdist.pipeline import Pipeline
from ntkdist.pipeline.gram import stored_gram
from ntkdist.pipeline.labels import probability_columns, with_probabilities
from ntkdist.report.page import write_report
from ntkdist.runs import STAGES, Run

if TYPE_CHECKING:
    import pandas as pd

    from ntkdist.gram.store import GramStore


def compute(
    config: RunConfig | Mapping[str, Any] | str | os.PathLike[str],
    *,
    stages: Iterable[str] = STAGES,
    progress: bool = True,
    subscribers: Sequence[Callable[[Any], None]] = (),
) -> Run:
    """Compute a run, or what is missing of one.

    Args:
        config: A ``RunConfig``; the same as nested dictionaries, such as ``{"run": "runs/mine",
            "data": {"source": "digits"}}``; a YAML run file; or the address of a run that is
            there.
        stages: Some of gram, factor, labels and report; each needs those before it.
        progress: Whether to show the tiles' progress: a bar on a terminal and in a notebook,
            lines on standard error elsewhere.
        subscribers: Told every event.

    Returns:
        The run, opened.

    Raises:
        InputError: For bad data or settings, or a run with other settings at that address.
        StageError: If parts of a stage failed; what was done is kept.
        InterruptedRunError: If Ctrl-C, a notebook's stop button or SIGTERM stopped it; called
            again, it goes on.
    """
    from ntkdist.events.progress import GramProgress

    stages = _stages(stages)
    with GramProgress() as bar:
        told: list[Callable[[Any], None]] = [bar] if progress else []
        told += subscribers
        with Pipeline(_settings(config), told) as pipeline:
            execute(pipeline, stages)
            return pipeline.run


def execute(
    pipeline: Pipeline, stages: Iterable[str] = STAGES, *, recompute: Sequence[str] = ()
) -> None:
    """Run some stages of an open run in their order.

    Args:
        pipeline: Of the run.
        stages: Some of ``STAGES``.
        recompute: Tile keys to compute again, for the Gram stage.

    Raises:
        InputError: For an unknown stage or bad settings.
        StageError: If parts of a stage failed; what was done is kept.
        InterruptedRunError: If a signal stopped it.
    """
    wanted = _stages(stages)
    pipeline.check_settings(wanted)
    if "gram" in wanted:
        pipeline.gram(recompute)
    if "factor" in wanted:
        pipeline.factor()
    if "labels" in wanted:
        pipeline.labels()
    if "report" in wanted:
        report(pipeline)


def _stages(stages: Iterable[str]) -> set[str]:
    if not isinstance(stages, list | tuple | set | frozenset):
        raise InputError(f"stages={shown(stages)} is no list; give some of {', '.join(STAGES)}")
    for stage in stages:
        check_choice("stage", stage, STAGES)
    return set(stages)


def report(pipeline: Pipeline) -> str:
    """Write the report into an open run and return its path or URL."""
    with pipeline.stage("report") as detail:
        path = write_report(pipeline.run)
        detail.append(path)
    return path


def _settings(config: RunConfig | Mapping[str, Any] | str | os.PathLike[str]) -> RunConfig:
    if isinstance(config, RunConfig):
        return config
    if isinstance(config, Mapping):
        return RunConfig.from_dict(config)
    if not isinstance(config, str | os.PathLike):
        raise InputError(
            f"config={shown(config)} must be a RunConfig, nested dictionaries, a YAML run file or "
            "the address of a run"
        )
    address = os.fspath(config)
    if PurePath(address).suffix in (".yaml", ".yml"):
        return RunConfig.from_dict(load_yaml(address), where=address)
    return Run.open(address).config


def open_gram(run: Run | str | os.PathLike[str], kind: str = "ntk") -> GramStore:
    """Open the Gram matrix of a run for reading.

    Args:
        run: The run or its address.
        kind: ``ntk``, or ``nngp`` where ``gram.kinds`` has it.

    Returns:
        The matrix: ``gram[:100, 5]`` reads entries, ``gram.to_dask()`` is a Dask array and
        ``gram.done()`` the tiles that are there. One that is not finished raises where a
        missing tile is read.

    Raises:
        InputError: If there is no run, or it has no kernel of this kind.
        StageError: If its Gram was not begun.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    kinds = run.config.gram.kinds
    if not isinstance(kind, str) or kind not in kinds:
        raise InputError(f"{run.url}: holds no {shown(kind)} kernel; it has {', '.join(kinds)}")
    store = stored_gram(run, kind)
    if store is None:
        raise StageError(f"{run.url}: has no Gram yet; ntkdist gram {run.url}")
    return store


def labels_table(run: Run | str | os.PathLike[str], *, probabilities: bool = False) -> pd.DataFrame:
    """Read what the label stage says of every image, the most suspicious label first.

    Args:
        run: The run or its address.
        probabilities: Whether to add a column ``probability_CLASS`` for each class: its
            probability by all images but this one, as cleanlab and its like take them.

    Returns:
        labels.csv of the run: one row an image, with the columns of
        ``ntkdist.labels.label_report``, the names of the classes and, where the images came
        from files, the file; ``attrs["reliability"]`` says how far to trust it, as
        ``ntkdist.labels.Reliability`` (None in runs of versions that did not say).

    Raises:
        InputError: If there is no run.
        StageError: If the label stage has not run for the run's images, or kept no probabilities.
    """
    import pandas as pd

    run = run if isinstance(run, Run) else Run.open(run)
    content = storage.read_bytes(run.address("labels.csv"))
    if content is None or not run.is_current("labels"):
        raise StageError(f"{run.url}: labels have not been analysed yet; ntkdist labels {run.url}")
    text = {"given_class": str, "suggested_class": str, "file": str}
    table = pd.read_csv(io.BytesIO(content), dtype=text, keep_default_na=False)
    summary = run.attributes("labels").get("summary") or {}
    table.attrs["reliability"] = summary.get("reliability")
    if check_flag("probabilities", probabilities):
        return with_probabilities(run, table)
    return table.drop(columns=probability_columns(run), errors="ignore")
