"""What a run holds of its inputs, to find its images in their source again."""

from __future__ import annotations

from ntkdist.data import Preprocessor
from ntkdist.runs.grown_inputs import Held
from ntkdist.runs.inputs import PREPROCESS
from ntkdist.runs.run import Run


def held_by(run: Run) -> Held:
    """Read images, labels and the statistics that the images were prepared with."""
    noisy = run.has("inputs", "labels_true")
    return Held(
        images=run.read("inputs", "images"),
        labels=run.read("inputs", "labels"),
        labels_true=run.read("inputs", "labels_true") if noisy else None,
        class_names=run.manifest.class_names,
        preprocess=preprocessor_of(run),
        scaled_to=run.scaled_to,
        channels=run.channels,
    )


def preprocessor_of(run: Run) -> Preprocessor | None:
    """Return what prepared a run's images; None for one that does not say."""
    stored = run.attributes("inputs", "images").get(PREPROCESS)
    return None if stored is None else Preprocessor.from_dict(stored)
