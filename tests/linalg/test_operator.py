from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal

from ntkdist.errors import InputError, StoreError
from ntkdist.linalg.matrix import KeptSource, Source, SymmetricOperator
from ntkdist.linalg.status import check_vectors
from ntkdist.linalg.tasks import task_runner
from tests.linalg.matrices import spd, upper_only

GIB = 1 << 30


def multiply(a, x, *, scheduler=None, limit=GIB, **options):
    with task_runner(scheduler) as run:
        operator = SymmetricOperator(Source(a), run, memory_limit=limit, **options)
        y = operator(x)
        assert operator.passes == 1
    return y


def stored(a, tmp_path, edge):
    z = zarr.create_array(
        str(tmp_path / "gram"), shape=a.shape, chunks=(edge, edge), dtype=a.dtype, fill_value=np.nan
    )
    z[:] = a
    return z


@pytest.mark.parametrize("n", [1, 7, 300, 1025, 2300])
@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_a_product_is_numpys(n, shape):
    a = np.random.default_rng(0).standard_normal((n, n))
    a = a + a.T
    x = np.random.default_rng(1).standard_normal((n, *shape))
    y = multiply(upper_only(a), x)
    assert y.shape == x.shape
    assert_allclose(y, a @ x, rtol=0, atol=1e-12 * n)


@pytest.mark.slow(but="1073741824-1100")
@pytest.mark.parametrize("edge", [47, 100, 1100])
@pytest.mark.parametrize("limit", [GIB, 300_000])
def test_stored_tiles_give_the_same_product(tmp_path, edge, limit):
    a = spd(700, 1e3).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((700, 4))
    y = multiply(stored(upper_only(a), tmp_path, edge), x, limit=limit)
    assert_allclose(y, a.astype(float) @ x, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_dask_arrays_are_computed_tile_by_tile():
    a = spd(500)
    x = np.ones((500, 2))
    assert_allclose(multiply(da.from_array(a, chunks=120), x), a @ x, atol=1e-13)


@pytest.mark.slow(but="get_sync")
@pytest.mark.parametrize("scheduler", ["synchronous", "threads", dask.get])
def test_schedulers_give_the_same_bits(tmp_path, scheduler):
    z = stored(spd(900), tmp_path, 60)
    x = np.random.default_rng(1).standard_normal((900, 5))
    limit = 2_000_000
    expected = multiply(z, x, scheduler="synchronous", limit=limit)
    assert_array_equal(multiply(z, x, scheduler=scheduler, limit=limit), expected)


def test_a_centred_product_is_that_of_the_centred_matrix():
    n = 400
    a = spd(n)
    x = np.random.default_rng(1).standard_normal((n, 3))
    c = np.eye(n) - 1 / n
    assert_allclose(multiply(a, x, centered=True), c @ a @ c @ x, atol=1e-13)
    with task_runner(None) as run:
        operator = SymmetricOperator(Source(a), run, memory_limit=GIB, centered=True)
        assert_allclose(operator.mean_of_sums(), a.sum() / n)


class Counted:
    """Counts how often each region is read."""

    def __init__(self, a: np.ndarray) -> None:
        self.a, self.shape, self.dtype, self.reads = a, a.shape, a.dtype, 0

    def __getitem__(self, key):
        self.reads += 1
        return self.a[key].copy()


def test_what_fits_is_read_once_and_what_does_not_each_time():
    a = Counted(spd(600))
    with task_runner("synchronous") as run:
        for limit, factor in ((GIB, 1), (600 * 600 * 8, 3)):
            operator = SymmetricOperator(Source(a), run, memory_limit=limit)
            a.reads = 0
            operator(np.ones(600))
            once = a.reads
            operator(np.ones(600))
            operator(np.ones(600))
            assert a.reads == factor * once


def test_what_is_kept_stays_in_its_process():
    import pickle

    kept = KeptSource(Source(Counted(spd(60))))
    first = kept.raw(0, 10, 0, 60)
    assert kept.raw(0, 10, 0, 60) is first
    there = pickle.loads(pickle.dumps(kept))
    assert_array_equal(there.raw(0, 10, 0, 60), first)
    assert there.raw(0, 10, 0, 60) is not there.raw(0, 10, 0, 60)


def test_a_damaged_tile_is_named(tmp_path):
    from zarr.codecs import Crc32cCodec

    a = spd(300)
    z = zarr.create_array(
        str(tmp_path / "g"), shape=a.shape, chunks=(100, 100), dtype="f8",
        compressors=[Crc32cCodec()],
    )  # fmt: skip
    z[:] = a
    chunk = tmp_path / "g" / "c" / "1" / "2"
    data = bytearray(chunk.read_bytes())
    data[40] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match=r"could not be read.*checksum"):
        multiply(z, np.ones(300))


@pytest.mark.parametrize(
    ("b", "text"),
    [
        (np.ones(4), r"shape \(4,\); it must be \(3,\) or \(3, K\)"),
        (np.ones((3, 1, 1)), "it must be"),
        ([1.0, np.inf, 2.0], r"entry \(1, 0\) of the right-hand side is inf"),
    ],
)
def test_unfit_vectors_are_refused(b, text):
    with pytest.raises(InputError, match=text):
        check_vectors(b, 3)
