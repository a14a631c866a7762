"""What is wrong with a matrix or its store is said, and nothing half-written counts as done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr

from ntkdist.errors import InputError, StoreError
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.linalg import CholeskyFactor, cg_solve, factorize, top_eigenpairs
from tests.disks import fill_up
from tests.linalg.matrices import SMALL, spd, stored_bytes

N = 450
MODES = {"one panel": "2GiB", "many panels": SMALL}


def stored(a: np.ndarray, place: Path, *, fill: float = np.nan, triangle: bool = False):
    array = zarr.create_array(
        str(place), shape=a.shape, chunks=(100, 100), dtype=a.dtype, fill_value=fill
    )
    for r in range(0, len(a), 100):
        array[r : r + 100, r if triangle else 0 :] = a[r : r + 100, r if triangle else 0 :]
    return array


@pytest.mark.slow(but="memory-120-430-many panels")
@pytest.mark.parametrize("limit", MODES.values(), ids=MODES)
@pytest.mark.parametrize(("row", "col"), [(3, 7), (120, 430), (449, 448)])
@pytest.mark.parametrize("kind", ["memory", "zarr"])
def test_an_asymmetric_matrix_is_named(tmp_path, row, col, kind, limit):
    a = spd(N)
    a[row, col] += 0.25
    given = a if kind == "memory" else stored(a, tmp_path / "a")
    low, high = sorted((row, col))
    text = rf"entry \({low}, {high}\) of the matrix is .* and its mirror image \({high}, {low}\) is"
    with pytest.raises(InputError, match=text + ".*not symmetric") as caught:
        factorize(given, tmp_path / "f", memory_limit=limit)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "f").exists()


def test_rounding_is_no_asymmetry(tmp_path):
    a = spd(N).astype(np.float32)
    noise = 1 + 1e-6 * np.random.default_rng(0).standard_normal(a.shape)
    factor = factorize((a * noise).astype(np.float32), tmp_path / "f")
    assert factor.n == N


@pytest.mark.slow(but="one panel-0.0")
@pytest.mark.parametrize("fill", [np.nan, 0.0])
@pytest.mark.parametrize("limit", MODES.values(), ids=MODES)
def test_a_lower_triangle_that_was_never_stored_is_none(tmp_path, fill, limit):
    a = spd(N)
    given = stored(a, tmp_path / "a", fill=fill, triangle=True)
    expected = factorize(a, tmp_path / "e", memory_limit=limit)
    assert factorize(given, tmp_path / "f", memory_limit=limit).digest() == expected.digest()
    upper = np.triu(a) if fill == 0 else np.where(np.tri(N, k=-1) > 0, np.nan, a)
    assert factorize(upper, tmp_path / "g", memory_limit=limit).digest() == expected.digest()


def test_the_diagonal_tiles_of_a_lazy_array_are_compared(tmp_path):
    a = spd(N)
    a[20, 10] += 1.0
    with pytest.raises(InputError, match=r"entry \(10, 20\).*not symmetric"):
        factorize(da.from_array(a, chunks=100), tmp_path / "f")


@pytest.fixture
def gram(tmp_path) -> GramStore:
    a = spd(N).astype(np.float32)
    tiling = Tiling(N, 90)
    store = GramStore.create(str(tmp_path / "gram"), tiling, fingerprint="x", kind="ntk")
    for i in range(5):
        for j in range(i, 5):
            key = TileKey(i, j)
            store.write(key, a[tiling.slices(key)])
    return store


USES = {
    "factorize": lambda a, url: factorize(a, url),
    "cg_solve": lambda a, url: cg_solve(a, np.ones(N), url=url),
    "cg_solve, no sketch": lambda a, url: cg_solve(a, np.ones(N), url=url, rank=0),
    "top_eigenpairs": lambda a, url: top_eigenpairs(a, 2),
    "solve": lambda a, url: factorize(np.eye(N), url).solve(np.ones(N), matrix=a),
}


@pytest.mark.slow(but="factorize")
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_missing_tile_is_named_by_its_key(gram, tmp_path, use):
    gram.remove(TileKey(1, 3))
    text = r"tile r0001c0003 of ntk is missing .* compute it with: ntkdist gram RUN"
    with pytest.raises(StoreError, match=text):
        use(gram, tmp_path / "f")


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_missing_tile_of_a_plain_array_is_an_entry_that_is_no_number(tmp_path, use):
    given = stored(spd(N), tmp_path / "a", triangle=True)
    (tmp_path / "a" / "c" / "1" / "3").unlink()
    with pytest.raises(InputError, match=r"entry \(100, 300\) .* is nan; a missing or failed tile"):
        use(given, tmp_path / "f")


@pytest.mark.slow
def test_a_tile_lost_between_two_panels_is_named(gram, tmp_path):
    def lose(event: object) -> None:
        if type(event).__name__ == "PanelDone" and event.index == 1:  # type: ignore[attr-defined]
            gram.remove(TileKey(3, 4))

    with pytest.raises(StoreError, match="tile r0003c0004 of ntk is missing"):
        factorize(gram, tmp_path / "f", memory_limit=SMALL, on_event=lose)
    with pytest.raises(StoreError, match=r"has \d of \d panels"):
        CholeskyFactor.open(tmp_path / "f")


# -- a full disk ------------------------------------------------------------------


@pytest.mark.slow(but="30000")
@pytest.mark.parametrize("leave", [0, 30_000, 200_000, 500_000])
def test_a_full_disk_is_said_and_room_lets_it_go_on(tmp_path, small_disk, leave):
    a = spd(300)
    expected = factorize(a, tmp_path / "e", memory_limit="1.3MB")
    ballast = fill_up(small_disk, leave)
    url = small_disk / "f"
    with pytest.raises((StoreError, InputError), match=r"No space left on device"):
        factorize(a, url, memory_limit="1.3MB")
    with pytest.raises(StoreError, match=r"holds no factor|panels; start the factorisation again"):
        CholeskyFactor.open(url)
    ballast.unlink()
    factor = factorize(a, url, memory_limit="1.3MB")
    assert factor.digest() == expected.digest()
    assert stored_bytes(url) == stored_bytes(tmp_path / "e")
    factor.verify()


def test_a_full_disk_keeps_the_smaller_factor(tmp_path, small_disk):
    a = spd(320)
    small = factorize(a[:290, :290], small_disk / "f", memory_limit="1.3MB")
    ballast = fill_up(small_disk, 20_000)
    with pytest.raises(StoreError, match="No space left on device"):
        small.append(a)
    assert CholeskyFactor.open(small_disk / "f").digest() == small.digest()
    ballast.unlink()
    small.append(a).verify()


SCRIPT = """
import resource, signal, sys
import numpy as np
from ntkdist.errors import NtkdistError
from ntkdist.linalg import factorize
a = np.load(sys.argv[1])
factorize(a, sys.argv[2] + "-first")  # whatever is imported on the way
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    factorize(a, sys.argv[2], memory_limit=sys.argv[3])
except NtkdistError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.slow
def test_a_file_size_limit_is_said(tmp_path):
    """What a full disk or a quota does, without a file system of its own: writes fail."""
    np.save(tmp_path / "a.npy", spd(300))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "a.npy"), str(tmp_path / "f"), "1.3MB"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # a cut one would be read later
    )
    assert done.returncode == 1, done.stderr
    assert "writing panel 0 to" in done.stdout
    assert "File too large; free space or repair the store, then start" in done.stdout
    with pytest.raises(StoreError, match="has 0 of"):
        CholeskyFactor.open(tmp_path / "f")
    a = np.load(tmp_path / "a.npy")
    factorize(a, tmp_path / "f", memory_limit="1.3MB").verify()
