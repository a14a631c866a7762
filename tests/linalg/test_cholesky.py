from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from zarr.codecs import Crc32cCodec

from ntkdist.errors import InputError, StoreError
from ntkdist.events.types import PanelDone, PanelStarted
from ntkdist.linalg import CholeskyFactor, factorize
from tests.linalg.matrices import SMALL, spd, upper_only, whole_factor

MODES = {"one panel": "2GiB", "many panels": SMALL}


@pytest.mark.slow(but="577-10000000000.0-1e-07-one panel")
@pytest.mark.parametrize("limit", MODES.values(), ids=MODES)
@pytest.mark.parametrize(
    ("n", "condition", "rtol"), [(301, 1e2, 1e-13), (500, 1e6, 1e-11), (577, 1e10, 1e-7)]
)
def test_the_factor_is_lapacks(tmp_path, n, condition, rtol, limit):
    a = spd(n, condition)
    factor = factorize(a, tmp_path / "f", memory_limit=limit)
    assert (factor.panel_count > 1) == (limit == SMALL)
    expected = np.linalg.cholesky(a)
    assert np.abs(whole_factor(factor) - expected).max() <= rtol * np.abs(expected).max()
    assert (factor.n, factor.shape, factor.ridge) == (n, (n, n), 0.0)


@pytest.mark.parametrize("n", [1, 2, 3, 65])
def test_tiny_matrices_have_a_factor(tmp_path, n):
    a = spd(n, 10.0) if n > 1 else np.array([[4.0]])
    assert_allclose(whole_factor(factorize(a, tmp_path / "f")), np.linalg.cholesky(a), atol=1e-14)


@pytest.mark.slow(but="449")
@pytest.mark.parametrize("n", [448, 449, 511, 320])
def test_many_panels_equal_one(tmp_path, n):
    a = spd(n, 1e3)
    one = whole_factor(factorize(a, tmp_path / "one"))
    many = factorize(a, tmp_path / "many", memory_limit=SMALL)
    assert many.panel_count >= 4
    assert np.abs(whole_factor(many) - one).max() <= 1e-12 * np.abs(one).max()


@pytest.mark.parametrize("limit", MODES.values(), ids=MODES)
def test_only_the_upper_triangle_is_used(tmp_path, limit):
    a = spd(350)
    full = factorize(a, tmp_path / "full", memory_limit=limit)
    half = factorize(upper_only(a), tmp_path / "half", memory_limit=limit)
    assert half.digest() == full.digest()
    assert half.fingerprint == full.fingerprint


class Sliceable:
    """The least that is asked of a matrix."""

    def __init__(self, a: np.ndarray) -> None:
        self.a, self.shape, self.dtype = a, a.shape, a.dtype

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        rows, cols = key
        assert rows.step is None
        assert cols.stop > rows.start  # never asked for a part below the diagonal
        return self.a[key]


def zarr_of(a, tmp_path, edge):
    z = zarr.create_array(
        str(tmp_path / "gram"), shape=a.shape, chunks=(edge, edge), dtype=a.dtype,
        fill_value=np.nan, compressors=[Crc32cCodec()],
    )  # fmt: skip
    z[:] = a
    return z


@pytest.mark.slow(but="object-one panel")
@pytest.mark.parametrize("limit", MODES.values(), ids=MODES)
@pytest.mark.parametrize("kind", ["zarr", "large zarr chunks", "dask", "object"])
def test_any_array_gives_the_same_factor(tmp_path, kind, limit):
    a = upper_only(spd(333, 1e3)).astype(np.float32)
    given = {
        "zarr": lambda: zarr_of(a, tmp_path, 47),
        "large zarr chunks": lambda: zarr_of(a, tmp_path, 210),
        "dask": lambda: da.from_array(a, chunks=(50, 90)),
        "object": lambda: Sliceable(a),
    }[kind]()
    expected = factorize(a, tmp_path / "numpy", memory_limit=limit)
    got = factorize(given, tmp_path / "f", memory_limit=limit)
    assert got.digest() == expected.digest()
    wide = np.triu(a).astype(np.float64)
    full = wide + np.triu(wide, 1).T
    assert_allclose(whole_factor(got), np.linalg.cholesky(full), atol=1e-13)


