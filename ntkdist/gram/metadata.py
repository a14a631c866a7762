"""What a stored kernel matrix says about itself, and what is refused when opening one."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ntkdist.errors import InputError, StoreError
from ntkdist.gram.tiling import Tiling
from ntkdist.storage import arrays

SCHEMA_VERSION = 1
"""Version of the layout written here; older code must refuse newer layouts."""


@dataclass(frozen=True)
class Metadata:
    """The attributes of a stored matrix, checked.

    Attributes:
        tiling: How the matrix is cut.
        kind: ``ntk`` or ``nngp``.
        fingerprint: Of the inputs.
        attributes: Everything in the array's attributes.
    """

    tiling: Tiling
    kind: str
    fingerprint: str
    attributes: dict[str, Any]

    @classmethod
    def read(cls, address: str, array: Any) -> Metadata:
        """Read and check the attributes of an open Zarr array.

        Args:
            address: For messages.
            array: The Zarr array.

        Returns:
            The metadata.

        Raises:
            InputError: If a newer version of the package wrote the store.
            StoreError: If the array is not a store of this package.
        """
        attributes = dict(array.attrs)
        schema = attributes.get("schema_version")
        if not isinstance(schema, int):
            raise StoreError(f"{address}: a Zarr array, but not a kernel matrix of ntkdist")
        if schema > SCHEMA_VERSION:
            writer = attributes.get("written_by", "an unknown version")
            raise InputError(
                f"{address}: schema {schema}, written by {writer}; this is ntkdist"
                f" {package_version()}, which reads up to schema {SCHEMA_VERSION}; upgrade ntkdist"
            )
        try:
            edge, symmetric = int(attributes["edge"]), bool(attributes["symmetric"])
            kind, fingerprint = str(attributes["kind"]), str(attributes["fingerprint"])
            rows, cols = array.shape
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{address}: its attributes are damaged: {error!r}") from error
        if tuple(array.chunks) != (edge, edge) or (symmetric and rows != cols):
            raise StoreError(
                f"{address}: its attributes do not fit: edge {edge}, symmetric {symmetric},"
                f" shape {array.shape}, chunks {array.chunks}"
            )
        return cls(Tiling(rows, edge, None if symmetric else cols), kind, fingerprint, attributes)


def create_array(
    address: str,
    tiling: Tiling,
    *,
    fingerprint: str,
    kind: str,
    dtype: str,
    attributes: Mapping[str, Any],
) -> None:
    """Write the metadata of an empty Zarr array whose chunks are the tiles.

    Args:
        address: Folder or URL.
        tiling: Shape of the matrix and of its tiles.
        fingerprint: Of the inputs.
        kind: ``ntk`` or ``nngp``.
        dtype: Of the entries.
        attributes: More to keep beside these.
    """
    everything: dict[str, Any] = {
        **attributes,
        "schema_version": SCHEMA_VERSION,
        "written_by": f"ntkdist {package_version()}",
        "fingerprint": fingerprint,
        "kind": kind,
        "edge": tiling.edge,
        "symmetric": tiling.symmetric,
    }
    arrays.create_array(
        address,
        shape=tiling.shape,
        chunks=(tiling.edge, tiling.edge),
        dtype=dtype,
        fill_value=float("nan"),
        attributes=everything,
        config={"write_empty_chunks": False},
        zarr_format=3,
    )


def package_version() -> str:
    """Return the installed version of this package, or ``unknown`` outside an installation."""
    try:
        return importlib.metadata.version("ntkdist")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
