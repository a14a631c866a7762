from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose

from ntkdist.errors import InputError, StoreError
from ntkdist.events.types import RidgeTried
from ntkdist.linalg import (
    RIDGE_LADDER,
    CholeskyFactor,
    NotPositiveDefiniteError,
    factorize,
    first_passing,
)
from tests.linalg.matrices import SMALL, spd, upper_only, with_eigenvalues

MODES = {"one panel": "2GiB", "many panels": SMALL}


def first_bad_pivot(a: np.ndarray) -> tuple[int, float]:
    """Oracle: eliminate column by column."""
    a = a.copy()
    for i in range(len(a)):
        if a[i, i] <= 0:
            return i, a[i, i]
        a[i + 1 :, i + 1 :] -= np.outer(a[i + 1 :, i], a[i, i + 1 :]) / a[i, i]
    raise AssertionError("positive definite")


@pytest.mark.slow(but="-2e-07-1e-06-one panel")
@pytest.mark.parametrize("limit", MODES.values(), ids=MODES)
@pytest.mark.parametrize(
    ("lowest", "suggested"), [(-3e-4, 1e-3), (-2e-7, 1e-6), (-0.02, 0.1), (-0.6, 1.0)]
)
def test_the_suggested_ridge_passes_and_the_next_smaller_does_not(
    tmp_path, limit, lowest, suggested
):
    values = np.linspace(0.5, 1.5, 400)
    values[0] = lowest
    a = with_eigenvalues(values)
    a /= np.diag(a).mean()
    with pytest.raises(NotPositiveDefiniteError) as caught:
        factorize(upper_only(a), tmp_path / "f", memory_limit=limit)
    error = caught.value
    assert error.exit_code == 1
    assert error.ridge == 0.0
    assert error.suggested_ridge == suggested
    pivot, value = first_bad_pivot(a)
    assert error.pivot == pivot
    assert_allclose(error.value, value, rtol=1e-6, atol=1e-12)
    text = str(error)
    assert f"not positive definite: pivot {pivot} of 400 is {error.value:.6g} at ridge 0." in text
    assert f"Pass ridge={suggested:g} (relative to the mean of the diagonal, 1)" in text
    assert "\n" not in text

    smaller = RIDGE_LADDER[RIDGE_LADDER.index(suggested) - 1]
    with pytest.raises(NotPositiveDefiniteError) as again:
        factorize(a, tmp_path / "f", ridge=smaller, memory_limit=limit)
    assert again.value.suggested_ridge == suggested
    assert factorize(a, tmp_path / "f", ridge=suggested, memory_limit=limit).ridge == suggested


@pytest.mark.slow
def test_a_failure_in_a_later_panel_leaves_nothing_behind(tmp_path):
    a = spd(450, 10.0)
    a[400, 400] = -1.0
    with pytest.raises(NotPositiveDefiniteError) as caught:
        factorize(a, tmp_path / "f", memory_limit=SMALL)
    assert caught.value.pivot == 400
    schur = a[400, 400] - a[400, :400] @ np.linalg.solve(a[:400, :400], a[:400, 400])
    assert_allclose(caught.value.value, schur, rtol=1e-9)
    assert not list((tmp_path / "f").rglob("c/*"))
    with pytest.raises(StoreError, match="holds no factor"):
        CholeskyFactor.open(tmp_path / "f")


def test_every_step_tried_is_reported(tmp_path):
    a = with_eigenvalues(np.r_[-3e-4, np.linspace(0.5, 1.5, 399)])
    events: list = []
    with pytest.raises(NotPositiveDefiniteError):
        factorize(a, tmp_path / "f", on_event=events.append)
    tried = {e.ridge: e.passed for e in events if isinstance(e, RidgeTried)}
    assert tried == {1e-3: True, 1e-4: False}  # the eigenvalue told where to look


def test_a_matrix_no_ridge_helps_says_so(tmp_path):
    with pytest.raises(
        NotPositiveDefiniteError, match=r"no ridge up to 1 .* passes\. Rounding"
    ) as caught:
        factorize(np.diag([1.0, -5.0, 6.0]), tmp_path / "f")
    assert (caught.value.pivot, caught.value.value) == (1, -5.0)
    assert caught.value.suggested_ridge is None
    with pytest.raises(NotPositiveDefiniteError) as caught:
        factorize(-np.eye(3), tmp_path / "f", ridge=0.1)
    assert caught.value.suggested_ridge is None


def test_only_larger_ridges_are_suggested(tmp_path):
    a = with_eigenvalues(np.r_[-3e-2, np.linspace(0.5, 1.5, 99)])
    with pytest.raises(NotPositiveDefiniteError) as caught:
        factorize(a, tmp_path / "f", ridge=0.02)
    assert (caught.value.ridge, caught.value.suggested_ridge) == (0.02, 0.1)


def test_exactly_singular_is_not_definite(tmp_path):
    with pytest.raises(NotPositiveDefiniteError) as caught:
        factorize(np.diag([1.0, 0.0, 1.0]), tmp_path / "f")
    assert (caught.value.pivot, caught.value.value) == (1, 0.0)
    assert caught.value.suggested_ridge == 1e-12


def test_overflow_is_no_pivot(tmp_path):
    a = np.array([[1e-300, 1e300], [1e300, 1.0]])
    with pytest.raises(InputError, match="float64 overflowed"):
        factorize(a, tmp_path / "f")


def test_the_error_survives_pickling():
    error = NotPositiveDefiniteError("m", pivot=3, value=-1.0, ridge=0.1, suggested_ridge=1.0)
    copy = pickle.loads(pickle.dumps(error))  # as between processes
    assert (str(copy), copy.pivot, copy.suggested_ridge) == ("m", 3, 1.0)


@given(
    count=st.integers(0, 13),
    border=st.integers(0, 13),
    start=st.none() | st.integers(-2, 15),
)
def test_the_search_tries_both_sides_of_its_answer(count, border, start):
    tried: list[int] = []

    def passes(index: int) -> bool:
        tried.append(index)
        return index >= border

    best = first_passing(count, passes, start)
    assert best == min(border, count)
    assert best == count or best in tried
    assert best == 0 or best - 1 in tried
    assert len(tried) == len(set(tried))
    if start is None:
        assert len(tried) <= 4


def test_the_ladder_is_the_one_in_the_message():
    assert RIDGE_LADDER[0] == 1e-12
    assert RIDGE_LADDER[-1] == 1.0
    assert len(RIDGE_LADDER) == 13
