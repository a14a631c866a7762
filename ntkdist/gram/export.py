"""A finished kernel matrix as one file that other software reads: .npy, .npz, .h5, .safetensors.

The whole symmetric matrix in float32, written in bands of rows, so that memory stays that of one
band whatever N is.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.errors import InputError, StageError
from ntkdist.words import counted

if TYPE_CHECKING:
    from ntkdist.gram.store import GramStore

_BAND = 64 << 20  # bytes


def export(
    store: GramStore,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    overwrite: bool = False,
    on_rows: Callable[[int, int], None] | None = None,
) -> str:
    """Write a kernel matrix into one file.

    Args:
        store: The matrix, finished.
        path: The file, on this machine; it is there whole or not at all.
        format: ``npy`` (``numpy.load(path, mmap_mode="r")``), ``npz`` (compressed), ``h5``
            (HDF5, in chunks of a tile; needs h5py) or ``safetensors``; None goes by the path's
            ending. In ``npz``, ``h5`` and ``safetensors`` the array is called after its kind,
            ``ntk`` or ``nngp``.
        overwrite: Replace a file that is there.
        on_rows: Told after each band how many rows of how many are written.

    Raises:
        InputError: For a URL, an unknown format, a file that exists or cannot be written, or a
            package that is not installed.
        StageError: If tiles are missing.
        StoreError: If a tile is corrupt.
    """
    address = storage.normal(path)
    if storage.local_path(address) is None:
        raise InputError(f"{address}: export to a file of this machine, and copy it from there")
    write = _writer(address, format)
    if storage.exists(address) and not overwrite:
        raise InputError(
            f"{address}: exists already; give another file, or overwrite it (--overwrite)"
        )
    if missing := store.missing():
        raise StageError(
            f"{store.address}: {len(missing)} of {counted(store.tiling.count, 'tile')} are "
            f"missing, the first {missing[0]}; compute them with: ntkdist gram RUN"
        )
    with storage.writing(address) as place:
        write(place, store.kind, store.shape, store.tiling.edge, _bands(store, on_rows))
    return address


def _writer(address: str, format: str | None) -> Callable[..., None]:
    name = (Path(address).suffix if format is None else format).lstrip(".").lower()
    name = {"hdf5": "h5"}.get(name, name)
    if name not in FORMATS:
        known = ", ".join(f".{one}" for one in FORMATS)
        raise InputError(
            f"{address}: format {name!r} is not one that a matrix is exported to; end the file's "
            f"name with one of {known}"
        )
    return FORMATS[name]


def _bands(
    store: GramStore, on_rows: Callable[[int, int], None] | None
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the first row and the rows of each band, whole tiles high where they fit."""
    n, width = store.shape
    edge = store.tiling.edge
    rows = max(1, _BAND // (4 * width))
    if rows >= edge:
        rows -= rows % edge
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        yield start, np.ascontiguousarray(store[start:stop, :], dtype=np.float32)
        if on_rows is not None:
            on_rows(stop, n)


Bands: TypeAlias = Iterator[tuple[int, NDArray[np.float32]]]
Writer: TypeAlias = Callable[[str, str, tuple[int, int], int, Bands], None]


def _npy(path: str, kind: str, shape: tuple[int, int], edge: int, bands: Bands) -> None:
    with open(path, "wb") as file:
        _write_array(file, shape, bands)


def _npz(path: str, kind: str, shape: tuple[int, int], edge: int, bands: Bands) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{kind}.npy", "w", force_zip64=True) as file,
    ):
        _write_array(file, shape, bands)


def _write_array(file: object, shape: tuple[int, int], bands: Bands) -> None:
    """Write NumPy's header (version 1.0) and then the entries row by row."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
    for _, band in bands:
        file.write(_little(band))  # type: ignore[attr-defined]


def _h5(path: str, kind: str, shape: tuple[int, int], edge: int, bands: Bands) -> None:
    try:
        import h5py
    except ImportError:
        raise InputError(
            f"{path}: HDF5 needs h5py, which is not installed; pip install h5py, or export to .npy"
        ) from None
    # HDF5 takes no chunk larger than the array
    chunk = min(edge, *shape)
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            kind, shape, dtype="<f4", chunks=(chunk, chunk), compression="lzf", shuffle=True
        )
        for start, band in bands:
            data[start : start + len(band)] = band


def _safetensors(path: str, kind: str, shape: tuple[int, int], edge: int, bands: Bands) -> None:
    # a length, a JSON head and the bytes: written here so that the matrix is never held whole
    size = 4 * shape[0] * shape[1]
    about = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, size]}
    head = json.dumps({"__metadata__": {"format": "np"}, kind: about}).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        _write_bands(file, bands)


def _write_bands(file: BinaryIO, bands: Bands) -> None:
    for _, band in bands:
        file.write(_little(band))


def _little(band: NDArray[np.float32]) -> memoryview:
    return np.ascontiguousarray(band, dtype="<f4").data.cast("B")


FORMATS: dict[str, Writer] = {
    "npy": _npy,
    "npz": _npz,
    "h5": _h5,
    "safetensors": _safetensors,
}