@pytest.mark.slow(but="threads-one panel")
@pytest.mark.parametrize("limit", MODES.values(), ids=MODES)
@pytest.mark.parametrize(
    "scheduler",
    ["threads", dask.get, None],
)
def test_schedulers_give_the_same_bits(tmp_path, limit, scheduler):
    a = spd(400)
    expected = factorize(a, tmp_path / "s", memory_limit=limit, scheduler="synchronous")
    got = factorize(a, tmp_path / "f", memory_limit=limit, scheduler=scheduler)
    assert got.digest() == expected.digest()


@pytest.mark.slow
def test_a_distributed_client_gives_the_same_bits(tmp_path):
    from distributed import Client

    a = spd(400)
    expected = factorize(a, tmp_path / "s", memory_limit=SMALL)
    with Client(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None,
        set_as_default=False,
    ) as client:  # fmt: skip
        got = factorize(a, tmp_path / "f", memory_limit=SMALL, scheduler=client)
        lazy = da.from_array(a, chunks=100)
        by_dask = factorize(lazy, tmp_path / "g", memory_limit=SMALL, scheduler=client)
    assert got.digest() == by_dask.digest() == expected.digest()


def test_an_unknown_scheduler_is_named(tmp_path):
    with pytest.raises(InputError, match=r"scheduler 'thread' is not known.*did you mean"):
        factorize(spd(5), tmp_path / "f", scheduler="thread")
    assert not (tmp_path / "f").exists()


@pytest.mark.slow
def test_the_store_is_checksummed_square_chunks_of_the_panels(tmp_path):
    factor = factorize(spd(450), tmp_path / "f", memory_limit=SMALL)
    lower = zarr.open_array(str(tmp_path / "f" / "lower"), mode="r")
    assert lower.dtype == np.float64
    assert lower.chunks[0] == lower.chunks[1]
    assert factor.panel_width % lower.chunks[0] == 0
    assert "crc32c" in [codec["name"] for codec in lower.metadata.to_dict()["codecs"]]
    keys = {p.name for p in (tmp_path / "f" / "lower" / "c" / "0").iterdir()}
    assert keys == {"0"}  # nothing is written above the diagonal
    attributes = dict(zarr.open_group(str(tmp_path / "f"), mode="r").attrs)
    assert attributes["n"] == 450
    assert attributes["panel_width"] == factor.panel_width
    assert attributes["schema"] == 2


def test_events_count_the_panels_and_their_share(tmp_path):
    events: list = []
    factor = factorize(spd(450), tmp_path / "f", memory_limit=SMALL, on_event=events.append)
    count = factor.panel_count
    assert [type(e) for e in events] == [PanelStarted, PanelDone] * count
    done = events[1::2]
    assert [e.index for e in done] == list(range(count))
    assert all(e.count == count and not e.resumed and e.gflops > 0 for e in done)
    assert [e.fraction for e in done] == sorted(e.fraction for e in done)
    assert done[-1].fraction == pytest.approx(1.0)


def test_the_ridge_is_relative_to_the_mean_of_the_diagonal(tmp_path):
    a = 7.0 * spd(310)
    factor = factorize(a, tmp_path / "f", ridge=0.25, memory_limit=SMALL)
    shift = 0.25 * np.diag(a).mean()
    assert_allclose(factor.ridge_absolute, shift)
    lower = whole_factor(factor)
    assert_allclose(lower @ lower.T, a + shift * np.eye(310), atol=1e-13)


