"""One stage on every scheduler: the same bits from threads, processes, a cluster and Ray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from ntkdist.errors import InputError
from ntkdist.linalg import CholeskyFactor, cg_solve, factorize, top_eigenpairs
from tests.gram.conftest import ray_session
from tests.linalg.kernels import exponential
from tests.linalg.matrices import SMALL

__all__ = ["ray_session"]  # fixture
N = 530  # more than what is done at once, so that eigenpairs are streamed


def everything(a: Any, folder: Any, scheduler: Any, memory: str = SMALL) -> dict[str, Any]:
    """Run the whole stage."""
    factor = factorize(a, folder / "f", ridge=1e-3, memory_limit=memory, scheduler=scheduler)
    factor = CholeskyFactor.open(folder / "f", memory_limit="8MB", scheduler=scheduler)
    solution = cg_solve(a, np.eye(N)[:, :3], ridge=1e-2, scheduler=scheduler)
    pairs = top_eigenpairs(a, 3, scheduler=scheduler)
    return {
        "factor": factor.digest(),
        "inverse": np.asarray(factor.inverse()),
        "diagonal": factor.diagonal_of_inverse(),
        "solution": factor.solve(np.ones(N), matrix=a),
        "cg": solution.x,
        "values": pairs.values,
        "vectors": pairs.vectors,
    }


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A matrix that a worker reads for itself: the block upper triangle, in tiles of 100."""
    import zarr

    array = zarr.create_array(
        str(tmp_path_factory.mktemp("gram") / "a"),
        shape=(N, N), chunks=(100, 100), dtype="f4", fill_value=np.nan,
    )  # fmt: skip
    a = exponential(N)
    for r in range(0, N, 100):
        array[r : r + 100, r:] = a[r : r + 100, r:]
    return array


@pytest.fixture(scope="module")
def expected(stored, tmp_path_factory):
    return everything(stored, tmp_path_factory.mktemp("synchronous"), "synchronous")


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow(but="threads")
@pytest.mark.parametrize("scheduler", [None, "threads"])
def test_threads(stored, expected, tmp_path, scheduler):
    same(everything(stored, tmp_path, scheduler), expected)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Two processes behind an address, each with one thread and one BLAS thread by default."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


@pytest.mark.slow
def test_an_address(stored, expected, tmp_path, address):
    same(everything(stored, tmp_path, address), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # ray's own
@pytest.mark.usefixtures("ray_session")
def test_ray(stored, expected, tmp_path):
    same(everything(stored, tmp_path, "ray"), expected)


@pytest.mark.long
def test_processes(stored, expected, tmp_path):
    same(everything(stored, tmp_path, "processes"), expected)


@pytest.mark.slow
def test_one_lapack_call_has_the_same_bits_in_a_worker(stored, tmp_path, address):
    """The worker's own number of BLAS threads is another one."""
    here = factorize(stored, tmp_path / "here", ridge=1e-3)
    there = factorize(stored, tmp_path / "there", ridge=1e-3, scheduler=address)
    assert here.panel_count == 1
    assert there.digest() == here.digest()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # distributed's own
def test_an_address_where_nobody_answers_is_said(stored, tmp_path, monkeypatch):
    monkeypatch.setattr("ntkdist.linalg.tasks.CONNECT_TIMEOUT", "1s")
    text = r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 .*start one with 'dask scheduler'"
    with pytest.raises(InputError, match=text):
        factorize(stored, tmp_path / "f", scheduler="tcp://127.0.0.1:1")
    assert not (tmp_path / "f").exists()
