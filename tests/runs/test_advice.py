"""Which kernel is suggested for a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ntkdist.config import RunConfig
from ntkdist.runs.advice import flags_of_better_kernel
from ntkdist.runs.run import Run

POOLS = "--architecture cntk-lap-6-2 --run FOLDER/run-cntk-lap-6-2"
PHOTOGRAPHS = (
    "--architecture cntk-lap-6-2 --data.preprocess contrast+zca --gram.invariance flip "
    "--run FOLDER/run-cntk-lap-6-2-flip"
)


def run_of(
    folder: Path, shape: tuple[int, ...], data: dict[str, str] | None = None, **settings: object
) -> Run:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(12, *shape), dtype=np.uint8), np.arange(12) % 2
    source = images if len(shape) > 1 else images.astype(np.float32)
    np.savez(folder / "set.npz", x_train=source, y_train=labels)
    data = {"source": f"npz:{folder}/set.npz", **(data or {})}
    return Run.create(RunConfig.from_dict({"run": str(folder / "run"), "data": data, **settings}))


@pytest.mark.parametrize(
    ("shape", "architecture", "flags"),
    [
        ((6, 5, 1), "cnn-2", POOLS),
        ((6, 5, 1), "cntk-gap-3", ""),
        ((6, 5, 3), "cnn-2", PHOTOGRAPHS),
        ((6, 5, 3), "cntk-gap-3", PHOTOGRAPHS),
        ((65, 64, 3), "cnn-2", POOLS),  # too large to be whitened
        ((65, 64, 3), "cntk-gap-3", ""),
        ((7,), "fc-2", ""),
    ],
)
def test_the_kernel_depends_on_colours_and_network(tmp_path, shape, architecture, flags):
    found = flags_of_better_kernel(run_of(tmp_path, shape, architecture=architecture))
    assert found == flags.replace("FOLDER", str(tmp_path))


def test_a_run_with_these_settings_has_no_more_to_be_told(tmp_path):
    words = PHOTOGRAPHS.split()
    given = dict(zip((w.removeprefix("--") for w in words[::2]), words[1::2], strict=True))
    run = run_of(
        tmp_path,
        (6, 5, 3),
        architecture=given["architecture"],
        data={"preprocess": given["data.preprocess"]},
        gram={"invariance": given["gram.invariance"]},
    )
    assert flags_of_better_kernel(run) == ""