@pytest.mark.parametrize("url", ["nested/run/factor", "memory://linalg-tests/factor", "file"])
def test_factors_live_in_folders_groups_and_urls(tmp_path, url):
    a = spd(310)
    if url == "nested/run/factor":
        zarr.create_group(str(tmp_path / "nested" / "run"), attributes={"mine": 1})
    place = {"file": f"file://{tmp_path}/f"}.get(url, url if "://" in url else tmp_path / url)
    factor = factorize(a, place, memory_limit=SMALL, overwrite=True)
    assert_allclose(CholeskyFactor.open(place).solve(a), np.eye(310), atol=1e-10)
    assert factor.url == str(place).removeprefix("file://")
    if url == "nested/run/factor":
        run = zarr.open_group(str(tmp_path / "nested" / "run"), mode="r")
        assert dict(run.attrs) == {"mine": 1}
        assert run["factor/lower"].shape == (310, 310)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (np.zeros((3, 4)), r"shape \(3, 4\); it must be square"),
        (np.zeros((0, 0)), r"shape \(0, 0\); it must be square \(N, N\) with N >= 1"),
        (np.zeros(5), "it must be square"),
        (np.eye(3, dtype=complex), "dtype complex128; pass real numbers"),
    ],
)
def test_what_is_no_real_square_matrix_is_refused(tmp_path, bad, text):
    with pytest.raises(InputError, match=text):
        factorize(bad, tmp_path / "f")
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("ridge", [-1e-3, float("nan"), float("inf"), "0.1", None])
def test_a_ridge_that_is_no_number_is_refused(tmp_path, ridge):
    with pytest.raises(InputError, match=r"ridge=.* must be at least 0 and at most 1e"):
        factorize(np.eye(3), tmp_path / "f", ridge=ridge)


@pytest.mark.parametrize("limit", MODES.values(), ids=MODES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_entry_that_is_not_finite_is_named(tmp_path, limit, value):
    a = spd(400)
    for row, col in [(390, 395), (170, 399), (170, 201), (200, 200)]:
        a[row, col] = value
    a[399, 0] = np.nan  # below the diagonal: not read
    with pytest.raises(InputError, match=rf"entry \(170, 201\) .* is {value}; a missing"):
        factorize(a, tmp_path / "f", memory_limit=limit)
    assert not (tmp_path / "f").exists()


def test_a_matrix_that_loses_an_entry_on_the_way_leaves_nothing(tmp_path):
    a = spd(450)

    def lose(event: object) -> None:
        if isinstance(event, PanelDone) and event.index == 1:
            a[300, 420] = np.nan

    with pytest.raises(InputError, match=r"entry \(300, 420\)"):
        factorize(a, tmp_path / "f", memory_limit=SMALL, on_event=lose)
    with pytest.raises(StoreError, match="holds no factor"):
        CholeskyFactor.open(tmp_path / "f")


def test_a_limit_that_is_too_small_names_the_number_and_the_knob(tmp_path):
    with pytest.raises(InputError, match=r"N = 3000; raise memory_limit to at least \d+ bytes"):
        factorize(np.eye(3000), tmp_path / "f", memory_limit="1MB")
    assert not (tmp_path / "f").exists()


def test_a_damaged_source_is_named(tmp_path):
    a = spd(300)
    z = zarr_of(a, tmp_path, 100)
    chunk = tmp_path / "gram" / "c" / "1" / "2"
    data = bytearray(chunk.read_bytes())
    data[40] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(StoreError, match=r"rows 100:200 and columns 299:300 .*checksum"):
        factorize(z, tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_an_unwritable_place_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be written"):
        factorize(np.eye(3), tmp_path / "file" / "f")
    assert (tmp_path / "file").read_text() == "mine"


def test_solutions_of_the_two_modes_agree(tmp_path):
    a, b = spd(400), np.ones(400)
    x = [factorize(a, tmp_path / m, memory_limit=MODES[m]).solve(b) for m in MODES]
    assert_allclose(*x, rtol=1e-10)
    assert_array_equal(x[0].shape, (400,))
