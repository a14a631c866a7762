"""Most of these tests run Dask in the calling thread: a tenth of the time, the same bits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.disks import small_disk

__all__ = ["small_disk"]

#: What the others rely on is shown here, on Dask's own threads.
ON_THREADS = ("test_schedulers", "test_tasks", "test_resume", "test_cholesky", "test_inverse")


@pytest.fixture(autouse=True, scope="module")
def _in_this_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    import dask

    if request.module.__name__.rpartition(".")[2] in ON_THREADS:
        yield
        return
    with dask.config.set(scheduler="synchronous"):
        yield
