from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal

from ntkdist.errors import InputError, StoreError
from ntkdist.events.types import BandDone, PanelStarted
from ntkdist.linalg import CholeskyFactor, InverseStore, NotPositiveDefiniteError, factorize
from tests.linalg.matrices import SMALL, spd, upper_only
from tests.linalg.stopping import StopError, stop_at

N, M = 450, 130
MODES = {"one panel": "2GiB", "many panels": SMALL}


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    return spd(N + M, 1e4, seed=2)


def anew(matrix: np.ndarray, shift: float) -> np.ndarray:
    return matrix + shift * np.eye(len(matrix))


FORMS = {
    "array": lambda a: a,
    "upper triangle": upper_only,
    "rows": lambda a: a[N:],
    "more rows than new": lambda a: a[N - 7 :],
    "dask": lambda a: da.from_array(a, chunks=(97, 201)),
    "dask rows": lambda a: da.from_array(a[N:], chunks=(40, 201)),
}


@pytest.mark.slow(but="rows")
@pytest.mark.parametrize(
    ("form", "limit"),
    [*((form, "2GiB") for form in FORMS.values()), (FORMS["array"], SMALL), (FORMS["rows"], SMALL)],
    ids=[*FORMS, "array, many panels", "rows, many panels"],
)
def test_appended_rows_make_the_factor_of_the_larger_matrix(tmp_path, matrix, form, limit):
    small = factorize(matrix[:N, :N], tmp_path / "f", ridge=1e-3, memory_limit=limit)
    large = small.append(form(matrix))
    whole = anew(matrix, small.ridge_absolute)
    lower = np.linalg.cholesky(whole)
    assert (large.n, large.shape) == (N + M, (N + M, N + M))
    assert_allclose(large._store.whole(), lower, rtol=0, atol=1e-13)
    b = np.random.default_rng(0).standard_normal((N + M, 3))
    expected = np.linalg.solve(whole, b)
    assert_allclose(large.solve(b), expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    assert_allclose(large.logdet(), np.linalg.slogdet(whole)[1], rtol=1e-12)
    assert_allclose(large.min_pivot, np.square(np.diag(lower)).min(), rtol=1e-10)
    true = np.linalg.cond(whole, 1)
    assert true / 10 <= large.condition_estimate() <= true * (1 + 1e-6)
    large.verify()


@pytest.mark.slow(but="sizes0-one panel")
@pytest.mark.parametrize("limit", MODES.values(), ids=MODES)
@pytest.mark.parametrize("sizes", [(63, 64, 3)])
def test_bands_on_bands_equal_one_factorisation(tmp_path, matrix, sizes, limit):
    factor = factorize(matrix[:N, :N], tmp_path / "f", memory_limit=limit)
    n = N
    for size in sizes:
        n += size
        factor = factor.append(matrix[:n, :n])
    factor = CholeskyFactor.open(tmp_path / "f", memory_limit="300kB")  # streamed
    assert factor.n == n
    assert_allclose(factor._store.whole(), np.linalg.cholesky(matrix[:n, :n]), rtol=0, atol=1e-13)
    inverse = np.linalg.inv(matrix[:n, :n])
    assert_allclose(np.asarray(factor.inverse()), inverse, rtol=0, atol=1e-9)
    assert_allclose(factor.inverse_columns([0, N, n - 1]), inverse[:, [0, N, n - 1]], atol=1e-9)
    assert_allclose(factor.diagonal_of_inverse(), np.diag(inverse), rtol=1e-9)


@pytest.mark.slow
def test_a_small_limit_appends_band_by_band(tmp_path, matrix):
    factor = factorize(matrix[:N, :N], tmp_path / "f", memory_limit=SMALL)
    factor = CholeskyFactor.open(tmp_path / "f", memory_limit="600kB")
    events: list = []
    large = factor.append(matrix, on_event=events.append)
    assert len(events) > 2
    assert [e.index for e in events] == list(range(len(events)))
    assert sum(e.rows for e in events) == M
    assert [e.n for e in events] == list(N + np.cumsum([e.rows for e in events]))
    assert events[-1].fraction == 1.0
    assert all(e.gflops > 0 for e in events)
    assert_allclose(large._store.whole(), np.linalg.cholesky(matrix), rtol=0, atol=1e-13)


@pytest.mark.slow(but="array")
@pytest.mark.parametrize("form", ["array", "rows"])
def test_an_interrupted_append_goes_on_behind_the_last_band(tmp_path, matrix, form):
    for name in ("f", "undisturbed"):
        factorize(matrix[:N, :N], tmp_path / name, memory_limit=SMALL)
    factor = CholeskyFactor.open(tmp_path / "f", memory_limit="600kB")
    rows = FORMS[form](matrix)
    with pytest.raises(StopError):
        factor.append(rows, on_event=stop_at(BandDone, index=1))
    half = CholeskyFactor.open(tmp_path / "f", memory_limit="600kB")
    assert N < half.n < N + M
    assert_allclose(half.solve(np.ones(half.n)), np.linalg.solve(matrix[: half.n, : half.n],
                    np.ones(half.n)), atol=1e-9)  # fmt: skip
    with pytest.raises(InputError, match=r"is not the one that was opened; open it again"):
        factor.append(rows)
    events: list = []
    whole = half.append(rows, on_event=events.append)
    assert sum(e.rows for e in events) == N + M - half.n
    other = CholeskyFactor.open(tmp_path / "undisturbed", memory_limit="600kB").append(rows)
    assert whole.digest() == other.digest()
    nothing: list = []
    assert whole.append(rows, on_event=nothing.append).digest() == whole.digest()
    assert nothing == []


@pytest.mark.slow
def test_an_unfinished_band_counts_for_nothing(tmp_path, matrix):
    small = factorize(matrix[:N, :N], tmp_path / "f", memory_limit=SMALL)
    large = small.append(matrix)
    for item in (tmp_path / "f" / "bands" / "00000").iterdir():
        item.unlink()
    again = CholeskyFactor.open(tmp_path / "f")
    assert again.digest() == small.digest()
    assert again.n == N
    shorter = again.append(matrix[: N + 50, : N + 50])
    assert shorter.n == N + 50
    shorter.verify()
    assert again.n == N
    assert large.n == N + M


SCRIPT = """
import sys
import numpy as np
from ntkdist.linalg import CholeskyFactor
factor = CholeskyFactor.open(sys.argv[2], memory_limit="600kB")
factor.append(np.load(sys.argv[1]), on_event=lambda e: print(e.index, flush=True))
"""


@pytest.mark.slow
def test_a_killed_append_leaves_a_factor(tmp_path, matrix):
    np.save(tmp_path / "a.npy", matrix)
    for name in ("f", "undisturbed"):
        factorize(matrix[:N, :N], tmp_path / name, memory_limit=SMALL)
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "a.npy"), str(tmp_path / "f")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    found = CholeskyFactor.open(tmp_path / "f", memory_limit="600kB")
    found.verify()
    assert found.n > N
    other = CholeskyFactor.open(tmp_path / "undisturbed", memory_limit="600kB").append(matrix)
    assert found.append(matrix).digest() == other.digest()


