from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr

from ntkdist.errors import InputError, StoreError
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey, Tiling

N, EDGE = 50, 12  # a ragged last tile of 2


def symmetric(n: int = N, seed: int = 0) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(n, n)).astype("f4")
    return a + a.T


def filled(address: str, matrix: np.ndarray, *, n_cols: int | None = None) -> GramStore:
    tiling = Tiling(len(matrix), EDGE, n_cols)
    store = GramStore.create(address, tiling, fingerprint="f1", kind="ntk")
    for key in tiling.keys():  # noqa: SIM118
        store.write(key, matrix[tiling.slices(key)])
    return store


@pytest.fixture
def matrix() -> np.ndarray:
    return symmetric()


@pytest.fixture
def store(tmp_path: Path, matrix: np.ndarray) -> GramStore:
    return filled(str(tmp_path / "gram" / "ntk"), matrix)


@pytest.fixture(params=["path", "file://", "memory://"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory://":
        return f"memory://{tmp_path.name}-{id(tmp_path)}/gram/ntk"
    prefix = "" if request.param == "path" else request.param
    return f"{prefix}{tmp_path}/gram/ntk"


def test_round_trip_is_exact_and_symmetric(address: str, matrix: np.ndarray) -> None:
    filled(address, matrix)
    store = GramStore.open(address, fingerprint="f1")
    np.testing.assert_array_equal(store[:, :], matrix)
    assert store.done() == set(store.tiling.keys())
    assert store.missing() == []
    assert (store.shape, store.ndim, store.dtype) == ((N, N), 2, np.float32)


def test_only_the_upper_triangle_is_stored(store: GramStore) -> None:
    assert len(list(Path(store.address, "c").rglob("*/*"))) == store.tiling.count == 15


def test_tiles_are_compressed_and_checksummed(store: GramStore) -> None:
    metadata = json.loads(Path(store.address, "zarr.json").read_text())
    assert [codec["name"] for codec in metadata["codecs"]] == ["bytes", "blosc", "crc32c"]
    assert metadata["codecs"][1]["configuration"]["shuffle"] == "bitshuffle"
    assert metadata["fill_value"] == "NaN"
    assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == [EDGE, EDGE]


@pytest.mark.parametrize(
    "index",
    [
        np.s_[5:40, 3:30],
        np.s_[3],
        np.s_[-1, 2],
        np.s_[:, 7],
        np.s_[::-3, 40:2:-5],
        np.s_[[3, 49, 7, 7], 10:20],
        np.s_[10:20, [30, 2]],
        np.s_[..., np.arange(N) % 7 == 0],
        np.s_[20:20, :],
    ],
)
def test_indexing_is_that_of_the_full_matrix(
    store: GramStore, matrix: np.ndarray, index: object
) -> None:
    np.testing.assert_array_equal(store[index], matrix[index])  # type: ignore[index]


def test_two_index_arrays_select_rows_and_columns(store: GramStore, matrix: np.ndarray) -> None:
    rows, cols = [40, 3, 3], [1, 30]
    np.testing.assert_array_equal(store[rows, cols], matrix[np.ix_(rows, cols)])


@pytest.mark.parametrize("index", [N, np.s_[0, -N - 1], "a", np.s_[0, 0, 0], np.s_[[0.5]]])
def test_bad_index_is_refused(store: GramStore, index: object) -> None:
    with pytest.raises(InputError):
        store[index]


def test_block_left_of_the_diagonal_is_the_mirror(store: GramStore, matrix: np.ndarray) -> None:
    np.testing.assert_array_equal(store.block(3, 1), matrix[36:48, 12:24])
    np.testing.assert_array_equal(store.diagonal(), np.diagonal(matrix))


def test_rectangular_matrix_keeps_all_tiles(tmp_path: Path) -> None:
    matrix = np.random.default_rng(1).normal(size=(20, 33)).astype("f4")
    store = filled(str(tmp_path / "cross"), matrix, n_cols=33)
    np.testing.assert_array_equal(store[:, :], matrix)
    np.testing.assert_array_equal(store.block(1, 0), matrix[12:, :12])
    with pytest.raises(StoreError, match="no diagonal"):
        store.diagonal()


def test_dask_view_equals_numpy(store: GramStore, matrix: np.ndarray) -> None:
    view = store.to_dask()
    assert view.chunks == ((12, 12, 12, 12, 2),) * 2
    np.testing.assert_array_equal(view.compute(scheduler="threads"), matrix)
    np.testing.assert_array_equal(view[7:30, ::2].compute(), matrix[7:30, ::2])
    np.testing.assert_allclose((view @ view).compute(), matrix @ matrix, rtol=1e-4, atol=1e-4)


def test_store_travels_to_other_processes(store: GramStore, matrix: np.ndarray) -> None:
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store))[:, :], matrix)


