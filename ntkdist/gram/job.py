"""What a worker must know to compute any tile of one matrix: plain values and addresses."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from ntkdist.errors import InputError


@dataclass(frozen=True)
class GramJob:
    """One kernel matrix to compute.

    Attributes:
        images: Address of the rows' images, a Zarr array (N, H, W, C) float32.
        architecture: Canonical text of the network.
        backend: Name of the kernel backend, never ``auto``.
        arithmetic: What the driver's backend reported; a worker whose backend reports
            another one refuses to work.
        dtype: ``float32`` or ``float64``.
        outputs: (kind, address of its store) for each kind of kernel.
        edge: Rows and columns of a tile.
        fingerprint: Of everything that determines the entries.
        columns: Address of the columns' images for a rectangular matrix; None means
            the rows' images and a symmetric matrix.
        threads: Threads of one worker's backend and BLAS.
        kinds: The kinds of kernel; may be left out, ``outputs`` names them.
        cache_bytes: What a worker may keep of prepared states; the two of the tile at
            hand stay whatever they take.
    """

    images: str
    architecture: str
    backend: str
    arithmetic: str
    dtype: str
    outputs: tuple[tuple[str, str], ...]
    edge: int
    fingerprint: str
    columns: str | None = None
    threads: int = 1
    kinds: tuple[str, ...] = ()
    cache_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        outputs = self.outputs.items() if isinstance(self.outputs, dict) else self.outputs
        object.__setattr__(self, "outputs", tuple((str(k), str(a)) for k, a in outputs))
        if not self.outputs:
            raise InputError("gram job: no outputs; name at least one kind and its address")
        kinds = tuple(kind for kind, _ in self.outputs)
        if self.kinds and set(self.kinds) != set(kinds):
            raise InputError(f"gram job: kinds {self.kinds} and outputs {kinds} differ")
        object.__setattr__(self, "kinds", kinds)
        for name in ("edge", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"gram job: {name}={getattr(self, name)} must be at least 1")

    @property
    def is_remote(self) -> bool:
        """Whether a tile goes to an object store."""
        return any("://" in address for _, address in self.outputs)

    def to_json(self) -> str:
        """Return the job as JSON text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> GramJob:
        """Read back what ``to_json`` wrote."""
        values = json.loads(text)
        values["kinds"] = tuple(values["kinds"])
        return cls(**values)
