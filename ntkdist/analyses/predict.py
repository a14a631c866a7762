"""Kernel regression on a run: a ridge, predictions for images beside it, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.pipeline.cross import HeldOut, held_out
from ntkdist.pipeline.extend_factor import grow_factor
from ntkdist.pipeline.stages import Pipeline

if TYPE_CHECKING:
    from ntkdist.learning import Evaluation, RidgeSweep


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions of a run's kernel, and what they are worth.

    Attributes:
        how: Which images: ``test``, ``rest`` or ``holdout``.
        images: M, how many were predicted.
        trained_on: n, how many were trained on.
        ridge: Relative to the mean of the Gram's diagonal.
        sweep: What leaving out one training image at a time says of each ridge.
        evaluation: Predictions held against the labels.
        outputs: (M, K) float64 of the regression.
        place: The run, or the folder in it, where outputs.csv and predict.svg are.
        names: (K,) of the classes.
    """

    how: str
    images: int
    trained_on: int
    ridge: float
    sweep: RidgeSweep
    evaluation: Evaluation
    outputs: NDArray[np.float64] = field(repr=False)
    place: str
    names: tuple[str, ...]


def predict(pipeline: Pipeline) -> Predicted:
    """Predict the images that the configuration's ``predict`` names.

    Missing tiles of the Gram and of the test × train kernel are computed first, and the factor
    of the Gram with the ridge: each resumes where it ended. The outputs go into
    cross/NAME/outputs of the run and into cross/NAME/predictions.csv, with a
    picture in predict.svg.

    Args:
        pipeline: Of a run.

    Returns:
        The predictions.

    Raises:
        InputError: If the settings do not fit the run or its source.
        NotPositiveDefiniteError: If the Gram plus a ridge that was asked for has no factor.
    """
    from ntkdist.learning import KernelRegression, evaluate, sweep_ridge
    from ntkdist.learning.regression import RIDGES

    run, settings = pipeline.run, pipeline.config.predict
    held = held_out(pipeline)
    pipeline.gram()
    cross = held.cross(settings.kind)
    gram = held.gram(settings.kind)
    with pipeline.stage("ridge") as detail:
        ridges = RIDGES if settings.ridge == "auto" else (float(settings.ridge),)
        sweep = sweep_ridge(
            gram, held.train_labels, held.num_classes, ridges=ridges, targets=settings.targets
        )
        detail.append(f"{len(sweep.rows)} tried on {sweep.images} images, {sweep.best.ridge:g}")
    factor = _factor(pipeline, held, gram, sweep)
    with pipeline.stage("predict") as detail:
        model = KernelRegression.from_factor(
            factor, held.train_labels, held.num_classes, targets=settings.targets
        )
        outputs = model.predict(cross)
        found = evaluate(outputs, held.labels, sweep.best.scale)
        detail.append(f"{len(outputs)} images, {100 * found.accuracy:.2f} % right")
    result = Predicted(
        how=held.how,
        images=len(outputs),
        trained_on=len(held.train),
        ridge=model.ridge,
        sweep=sweep,
        evaluation=found,
        outputs=outputs,
        place=run.address("cross", held.name),
        names=run.manifest.class_names,
    )
    _store(pipeline, held, result)
    return result


def _factor(pipeline: Pipeline, held: HeldOut, gram: Any, sweep: RidgeSweep) -> Any:
    """Factor the Gram with the chosen ridge, or with the next larger one that has a factor."""
    from ntkdist.linalg import NotPositiveDefiniteError, factorize

    settings, wanted = pipeline.config.factor, pipeline.config.predict
    larger = [row.ridge for row in sweep.rows if row.ridge >= sweep.best.ridge]
    with pipeline.stage("factor") as detail, pipeline.scheduler() as scheduler:
        for ridge in larger:
            address = held.factor_address(wanted.kind, ridge)
            grow_factor(pipeline, address, gram, appended=held.how != "holdout")
            try:
                factor = factorize(
                    gram,
                    address,
                    ridge=ridge,
                    memory_limit=settings.memory_limit,
                    scheduler=scheduler,
                    on_event=pipeline.forward,
                    fingerprint=pipeline.run.fingerprint,
                )
            except NotPositiveDefiniteError:
                if ridge == larger[-1]:
                    raise
                detail.append(f"ridge {ridge:g} has no factor")
                continue
            detail.append(f"{factor.panel_count} panels, ridge {factor.ridge:g}")
            return factor
    raise AssertionError("the sweep holds its best ridge")


