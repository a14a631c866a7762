from __future__ import annotations

import threading
from contextlib import ExitStack

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from ntkdist.linalg import blas, factorize
from ntkdist.linalg.blas import blas_threads, blas_threads_between
from ntkdist.linalg.tasks import side_by_side
from tests.linalg.matrices import SMALL, spd


def threads() -> set[int]:
    blas.cholesky_lower(np.eye(2))  # loads SciPy's library
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def two_threads():
    """Two threads outside, even on a machine with one core."""
    with threadpool_limits(2, user_api="blas"):
        assert threads() == {2}
        yield


def test_a_task_has_one_thread_and_gives_the_others_back(two_threads):
    with blas_threads(1):
        assert threads() == {1}
        with blas_threads(1):
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == {2}


def test_tasks_that_overlap_give_the_threads_back(two_threads):
    """The first one in leaves before the last one, whose thread did not set the limit."""
    inside, leave = threading.Event(), threading.Event()
    gone = threading.Event()
    stay = threading.Event()

    def first() -> None:
        with blas_threads(1):
            inside.set()
            leave.wait(30)
        gone.set()
        stay.wait(30)  # alive, as a thread of a pool is

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(30)
    with blas_threads(1):
        leave.set()
        assert gone.wait(30)
        assert threads() == {1}
    assert threads() == {2}
    stay.set()
    thread.join()


def test_what_runs_between_tasks_has_its_own_threads(two_threads):
    with blas_threads_between(3):
        assert threads() == {3}
        with blas_threads(1):
            assert threads() == {1}
            with blas_threads_between(4):  # another one beside it: the first one's count stays
                assert threads() == {1}
        assert threads() == {3}
    assert threads() == {2}


def test_tasks_that_outlive_what_began_them_give_the_threads_back(two_threads):
    with ExitStack() as outer, ExitStack() as inner:
        outer.enter_context(blas_threads_between(3))
        inner.enter_context(blas_threads(1))
        outer.close()
        assert threads() == {1}
        inner.close()
        assert threads() == {2}


def test_a_factorisation_leaves_the_threads_as_they_were(tmp_path, two_threads):
    factorize(spd(450), tmp_path / "f", memory_limit=SMALL, scheduler="threads")
    assert threads() == {2}


@pytest.mark.parametrize("count", [0, 1, 2, 17])
def test_results_come_in_order(count):
    assert side_by_side(lambda i: i * i, list(range(count))) == [i * i for i in range(count)]


def test_an_error_comes_through():
    def fail(i: int) -> int:
        if i == 3:
            raise ValueError("three")
        return i

    with pytest.raises(ValueError, match="three"):
        side_by_side(fail, list(range(6)))