def test_the_ridge_stays_what_it_is(tmp_path, matrix):
    a = matrix * np.outer(*[np.r_[np.ones(N), np.full(M, 3.0)]] * 2)
    small = factorize(a[:N, :N], tmp_path / "f", ridge=0.1)
    large = small.append(a)
    assert (
        large.ridge_absolute == small.ridge_absolute == pytest.approx(0.1 * np.diag(a)[:N].mean())
    )
    assert large.ridge == 0.1


def test_factorize_knows_a_grown_factor_by_its_fingerprint(tmp_path, matrix):
    factorize(matrix[:N, :N], tmp_path / "f", fingerprint="small").append(
        matrix, fingerprint="large"
    )
    events: list = []
    found = factorize(matrix, tmp_path / "f", fingerprint="large", on_event=events.append)
    assert found.n == N + M
    assert found.fingerprint == "large"
    assert not [e for e in events if isinstance(e, PanelStarted)]
    with pytest.raises(InputError, match="n = 580, and n = 450 was asked for"):
        factorize(matrix[:N, :N], tmp_path / "f", fingerprint="small")


def test_without_a_fingerprint_a_sample_is_hashed(tmp_path, matrix):
    factor = factorize(matrix[:N, :N], tmp_path / "f").append(matrix)
    assert factorize(matrix, tmp_path / "f").digest() == factor.digest()
    other = factorize(matrix[:N, :N], tmp_path / "g").append(matrix[N:])
    assert other.fingerprint.startswith("sample-sha256:")
    assert other.fingerprint != factor.fingerprint


