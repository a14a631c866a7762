"""What the soak disturbs: 820 small tiles, and a factorisation of 8 panels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ntkdist.architecture import Architecture
from ntkdist.gram.job import GramJob
from ntkdist.gram.tiling import Tiling
from ntkdist.kernels.backend import get_backend
from tests.gram.fakes import write_images
from tests.linalg.matrices import SMALL

__all__ = ["PANEL_SECONDS", "RIDGE", "SMALL", "target"]

N, EDGE, RIDGE = 600, 15, 1e-3
PANEL_SECONDS = 0.3


def target(folder: str, edge: int = EDGE) -> tuple[GramJob, Tiling]:
    if not Path(folder, "images").exists():
        images = np.random.default_rng(8).normal(size=(N, 8, 8, 1)).astype("f4")
        write_images(f"{folder}/images", images)
    job = GramJob(
        images=f"{folder}/images",
        architecture=str(Architecture.parse("cntk-gap-4")),
        backend="cpu",
        arithmetic=get_backend("cpu").arithmetic,
        dtype="float32",
        outputs=(("ntk", f"{folder}/gram/ntk"),),
        edge=edge,
        fingerprint="soak",
    )
    return job, Tiling(N, edge)