def test_diagonal_tile_is_symmetric_to_the_bit(tmp_path: Path) -> None:
    store = GramStore.create(str(tmp_path / "g"), Tiling(6, 6), fingerprint="f", kind="ntk")
    block = np.random.default_rng(2).normal(size=(6, 6))
    store.write(TileKey(0, 0), block)
    read = store.block(0, 0)
    np.testing.assert_array_equal(read, read.T)
    np.testing.assert_array_equal(np.triu(read), np.triu(block.astype("f4")))


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        (TileKey(1, 2), (5, 12), "tile r0001c0002 of ntk has shape .12, 12."),
        (TileKey(2, 1), (12, 12), "below the diagonal.*mirror r0001c0002"),
        (TileKey(0, 9), (12, 12), "r0000c0009 lies outside"),
        (TileKey(0, 4), (12, 12), "has shape .12, 2."),
    ],
)
def test_write_that_is_not_a_tile_is_refused(
    store: GramStore, matrix: np.ndarray, key: TileKey, shape: tuple[int, int], message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        store.write(key, np.zeros(shape))
    np.testing.assert_array_equal(store[:, :], matrix)


def test_write_not_aligned_to_the_grid_is_refused(store: GramStore) -> None:
    store.write_at(slice(0, 12), slice(48, 50), np.ones((12, 2)))
    assert (store.block(0, 4) == 1).all()
    with pytest.raises(StoreError, match="not one tile of ntk; the nearest is r0000c0001"):
        store.write_at(slice(0, 12), slice(13, 25), np.ones((12, 12)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_entries_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    store = GramStore.create(str(tmp_path / "g"), Tiling(6, 3), fingerprint="f", kind="nngp")
    block = np.ones((3, 3))
    block[1, 2] = value
    with pytest.raises(StoreError, match="r0000c0001 of nngp: 1 of 9 entries"):
        store.write(TileKey(0, 1), block)
    assert store.done() == set()


def test_missing_tile_is_named(store: GramStore) -> None:
    store.remove(TileKey(1, 3))
    store.remove(TileKey(1, 3))
    assert store.missing() == [TileKey(1, 3)]
    with pytest.raises(StoreError, match=r"tile r0001c0003 of ntk is missing \(.*c/1/3\)"):
        store.block(3, 1)
    with pytest.raises(StoreError, match="r0001c0003"):
        store.to_dask().sum().compute()


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "header"])
def test_damaged_tile_is_named_and_can_be_restored(
    store: GramStore, matrix: np.ndarray, damage: str
) -> None:
    key = TileKey(0, 2)
    path = Path(store.path_of(key))
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 4
    bad = {"flip": bytes(flipped), "truncate": good[:50], "empty": b"", "header": good[:2]}[damage]
    path.write_bytes(bad)
    with pytest.raises(StoreError) as caught:
        store[0, 30]
    for part in ("r0000c0002", "of ntk is corrupt", str(path), "ntkdist gram RUN --recompute"):
        assert part in str(caught.value)
    store.remove(key)
    assert store.missing() == [key]
    store.write(key, matrix[store.tiling.slices(key)])
    assert path.read_bytes() == good


def test_damaged_tile_can_be_overwritten(store: GramStore, matrix: np.ndarray) -> None:
    key = TileKey(3, 4)  # ragged
    path = Path(store.path_of(key))
    path.write_bytes(b"rubbish")
    store.write(key, matrix[store.tiling.slices(key)])
    np.testing.assert_array_equal(store[:, :], matrix)


def test_leftovers_of_a_killed_writer_are_not_tiles(store: GramStore) -> None:
    store.remove(TileKey(0, 1))
    Path(store.address, "c", "0", "1.0123abcd.partial").write_bytes(b"half a tile")
    assert store.missing() == [TileKey(0, 1)]


def test_newer_schema_is_refused_with_both_versions(store: GramStore) -> None:
    path = Path(store.address, "zarr.json")
    metadata = json.loads(path.read_text())
    metadata["attributes"] |= {"schema_version": 7, "written_by": "ntkdist 9.1"}
    path.write_text(json.dumps(metadata))
    with pytest.raises(InputError, match=r"schema 7, written by ntkdist 9.1;.*up to schema 1"):
        GramStore.open(store.address)


def test_other_fingerprint_is_refused_with_both(store: GramStore) -> None:
    with pytest.raises(InputError, match="belong to f1, this job is f2"):
        GramStore.open(store.address, "r+", "f2")


def test_store_that_is_there_is_not_replaced(store: GramStore, matrix: np.ndarray) -> None:
    with pytest.raises(InputError, match="exists already"):
        GramStore.create(store.address, store.tiling, fingerprint="f2", kind="ntk")
    np.testing.assert_array_equal(store[:, :], matrix)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no kernel matrix"):
        GramStore.open(str(tmp_path / "nothing"))
    zarr.create_array(str(tmp_path / "other"), shape=(4, 4), dtype="f4")
    with pytest.raises(StoreError, match="not a kernel matrix"):
        GramStore.open(str(tmp_path / "other"))


def test_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    address = str(tmp_path / "file" / "gram")
    with pytest.raises(InputError, match=f"{address}: cannot be written"):
        GramStore.create(address, Tiling(4, 2), fingerprint="f", kind="ntk")


def test_read_only_store_takes_no_tile(store: GramStore) -> None:
    with pytest.raises(StoreError, match="open for reading only"):
        GramStore.open(store.address).write(TileKey(0, 0), np.zeros((12, 12)))
