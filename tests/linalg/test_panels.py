from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

from ntkdist.errors import InputError
from ntkdist.linalg import parse_memory, plan_panels
from ntkdist.linalg.panels import PanelPlan

GIB = 1 << 30


@pytest.mark.parametrize(
    ("given_size", "size"),
    [("2GiB", 2 * GIB), ("500MB", 500_000_000), ("64 kiB", 65536), (12345, 12345), ("7", 7)],
)
def test_sizes_are_read(given_size, size):
    assert parse_memory(given_size) == size


@pytest.mark.parametrize(
    "bad", ["much", "", "GiB", "-1GiB", 0, -5, None, float("nan"), float("inf"), []]
)
def test_what_is_no_size_is_refused(bad):
    with pytest.raises(InputError, match="is not a size; pass bytes or a string such as '2GiB'"):
        parse_memory(bad)


@given(n=st.integers(1, 300_000), limit=st.integers(1 << 20, 64 * GIB))
@example(n=193, limit=1_180_160)
def test_a_plan_covers_every_column_once_within_the_limit(n, limit):
    try:
        plan = plan_panels(n, limit)
    except InputError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        needed = int(refused.split("raise memory_limit to at least ")[1].split()[0])
        assert needed > limit
        assert plan_panels(n, needed).projected_bytes() <= needed
        return
    assert plan.projected_bytes() <= limit
    assert plan.width % plan.block == 0
    assert plan.columns(0)[0] == 0
    assert plan.columns(plan.count - 1)[1] == n
    # near-equal panels may be narrower than the narrowest useful one, but never more of them
    assert plan.count <= -(-n // 64)
    assert all(plan.columns(k)[1] == plan.columns(k + 1)[0] for k in range(min(plan.count - 1, 50)))


@given(n=st.integers(300, 50_000), small=st.integers(24, 34), more=st.integers(0, 4))
def test_more_memory_never_means_more_panels(n, small, more):
    def count(exponent: int) -> int:
        try:
            return plan_panels(n, 1 << exponent).count
        except InputError:
            return n + 1

    assert count(small + more) <= count(small)


def test_what_fits_is_one_panel():
    assert plan_panels(4096, 2 * GIB).count == 1
    assert plan_panels(15_000, 2 * GIB).count == 1
    assert plan_panels(20_000, GIB).count > 1


def test_operations_add_up_to_a_third_of_the_cube():
    plan = PanelPlan(5000, 384, 384)
    total = sum(plan.flops(k) for k in range(plan.count))
    np.testing.assert_allclose(total, 5000**3 / 3, rtol=1e-3)
