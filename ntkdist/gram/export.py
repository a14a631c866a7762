"""A finished kernel matrix as one file that other software reads: .npy, .npz, .h5, .safetensors.

The whole symmetric matrix in float32, written in bands of rows, so that memory stays that of one
band whatever N is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.errors import InputError, StageError
from ntkdist.gram.export_formats import FORMATS

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

    Returns:
        The file's path.

    Raises:
        InputError: For an unknown format, a file that is there, one that cannot be written, or a
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
            f"{address}: is there already; give another file, or overwrite it (--overwrite)"
        )
    if missing := store.missing():
        raise StageError(
            f"{store.address}: {len(missing)} tiles are missing, the first {missing[0]}; "
            "compute them with: ntkdist gram RUN"
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
