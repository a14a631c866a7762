"""How a run grows: the journal of its extensions, kept in the manifest, and the inputs' switch.

An extension is made in this order, so that a kill at any moment leaves the run as it was, or one
that the next writing command rolls forward:

1. all inputs of the larger run are stored under ``STAGING``, where nobody else looks;
2. the manifest is written, in one write: it is the larger run's from here on, in the state
   ``begun``;
3. the inputs are copied into their place, ragged tiles dropped and the matrices' metadata changed,
   each of which does no harm when it is done again; then the state is ``settled``;
4. missing tiles are computed and factors grown, as in any run; then the state is ``done``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ntkdist import storage

STAGING = "extension"
"""Where in the run the inputs of a larger one wait."""


@dataclass(frozen=True)
class Former:
    """What a run was before an extension.

    Attributes:
        fingerprint: Its fingerprint.
        images: How many images it had.
    """

    fingerprint: str
    images: int


@dataclass(frozen=True)
class Extension:
    """How a run grew.

    Attributes:
        state: How far the latest extension is: ``begun``, ``settled`` or ``done``, see above.
        former: What the run was before each extension, the latest last.
        factors: Factors of the run before, by their names below ``factor/``, that the extension is
            to append rows to, and whether their inverse was stored.
    """

    state: Literal["begun", "settled", "done"]
    former: tuple[Former, ...]
    factors: dict[str, bool]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Extension:
        """Build it from the plain values that a manifest holds."""
        former = tuple(Former(**one) for one in values["former"])
        return cls(values["state"], former, dict(values["factors"]))

    @property
    def before(self) -> Former:
        """What the run was before the latest extension."""
        return self.former[-1]


def settle_inputs(url: str) -> None:
    """Copy the inputs that wait into their place; they stay where they are until all is settled.

    Args:
        url: The run's folder or URL.
    """
    waiting = storage.join(url, STAGING)
    # metadata last: until then a reader finds chunks that do not fit, never plausible zeros
    for name in sorted(storage.list_objects(waiting), key=lambda name: (_is_metadata(name), name)):
        content = storage.read_bytes(storage.join(waiting, name))
        if content is not None:
            storage.write_bytes(storage.join(url, "inputs", name), content)


def _is_metadata(name: str) -> bool:
    return name.rpartition("/")[2] == "zarr.json"
