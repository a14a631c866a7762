"""How each file format takes a matrix that comes in bands of rows."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ntkdist.errors import InputError

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
    # HDF5 takes chunks of less than 4 GiB, and none larger than the array
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
