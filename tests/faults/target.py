"""The Gram matrix that the fault tests disturb: 36 tiles of about a tenth of a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import Tiling
from ntkdist.gram.worker import GramJob
from ntkdist.kernels.registry import get_backend
from ntkdist.networks.architecture import Architecture
from tests.gram.fakes import write_images

N, EDGE = 250, 32


def target(folder: str) -> tuple[GramJob, Tiling]:
    return job_of(folder, n=N, edge=EDGE, architecture="cntk-gap-6", fingerprint="f1")


def job_of(
    folder: str, *, n: int, edge: int, architecture: str, fingerprint: str
) -> tuple[GramJob, Tiling]:
    """Store random images where there are none yet, and return the job on them."""
    if not Path(folder, "images").exists():
        images = np.random.default_rng(4).normal(size=(n, 8, 8, 1)).astype("f4")
        write_images(f"{folder}/images", images)
    job = GramJob(
        images=f"{folder}/images",
        architecture=str(Architecture.parse(architecture)),
        backend="cpu",
        arithmetic=get_backend("cpu").arithmetic,
        dtype="float32",
        outputs=(("ntk", f"{folder}/gram/ntk"),),
        edge=edge,
        fingerprint=fingerprint,
    )
    return job, Tiling(n, edge)


def matrix(folder: str) -> np.ndarray:
    return GramStore.open(f"{folder}/gram/ntk")[:, :]
