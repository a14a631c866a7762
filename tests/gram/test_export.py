"""A Gram matrix as one file: whole, symmetric, in bounded memory, never half."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file

from ntkdist.errors import InputError, StageError, StoreError
from ntkdist.gram import export as module
from ntkdist.gram.export import export
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey, Tiling

N, EDGE = 50, 12


def filled(address: Path, n: int = N, edge: int = EDGE, dtype: str = "float32") -> GramStore:
    a = np.random.default_rng(0).normal(size=(n, n)).astype(dtype)
    matrix, tiling = a + a.T, Tiling(n, edge)
    store = GramStore.create(str(address), tiling, fingerprint="f", kind="ntk", dtype=dtype)
    for key in tiling.keys():  # noqa: SIM118
        store.write(key, matrix[tiling.slices(key)])
    return store


def read(path: str) -> Any:
    if path.endswith(".npy"):
        return np.load(path, mmap_mode="r")
    if path.endswith(".npz"):
        with np.load(path) as archive:
            return archive["ntk"]
    if path.endswith(".safetensors"):
        return load_file(path)["ntk"]
    with h5py.File(path) as file:
        assert file["ntk"].chunks == (EDGE, EDGE)
        return file["ntk"][:]


@pytest.mark.slow(but="float32-h5-1048576")
@pytest.mark.parametrize("band", [1, 4 * N * 7, 4 * N * (2 * EDGE + 5), 1 << 20])
@pytest.mark.parametrize("suffix", ["npy", "npz", "h5", "hdf5", "safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_format_holds_the_whole_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, dtype: str, band: int
) -> None:
    monkeypatch.setattr(module, "_BAND", band)
    store = filled(tmp_path / "gram", dtype=dtype)
    told: list[tuple[int, int]] = []
    path = export(store, tmp_path / f"K.{suffix}", on_rows=lambda *rows: told.append(rows))
    found = read(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, store[:, :].astype(np.float32))
    np.testing.assert_array_equal(found, found.T)
    assert told[-1] == (N, N)
    assert len(told) == {1: N, 4 * N * 7: 8, 4 * N * (2 * EDGE + 5): 3, 1 << 20: 1}[band]


def test_a_kernel_of_other_images_is_exported_too(tmp_path: Path) -> None:
    tiling = Tiling(30, EDGE, 7)
    store = GramStore.create(str(tmp_path / "k"), tiling, fingerprint="f", kind="nngp")
    matrix = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
    for key in tiling.keys():  # noqa: SIM118
        store.write(key, matrix[tiling.slices(key)])
    np.testing.assert_array_equal(np.load(export(store, tmp_path / "K.npy")), matrix)
    with h5py.File(export(store, tmp_path / "K.h5")) as file:
        np.testing.assert_array_equal(file["nngp"], matrix)


def test_a_format_can_be_named(tmp_path: Path) -> None:
    path = export(filled(tmp_path / "gram"), tmp_path / "kernel", "npy")
    assert np.load(path).shape == (N, N)


@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
def test_memory_is_that_of_a_band(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    n, edge = 1600, 200
    store = filled(tmp_path / "gram", n, edge)
    monkeypatch.setattr(module, "_BAND", 4 * n * edge)
    export(store, tmp_path / f"first.{suffix}")  # imports and caches
    tracemalloc.start()
    export(store, tmp_path / f"K.{suffix}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * n * n / 2


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    store = filled(tmp_path / "gram")
    (tmp_path / "K.npy").write_text("mine")
    with pytest.raises(InputError, match=r"K\.npy: exists already"):
        export(store, tmp_path / "K.npy")
    assert (tmp_path / "K.npy").read_text() == "mine"
    export(store, tmp_path / "K.npy", overwrite=True)
    assert np.load(tmp_path / "K.npy").shape == (N, N)


def test_an_unfinished_matrix_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path / "gram")
    store.remove(TileKey(1, 2))
    with pytest.raises(StageError, match="are missing, the first r0001c0002"):
        export(store, tmp_path / "K.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["gram"]


def test_a_corrupt_tile_leaves_no_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    store = filled(tmp_path / "gram")
    (tmp_path / "K.npy").write_text("mine")
    tile = Path(store.path_of(TileKey(2, 3)))
    tile.write_bytes(tile.read_bytes()[:-7])
    with pytest.raises(StoreError, match="r0002c0003"):
        export(store, tmp_path / "K.npy", overwrite=True)
    assert (tmp_path / "K.npy").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["K.npy", "gram"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("K.mat", r"format 'mat' is not one .*\.npy, \.npz, \.h5, \.safetensors"),
        ("K", "format '' is not one"),
        ("s3://bucket/K.npy", "export to a file of this machine"),
    ],
)
def test_other_places_and_formats_are_refused(tmp_path: Path, path: str, message: str) -> None:
    place = path if "://" in path else str(tmp_path / path)
    with pytest.raises(InputError, match=message):
        export(filled(tmp_path / "gram"), place)


def test_without_h5py_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(InputError, match=r"needs h5py.*pip install h5py, or export to \.npy"):
        export(filled(tmp_path / "gram"), tmp_path / "K.h5")
