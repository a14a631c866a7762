from __future__ import annotations

import dask
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ntkdist.linalg import CholeskyFactor, factorize
from tests.linalg.matrices import SMALL, spd


@pytest.mark.parametrize("n", [1, 2, 65, 450, 513])
@pytest.mark.parametrize("limit", ["2GiB", SMALL])
def test_the_diagonal_is_that_of_the_inverse(tmp_path, n, limit):
    a = spd(n, 1e4) if n > 1 else np.array([[4.0]])
    factor = factorize(a, tmp_path / "f", memory_limit=limit if n > 400 else "2GiB")
    got = factor.diagonal_of_inverse()
    assert_allclose(got, np.diag(np.linalg.inv(a)), rtol=1e-9)
    assert not (tmp_path / "f" / "inverse").exists()


def test_memory_and_scheduler_do_not_change_it(tmp_path):
    a = spd(450)
    factorize(a, tmp_path / "f", memory_limit=SMALL)
    expected = CholeskyFactor.open(tmp_path / "f").diagonal_of_inverse()
    for scheduler in ("synchronous", dask.get):
        factor = CholeskyFactor.open(tmp_path / "f", scheduler=scheduler)
        assert_array_equal(factor.diagonal_of_inverse(), expected)
    events: list = []
    streamed = CholeskyFactor.open(tmp_path / "f", memory_limit="100kB")
    assert_allclose(streamed.diagonal_of_inverse(on_event=events.append), expected, rtol=1e-13)
    assert {e.stage for e in events} == {"diagonal"}
    assert events[-1].index == events[-1].count - 1
    assert len(events) > 1
