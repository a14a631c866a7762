"""Stored states of a descent: after a kill, only the flips since the last state are made again.

Two slots are written in turn, and an attribute that names the complete one is set last, in one
write. A state holds everything that the next step reads, to the bit, so that a descent that was
killed makes the same flips as one that was not.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.errors import InputError, NtkdistError, StoreError
from ntkdist.labels.result import Flip
from ntkdist.storage.arrays import create_array, row_chunks

KIND = "ntkdist refurbishment"
_COLUMNS = tuple(Flip.__dataclass_fields__)


@dataclass(frozen=True, eq=False)
class State:
    """Everything that the next step reads.

    Attributes:
        G: (N, K) H⁻¹Y of the current labels.
        h: (N,) Σ_d G_id/n_d, updated flip by flip.
        Z: (K, K), updated flip by flip.
        labels: (N,) current labels.
        history: Every flip so far.
    """

    G: NDArray[np.float64]
    h: NDArray[np.float64]
    Z: NDArray[np.float64]
    labels: NDArray[np.int64]
    history: tuple[Flip, ...]


def fingerprint(**inputs: Any) -> str:
    """Return the sha256 of everything that determines the flips: arrays and settings, by name."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        value = inputs[name]
        if isinstance(value, np.ndarray):
            digest.update(f"{name} {value.dtype} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        else:
            digest.update(json.dumps([name, value]).encode())
    return digest.hexdigest()


class Checkpoint:
    """The two slots at a folder or URL, for inputs with this fingerprint.

    Raises ``InputError`` if something else is at the address.
    """

    def __init__(self, url: str, fingerprint: str) -> None:
        import zarr
        from zarr.errors import ContainsArrayError, GroupNotFoundError

        self.url = storage.normal(url)
        self.fingerprint = fingerprint
        try:
            attributes = dict(zarr.open_group(storage.zarr_store(self.url), mode="r").attrs)
        except (FileNotFoundError, GroupNotFoundError):
            attributes = {"kind": KIND}
        except ContainsArrayError as error:
            raise InputError(f"{self.url}: holds an array; give a new folder") from error
        if attributes.get("kind") != KIND:
            raise InputError(f"{self.url}: holds something else; give a new or empty folder")
        same = attributes.get("fingerprint") == fingerprint
        self._current = str(attributes["current"]) if same and attributes.get("current") else None

    def load(self) -> State | None:
        """Return the last complete state of the same inputs, or None; ``StoreError`` if damaged."""
        import zarr

        if self._current is None:
            return None
        try:
            group = zarr.open_group(self._slot(self._current), mode="r")
            read = {name: np.asarray(group[name][...]) for name in group.array_keys()}  # type: ignore[index]
            flips = zip(*(read[f"history_{name}"].tolist() for name in _COLUMNS), strict=True)
            history = tuple(Flip(*row) for row in flips)
            return State(read["G"], read["h"], read["Z"], read["labels"], history)
        except NtkdistError:
            raise
        except Exception as error:
            raise StoreError(
                f"{self.url}/{self._current}: cannot be read ({error}); delete {self.url} to "
                "start the labels again from the beginning"
            ) from error

    def save(self, state: State) -> None:
        """Write a state into the other slot, then make it the current one."""
        import zarr

        slot = "b" if self._current == "a" else "a"
        group = zarr.open_group(self._slot(slot), mode="w")
        arrays = {"G": state.G, "h": state.h, "Z": state.Z, "labels": state.labels}
        for name in _COLUMNS:
            kind = np.float64 if "loss" in name else np.int64
            arrays[f"history_{name}"] = np.array([getattr(f, name) for f in state.history], kind)
        for name, values in arrays.items():
            array = create_array(
                group, name, shape=values.shape, dtype=values.dtype, chunks=row_chunks(values)
            )
            array[...] = values
        whole = {"kind": KIND, "fingerprint": self.fingerprint, "current": slot}
        zarr.open_group(storage.zarr_store(self.url), mode="a").attrs.update(whole)
        self._current = slot

    def _slot(self, name: str) -> Any:
        return storage.zarr_store(storage.join(self.url, name))


def drop_checkpoint(url: str) -> None:
    """Delete the state of a refurbishment, once its result is stored elsewhere."""
    import zarr

    zarr.open_group(storage.zarr_store(url), mode="w").attrs["kind"] = KIND
