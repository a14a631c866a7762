"""One Ray for all tests of Gram executors and of faults."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    from ntkdist.gram.executors.cluster import cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)  # the actors', whether or not the package is installed
    with cluster("local", cpus=2, gpus=0):
        yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