@pytest.mark.slow
def test_the_inverse_of_the_smaller_matrix_is_dropped(tmp_path, matrix):
    small = factorize(matrix[:N, :N], tmp_path / "f")
    small.inverse()
    large = small.append(matrix)
    with pytest.raises(StoreError, match="holds no inverse"):
        InverseStore.open(tmp_path / "f" / "inverse")
    assert_allclose(np.asarray(large.inverse()), np.linalg.inv(matrix), atol=1e-9)


@pytest.mark.slow
def test_a_stale_inverse_beside_the_panels_is_replaced(tmp_path, matrix):
    """As after a kill between the band's record and the inverse's removal."""
    small = factorize(matrix[:N, :N], tmp_path / "f")
    small.inverse()
    shutil.copytree(tmp_path / "f" / "inverse", tmp_path / "kept")
    large = small.append(matrix)
    shutil.copytree(tmp_path / "kept", tmp_path / "f" / "inverse")
    assert_allclose(np.asarray(large.inverse()), np.linalg.inv(matrix), atol=1e-9)


@pytest.mark.parametrize("loss", ["flipped", "missing"])
def test_lost_column_sums_are_said(tmp_path, matrix, loss):
    factor = factorize(matrix[:N, :N], tmp_path / "f")
    chunk = tmp_path / "f" / "column_sums" / "c" / "0"
    data = bytearray(chunk.read_bytes())
    chunk.unlink()
    if loss == "flipped":
        data[40] ^= 1
        chunk.write_bytes(data)
    with pytest.raises(StoreError, match=r"column sums .* cannot be read.*overwrite=True"):
        factor.append(matrix)
    assert_allclose(factor.solve(np.ones(N)), CholeskyFactor.open(factor.url).solve(np.ones(N)))


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (np.ones((5, 7)), r"shape \(5, 7\); the factor has 450 rows, so pass the larger"),
        (np.ones((10, N + 11)), "or its last m rows"),
        (np.ones((N + 3, N + 2)), "or its last m rows"),
        (np.ones(N + 1), "or its last m rows"),
        (np.ones((1, N + 1), dtype=complex), "dtype complex128; pass real numbers"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, matrix, bad, text):
    factor = factorize(matrix[:N, :N], tmp_path / "f")
    with pytest.raises(InputError, match=text):
        factor.append(bad)
    assert CholeskyFactor.open(tmp_path / "f").digest() == factor.digest()


@pytest.mark.parametrize(("row", "col"), [(3, N + 4), (N + 4, N + 9), (N + 5, N + 5)])
def test_an_entry_that_is_not_finite_is_named(tmp_path, matrix, row, col):
    factor = factorize(matrix[:N, :N], tmp_path / "f")
    bad = upper_only(matrix)
    bad[row, col] = np.inf
    with pytest.raises(InputError, match=rf"entry \({row}, {col}\) .* is inf"):
        factor.append(bad)
    assert CholeskyFactor.open(tmp_path / "f").digest() == factor.digest()


