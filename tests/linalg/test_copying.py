"""A factor at another place: all that is stored with it, or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ntkdist import storage
from ntkdist.errors import StoreError
from ntkdist.linalg import CholeskyFactor, InverseStore, factorize
from ntkdist.linalg.maintenance import copy_factor, drop_unfinished_copy
from tests.linalg.matrices import SMALL, spd

A = spd(60)


@pytest.fixture(params=["path", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "path" else f"memory://{tmp_path.name}/{id(request)}"


@pytest.fixture
def old(base: str) -> str:
    address = f"{base}/old"
    factorize(A, address, memory_limit=SMALL, fingerprint="mine").inverse()
    return address


def test_the_factor_comes_with_all_that_lies_beside_it(old: str, base: str) -> None:
    storage.write_text(f"{old}/later/c/0", "of a version to come")
    storage.write_text(f"{old}/.zarr.json.77-1", "half written")
    assert copy_factor(old, f"{base}/new", fingerprint="mine")
    copied = set(storage.list_objects(f"{base}/new"))
    assert copied == {name for name in storage.list_objects(old) if "77-1" not in name}
    storage.remove_all(old)
    factor = CholeskyFactor.open(f"{base}/new")
    factor.verify()
    assert factor.fingerprint == "mine"
    inverse = np.asarray(InverseStore.open(f"{base}/new/inverse"))
    np.testing.assert_allclose(inverse @ A, np.eye(len(A)), atol=1e-8)


@pytest.mark.parametrize("part", ["lower/c", "inverse/rows/c", "inverse/diagonal/c"])
def test_a_damaged_factor_is_not_spread(old: str, base: str, part: str) -> None:
    name = sorted(name for name in storage.list_objects(old) if name.startswith(part))[-1]
    content = bytearray(storage.read_bytes(f"{old}/{name}") or b"")
    content[20] ^= 1
    storage.write_bytes(f"{old}/{name}", bytes(content))
    with pytest.raises(StoreError, match=part.split("/")[-2]):
        copy_factor(old, f"{base}/new", fingerprint="mine")
    assert storage.list_objects(f"{base}/new") == []


def test_a_copy_that_was_stopped_is_no_factor_and_goes(old: str, base: str) -> None:
    count = len(storage.list_objects(old))
    calls: list[int] = []

    def stop() -> None:
        calls.append(1)
        if storage.list_objects(f"{base}/new") and len(storage.list_objects(f"{base}/new")) > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_factor(old, f"{base}/new", fingerprint="mine", between=stop)
    assert 5 < len(storage.list_objects(f"{base}/new")) < count
    with pytest.raises(StoreError):
        CholeskyFactor.open(f"{base}/new")
    drop_unfinished_copy(f"{base}/new")
    assert storage.list_objects(f"{base}/new") == []
    assert copy_factor(old, f"{base}/new", fingerprint="mine")
    drop_unfinished_copy(f"{base}/new")
    CholeskyFactor.open(f"{base}/new").verify()


def test_factors_of_other_matrices_and_unfinished_ones_stay_where_they_are(
    old: str, base: str
) -> None:
    assert not copy_factor(old, f"{base}/new", fingerprint="other")
    assert not copy_factor(f"{base}/none", f"{base}/new", fingerprint="mine")
    store = CholeskyFactor.open(old)._store
    store.forget(0)
    assert not copy_factor(old, f"{base}/new", fingerprint="mine")
    assert storage.list_objects(f"{base}/new") == []


def test_a_factor_with_appended_rows_keeps_its_own_ridge_and_stays(base: str) -> None:
    factor = factorize(A[:40, :40], f"{base}/old", memory_limit=SMALL, fingerprint="first")
    factor.append(A, fingerprint="mine")
    assert not copy_factor(f"{base}/old", f"{base}/new", fingerprint="mine")