def _store(pipeline: Pipeline, held: HeldOut, found: Predicted) -> None:
    from ntkdist.analyses.predict_plot import draw_predictions
    from ntkdist.learning.evaluation import softmax

    run, evaluation = pipeline.run, found.evaluation
    run.write(f"cross/{held.name}/outputs", found.outputs)
    run.write(f"cross/{held.name}/labels", held.labels, {"fingerprint": held.fingerprint})
    rows = [vars(row) for row in found.sweep.rows]
    summary = {
        "on": held.name,
        "images": found.images,
        "trained_on": found.trained_on,
        "ridge": found.ridge,
        "targets": pipeline.config.predict.targets,
        "kind": pipeline.config.predict.kind,
        "labels": pipeline.config.predict.labels,
        "accuracy": evaluation.accuracy,
        "log_loss": evaluation.log_loss,
        "brier": evaluation.brier,
        "calibration_error": evaluation.calibration_error,
        "confusion": evaluation.confusion.tolist(),
        "bins": evaluation.bins.tolist(),
        "ridges": rows,
    }
    run.write_attributes("predict", summary)
    run.write_attributes(f"predict/{pipeline.config.predict.labels}", summary)
    p = softmax(found.sweep.best.scale * found.outputs)
    _write_csv(storage.join(found.place, "predictions.csv"), held, p, found.names)
    with storage.writing(run.address("predict.svg")) as path:
        draw_predictions(
            path,
            confusion=evaluation.confusion,
            names=found.names,
            bins=evaluation.bins,
            ridges=np.array([[r.ridge, r.accuracy, r.squared_error] for r in found.sweep.rows]),
            chosen=found.ridge,
            title=f"{100 * evaluation.accuracy:.2f} % of {found.images} images right",
        )


def _write_csv(address: str, held: HeldOut, p: NDArray[np.float64], names: Sequence[str]) -> None:
    import pandas as pd

    best = p.argmax(axis=1)
    table = pd.DataFrame(
        {
            "index": held.indices,
            "label": held.labels,
            "predicted": best,
            "predicted_name": [names[k] for k in best],
            "probability": p.max(axis=1),
            "probability_of_label": p[np.arange(len(p)), held.labels],
        }
    )
    with storage.writing(address) as path:
        table.to_csv(path, index=False, float_format="%.6g")


def describe_predictions(found: Predicted, most: int = 5) -> str:
    """Return what the command prints: the figures, and the pairs most often confused."""
    words = {
        "test": "of the test split",
        "rest": "of the split that the run leaves out",
        "holdout": "of the run, not trained on",
    }
    e, best = found.evaluation, found.sweep.best
    lines = [
        f"accuracy  {100 * e.accuracy:.2f} % of {found.images} images {words[found.how]}, "
        f"{found.trained_on} trained on",
        f"ridge     {found.ridge:g}; leave-one-out accuracy {100 * best.accuracy:.2f} % "
        f"on {found.sweep.images} images trained on",
        f"calibration  error {e.calibration_error:.3f} (0 is perfect), log-loss {e.log_loss:.4f}, "
        f"Brier {e.brier:.4f}",
    ]
    off = e.confusion.copy()
    np.fill_diagonal(off, 0)
    order = [int(i) for i in np.argsort(-off, axis=None, kind="stable")[:most]]
    pairs = [divmod(i, len(off)) for i in order if off.flat[i]]
    if pairs:
        shown = [
            f"{found.names[k]} taken for {found.names[d]} ({_times(off[k, d])})" for k, d in pairs
        ]
        lines.append("confused  " + ", ".join(shown))
    lines.append(f"table     {found.place}/predictions.csv, picture predict.svg in the run")
    return "\n".join(lines)


def _times(count: int) -> str:
    return "1 time" if count == 1 else f"{count} times"
