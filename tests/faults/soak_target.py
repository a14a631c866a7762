"""What the soak disturbs: a Gram of small tiles, and a factorisation of 8 panels."""

from __future__ import annotations

from ntkdist.gram.tiling import Tiling
from ntkdist.gram.worker import GramJob
from tests.faults.target import job_of
from tests.linalg.matrices import SMALL

__all__ = ["PANEL_SECONDS", "RIDGE", "SMALL", "target"]

RIDGE = 1e-3
PANEL_SECONDS = 0.3


def target(folder: str, edge: int) -> tuple[GramJob, Tiling]:
    return job_of(folder, n=600, edge=edge, architecture="cntk-gap-4", fingerprint="soak")