def test_rows_that_are_not_symmetric_are_named(tmp_path, matrix):
    factor = factorize(matrix[:N, :N], tmp_path / "f")
    bad = matrix.copy()
    bad[N + 3, N + 8] += 1.0
    with pytest.raises(InputError, match=rf"entry \({N + 3}, {N + 8}\) .* is not symmetric"):
        factor.append(bad)


def test_an_image_that_is_there_already_is_named(tmp_path, matrix):
    factor = factorize(matrix[:N, :N], tmp_path / "f")
    rows = np.append(matrix[7, :N], matrix[7, 7])[None] * (1 + 1e-9)
    rows[0, N] = matrix[7, 7] * (1 - 1e-9)
    with pytest.raises(NotPositiveDefiniteError, match=rf"pivot {N} is .*equals an earlier") as e:
        factor.append(rows)
    assert (e.value.pivot, e.value.exit_code) == (N, 1)
    assert CholeskyFactor.open(tmp_path / "f").digest() == factor.digest()


def test_too_little_memory_for_a_row_is_said(tmp_path, matrix):
    factorize(matrix[:N, :N], tmp_path / "f", memory_limit=SMALL)
    factor = CholeskyFactor.open(tmp_path / "f", memory_limit="10kB")
    with pytest.raises(InputError, match=r"raise memory_limit to at least \d+ bytes"):
        factor.append(matrix)


@pytest.mark.slow(but="flipped")
@pytest.mark.parametrize("loss", ["flipped", "missing"])
def test_damage_in_a_band_is_named_and_repaired(tmp_path, matrix, loss):
    factorize(matrix[:N, :N], tmp_path / "f", memory_limit=SMALL)
    expected = CholeskyFactor.open(tmp_path / "f").append(matrix).digest()
    chunk = tmp_path / "f" / "added" / "00001" / "00002" / "c" / "1" / "0"
    data = bytearray(chunk.read_bytes())
    chunk.unlink()
    if loss == "flipped":
        data[40] ^= 1
        chunk.write_bytes(data)
    text = r"panel 2 of the factor .*: added/00001/00002/c/1/0 .*remove .*bands/00000 and start the"
    for use in (lambda f: f.solve(np.ones(N + M)), lambda f: f.verify()):
        with pytest.raises(StoreError, match=text):
            use(CholeskyFactor.open(tmp_path / "f"))
    for item in (tmp_path / "f" / "bands" / "00000").iterdir():
        item.unlink()
    again = CholeskyFactor.open(tmp_path / "f").append(matrix)
    assert again.digest() == expected


def test_a_chunk_swapped_in_a_band_is_found_by_verify(tmp_path, matrix):
    factorize(matrix[:N, :N], tmp_path / "f", memory_limit=SMALL)
    factor = CholeskyFactor.open(tmp_path / "f").append(matrix)
    folder = tmp_path / "f" / "added" / "00001"
    (folder / "00002" / "c" / "1" / "0").write_bytes(
        (folder / "00003" / "c" / "1" / "0").read_bytes()
    )
    with pytest.raises(StoreError, match=r"added/00001/00002 differs from the sha256"):
        factor.verify()


@pytest.mark.slow
def test_damage_below_a_band_takes_the_band_along(tmp_path, matrix):
    factorize(matrix[:N, :N], tmp_path / "f", memory_limit=SMALL).append(matrix)
    for item in (tmp_path / "f" / "panels" / "00003").iterdir():
        item.unlink()
    with pytest.raises(StoreError, match="has 3 of 6 panels"):
        CholeskyFactor.open(tmp_path / "f")
    again = factorize(matrix[:N, :N], tmp_path / "f", memory_limit=SMALL)
    assert again.n == N
    assert_array_equal(zarr.open_array(str(tmp_path / "f" / "lower"), mode="r").shape, (N, N))
    assert again.append(matrix).n == N + M
