from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal

from ntkdist.errors import InputError, StoreError
from ntkdist.events.types import InverseBlockDone
from ntkdist.linalg import CholeskyFactor, InverseStore, factorize
from tests.linalg.matrices import SMALL, spd
from tests.linalg.stopping import StopError, stop_at

N = 450
MODES = {
    "one panel": ("2GiB", "2GiB"),
    "kept panels": (SMALL, "2GiB"),
    "streamed panels": (SMALL, "100kB"),
}


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    return spd(N, 1e4)


@pytest.fixture(scope="module")
def factors(matrix, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("factors")
    for limit, _ in MODES.values():
        factorize(matrix, root / limit, memory_limit=limit)
    return {limit: root / limit for limit, _ in MODES.values()}


@pytest.fixture(scope="module", params=MODES.values(), ids=MODES)
def factor(request, factors) -> CholeskyFactor:
    built, used = request.param
    return CholeskyFactor.open(factors[built], memory_limit=used)


@pytest.mark.slow(but="kept panels")
def test_the_inverse_is_numpys_and_symmetric_to_the_bit(factor, matrix, tmp_path):
    inverse = factor.inverse(tmp_path / "i")
    full = np.asarray(inverse)
    expected = np.linalg.inv(matrix)
    assert_allclose(full, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    assert np.abs(matrix @ full - np.eye(N)).max() <= 1e-9
    assert_array_equal(full, full.T)
    assert_array_equal(inverse.diagonal(), full.diagonal())
    assert inverse.shape == (N, N)


@pytest.mark.slow(but="one panel")
def test_columns_are_rows_in_the_order_asked_for(factor, tmp_path):
    inverse = factor.inverse(tmp_path / "i")
    full = np.asarray(inverse)
    wanted = [N - 1, 0, 7, 7, 200]
    assert_array_equal(inverse.columns(wanted), full[:, wanted])
    assert_array_equal(inverse.columns(np.array([], dtype=int)), np.zeros((N, 0)))
    assert_array_equal(inverse.rows(10, 13), full[10:13])
    assert np.asarray(inverse, dtype=np.float32).dtype == np.float32
    with pytest.raises(InputError, match="index 450 is outside"):
        inverse.columns([N])
    with pytest.raises(InputError, match="outside 0:450"):
        inverse.rows(3, 451)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(inverse, copy=False)


def test_one_row_is_one_contiguous_checksummed_read(factor, tmp_path):
    factor.inverse(tmp_path / "i")
    rows = zarr.open_array(str(tmp_path / "i" / "rows"), mode="r")
    assert rows.chunks == (1, N)
    assert "crc32c" in str(rows.metadata.to_dict()["codecs"])
    assert sorted(p.name for p in (tmp_path / "i").iterdir()) in (
        ["diagonal", "row_blocks", "rows", "zarr.json"],
        ["column_blocks", "diagonal", "row_blocks", "rows", "zarr.json"],
    )


@pytest.mark.slow
def test_by_default_it_lies_beside_the_panels_and_is_kept(factors):
    factor = CholeskyFactor.open(factors[SMALL])
    first = factor.inverse()
    assert first.url == f"{factor.url}/inverse"
    events: list = []
    factor.inverse(on_event=events.append)
    assert all(e.resumed for e in events)
    assert_array_equal(np.asarray(InverseStore.open(first.url)), np.asarray(first))


@pytest.mark.slow(but="2GiB-rows-0")
@pytest.mark.parametrize(
    ("limit", "stage", "index"),
    [
        ("2GiB", "rows", 0),  # one panel: one row block, no columns stage
        *((SMALL, stage, index) for stage in ("columns", "rows") for index in (0, 3)),
    ],
)
def test_an_interrupted_inverse_resumes_to_the_same_bits(factors, tmp_path, stage, index, limit):
    factor = CholeskyFactor.open(factors[limit], memory_limit="1MB")
    expected = np.asarray(factor.inverse(tmp_path / "whole"))
    with pytest.raises(StopError):
        factor.inverse(tmp_path / "i", on_event=stop_at(InverseBlockDone, stage=stage, index=index))
    if limit == SMALL:
        with pytest.raises(StoreError, match=r"has \d of 6 row blocks; start the inverse again"):
            InverseStore.open(tmp_path / "i")
    events: list = []
    got = factor.inverse(tmp_path / "i", on_event=events.append)
    assert_array_equal(np.asarray(got), expected)
    seen = [e for e in events if e.stage == stage]
    assert [e.index for e in seen] == list(range(len(seen)))
    assert [e.resumed for e in seen] == [e.index <= index for e in seen]


@pytest.mark.slow(but="synchronous")
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_schedulers_give_the_same_inverse(factors, tmp_path, scheduler):
    expected = CholeskyFactor.open(factors[SMALL]).inverse(tmp_path / "i")
    factor = CholeskyFactor.open(factors[SMALL], memory_limit="1MB", scheduler=scheduler)
    assert_array_equal(np.asarray(factor.inverse(tmp_path / "j")), np.asarray(expected))


@pytest.mark.slow
def test_another_factors_inverse_is_refused(matrix, tmp_path):
    factorize(matrix, tmp_path / "a").inverse(tmp_path / "i")
    other = factorize(matrix, tmp_path / "b", ridge=0.1)
    with pytest.raises(InputError, match=r"holds the inverse with factor = .*overwrite=True"):
        other.inverse(tmp_path / "i")
    got = np.asarray(other.inverse(tmp_path / "i", overwrite=True))
    shifted = matrix + other.ridge_absolute * np.eye(N)
    assert_allclose(got @ shifted, np.eye(N), atol=1e-10)


@pytest.mark.slow
def test_a_flipped_byte_in_a_row_is_named_and_repaired(factors, tmp_path):
    factor = CholeskyFactor.open(factors[SMALL])
    inverse = factor.inverse(tmp_path / "i")
    expected = np.asarray(inverse)
    shard = tmp_path / "i" / "rows" / "c" / "2" / "0"
    data = bytearray(shard.read_bytes())
    data[8 * N * 2] ^= 1
    shard.write_bytes(data)
    text = r"row block 2 of the inverse .* rows/c/2/0 fails its checksum; remove .*row_blocks/00002"
    with pytest.raises(StoreError, match=text):
        np.asarray(inverse)
    for item in (tmp_path / "i" / "row_blocks" / "00002").iterdir():
        item.unlink()
    assert_array_equal(np.asarray(factor.inverse(tmp_path / "i")), expected)


@pytest.mark.slow
def test_a_missing_row_block_is_named(factors, tmp_path):
    inverse = CholeskyFactor.open(factors[SMALL]).inverse(tmp_path / "i")
    (tmp_path / "i" / "rows" / "c" / "3" / "0").unlink()
    with pytest.raises(StoreError, match=r"row block 3 .* has no row"):
        np.asarray(inverse)


def test_nothing_there_names_the_remedy(tmp_path):
    with pytest.raises(StoreError, match="holds no inverse; compute it with"):
        InverseStore.open(tmp_path)
