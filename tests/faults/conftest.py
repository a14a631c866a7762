from __future__ import annotations

import numpy as np
import pytest

from ntkdist.gram.compute import compute_gram
from ntkdist.gram.executors.inline import InlineExecutor
from tests.disks import small_disk
from tests.faults.target import matrix, target
from tests.gram.conftest import ray_session

__all__ = ["ray_session", "small_disk"]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    folder = str(tmp_path_factory.mktemp("undisturbed"))
    job, tiling = target(folder)
    assert tiling.count >= 30
    compute_gram(job, InlineExecutor(), tiling=tiling)
    return matrix(folder)


@pytest.fixture
def running(ray_session: None) -> str:
    """The address of a Ray that drivers can join, which takes them a second."""
    import ray

    return ray.get_runtime_context().gcs_address
