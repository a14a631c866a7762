"""A run's manifest: what the run is, written into its root group's attributes in one write.

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

import dataclasses
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ntkdist import storage
from ntkdist.checks import normal_name
from ntkdist.errors import InputError, NtkdistError, StoreError
from ntkdist.storage.arrays import METADATA, read_metadata

SCHEMA = 1
_KEY = "ntkdist"
_DAMAGED = (
    "without its manifest a run cannot be opened: restore zarr.json from a copy, or make the run "
    "again under another --run"
)
STAGING = "extension"
"""Where in the run the inputs of a larger one are staged."""


@dataclass(frozen=True)
class Former:
    """Fingerprint and number of images of a run before an extension."""

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


@dataclass(frozen=True)
class GramOrigin:
    """The run of the same images whose tiles and factors this one takes.

    Attributes:
        run: Its address.
        taken: Whether all has been taken that could be; else the next command that writes to
            this run goes on with it.
        tiles: Tiles of the Gram that were taken.
        factors: Names below ``factor/`` of the factors that were taken.
    """

    run: str
    taken: bool = False
    tiles: int = 0
    factors: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GramOrigin:
        """Build it from the plain values that a manifest holds."""
        return cls(**{**values, "factors": tuple(values["factors"])})


@dataclass(frozen=True)
class Manifest:
    """What a run is, as written once when it was created.

    Attributes:
        schema: Version of the layout.
        config: The resolved configuration.
        fingerprint: sha256 over images, architecture, kinds, dtype, invariance and backend
            arithmetic.
        backend: Name of the backend that computes the Gram.
        arithmetic: Its arithmetic version.
        reason: Why that backend was taken.
        num_classes: K.
        class_names: One name per class.
        created: When, UTC, ISO 8601.
        versions: Software versions.
        extension: How it grew since; None for a run that has the images it was created with.
        inputs: What the kernel sees: ``images``, or ``features``, which ``inputs/images`` holds as
            (N, 1, 1, D).
        gram_from: Run that the Gram was taken from; None where all tiles were computed here.
        root: Folder from which relative paths of the data counted when the run was created; they
            count from there where the current folder has no such file. None in older runs.
    """

    schema: int
    config: dict[str, Any]
    fingerprint: str
    backend: str
    arithmetic: str
    reason: str
    num_classes: int
    class_names: tuple[str, ...]
    created: str
    versions: dict[str, str]
    extension: Extension | None = None
    inputs: str = "images"
    gram_from: GramOrigin | None = None
    root: str | None = None

    @property
    def is_features(self) -> bool:
        """Whether the kernel sees features in place of images."""
        return self.inputs == "features"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    from importlib.metadata import PackageNotFoundError, version

    installed = {"python": platform.python_version()}
    for name in ("ntkdist", "numpy", "scipy", "numba", "zarr", "ray", "dask"):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def read_manifest(url: str) -> Manifest | None:
    """Read a run's manifest; None where there is no run.

    Raises:
        InputError: If it cannot be read for want of rights, or a newer version wrote it.
        StoreError: If it is damaged, or missing beside a Gram.
    """
    values = None
    try:
        values = read_metadata(url, _DAMAGED)["attributes"].get(_KEY)
    except FileNotFoundError:
        pass
    except PermissionError as error:
        raise InputError(f"{url}: cannot be read: {error.strerror}") from None
    if values is None:
        if storage.exists(storage.join(url, "gram", "ntk", METADATA)):
            raise StoreError(f"{url}: has a Gram, and its manifest is missing; {_DAMAGED}")
        return None
    try:
        return _manifest(url, values)
    except NtkdistError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise StoreError(f"{url}: its manifest cannot be read ({reason}); {_DAMAGED}") from error


def _manifest(url: str, values: Mapping[str, Any]) -> Manifest:
    if values["schema"] > SCHEMA:
        raise InputError(
            f"{url}: was written with schema {values['schema']}, this version reads up to "
            f"{SCHEMA}; update ntkdist"
        )
    if values["schema"] < SCHEMA:
        raise InputError(
            f"{url}: was written with schema {values['schema']} by an older version, this one "
            f"reads {SCHEMA}; start it anew under another --run"
        )
    values = dict(values)
    # earlier versions had no averages
    gram = {"invariance": "none", **values["config"]["gram"]}
    gram.pop("mix_backends", None)  # a setting of earlier versions
    values["config"] = {**values["config"], "gram": gram}
    # those of earlier versions are as their source spells them
    values["class_names"] = tuple(normal_name(name) or name for name in values["class_names"])
    if values.get("extension") is not None:
        values["extension"] = Extension.from_dict(values["extension"])
    if values.get("gram_from") is not None:
        values["gram_from"] = GramOrigin.from_dict(values["gram_from"])
    return Manifest(**values)


def write_manifest(url: str, manifest: Manifest) -> None:
    """Write a run's manifest, in one write."""
    import zarr

    group = zarr.open_group(storage.zarr_store(url), mode="r+")
    group.attrs[_KEY] = dataclasses.asdict(manifest)
