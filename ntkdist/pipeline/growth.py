"""After an extension: inputs and matrices rolled forward to the new size, factors appended to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ntkdist import storage
from ntkdist.errors import NtkdistError, StageError, StoreError
from ntkdist.gram.store import DigestLog, GramStore
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.runs.manifest import STAGING, write_manifest
from ntkdist.runs.run import Run

if TYPE_CHECKING:
    from ntkdist.linalg import CholeskyFactor


def roll_forward(run: Run) -> Run:
    """Grow the stored inputs and matrices to the size in the manifest, if they are smaller.

    Idempotent: a kill at any moment leaves a run that the same call resumes. The run's lease
    must be held.
    """
    extension = run.manifest.extension
    if extension is None or not run.has_pending_extension:
        return run
    _copy_inputs(run.url)
    n = run.array("inputs", "images").shape[0]
    before = extension.before.fingerprint
    for kind in run.config.gram.kinds:
        address = run.address("gram", kind)
        if GramStore.exists(address):
            grow_store(address, n, fingerprint=run.fingerprint, former=before)
    storage.remove_all(run.address(STAGING))
    return advanced(run, "settled")


def advanced(run: Run, state: str) -> Run:
    """Write the state of the latest extension, and return the run with it."""
    extension = run.manifest.extension
    assert extension is not None
    changed = dataclasses.replace(extension, state=state)  # type: ignore[arg-type]
    manifest = dataclasses.replace(run.manifest, extension=changed)
    write_manifest(run.url, manifest)
    return Run(run.url, manifest, run.config)


def _copy_inputs(url: str) -> None:
    """Copy the staged inputs to ``inputs``; they stay staged until the matrices have grown."""
    waiting = storage.join(url, STAGING)
    # metadata last: until then a reader finds chunks that do not fit, never plausible zeros
    for name in sorted(storage.list_objects(waiting), key=lambda name: (_is_metadata(name), name)):
        content = storage.read_bytes(storage.join(waiting, name))
        if content is not None:
            storage.write_bytes(storage.join(url, "inputs", name), content)


def _is_metadata(name: str) -> bool:
    return name.rpartition("/")[2] == "zarr.json"


def _ragged_tiles(tiling: Tiling) -> list[TileKey]:
    """Return the tiles of a symmetric matrix whose shape changes when the matrix grows."""
    if tiling.n_rows % tiling.edge == 0:
        return []
    last = tiling.grid[1] - 1
    return [TileKey(row, last) for row in range(last + 1)]


def grow_store(address: str, n: int, *, fingerprint: str, former: str) -> None:
    """Grow the store of a symmetric matrix to ``n`` rows, with the same edge.

    The new metadata are written last, in one write, so that after a kill at any moment the same
    call resumes. A store whose fingerprint is not ``former`` stays as it is.

    Raises:
        StoreError: If nothing is there, or it does not answer.
    """
    store = GramStore.open(address, "r+")
    if store.fingerprint != former:
        return
    ragged = _ragged_tiles(store.tiling)
    for key in ragged:
        store.remove(key)
    if ragged:
        with closing(DigestLog(address)) as log:
            for key in ragged:
                log.forget(key)
    place = storage.join(address, "zarr.json")
    metadata: dict[str, Any] = json.loads(storage.read_text(place) or "{}")
    try:
        metadata["shape"] = [n, n]
        metadata["attributes"]["fingerprint"] = fingerprint
    except KeyError as error:
        raise StoreError(f"{place}: is damaged: it holds no {error}") from error
    storage.write_text(place, json.dumps(metadata, indent=2))


def grow_factor(
    run: Run,
    address: str,
    gram: Any,
    *,
    memory_limit: str,
    on_event: Callable[[Any], None],
    appended: bool = True,
) -> bool:
    """Append the rows of an extension to a stored factor; return whether it is up to date.

    The factor keeps its absolute ridge, from the mean diagonal of its first images. It is dropped,
    for ``factorize`` to compute it again, if it is unfinished, if ``appended`` is False, or if the
    larger matrix is not positive definite with that ridge.
    """
    from ntkdist.linalg import CholeskyFactor, NotPositiveDefiniteError
    from ntkdist.linalg.maintenance import drop_factor
    from ntkdist.linalg.panels import FactorStore

    extension = run.manifest.extension
    opened = None if extension is None else FactorStore.open(address)
    if extension is None or opened is None:
        return False
    store, attributes = opened
    before = {one.fingerprint for one in extension.former}
    if attributes["fingerprint"] not in {run.fingerprint, *before}:
        return False  # of another matrix, which factorize refuses
    if (attributes["fingerprint"], attributes["n"]) == (run.fingerprint, gram.shape[0]):
        return True
    if not appended or len(store.records()) < store.plan.first_count:
        drop_factor(address)
        return False
    factor = CholeskyFactor.open(address, memory_limit=memory_limit)
    try:
        factor.append(gram, fingerprint=run.fingerprint, on_event=on_event)
    except NotPositiveDefiniteError:
        drop_factor(address)
        return False
    return True


def factors_to_grow(run: Run) -> dict[str, bool]:
    """Return the finished factors of a run's matrices by name, and whether each has an inverse.

    The diagonal of an inverse that is stored alone stays beside the factor while it grows.
    """
    finished = {}
    for name in factor_names(run, run.config.gram.kinds):
        factor = _finished(run, name)
        if factor is not None and factor.fingerprint == run.fingerprint:
            finished[name] = run.has("factor", name, "inverse")
    return finished


def factor_names(run: Run, matrices: Iterable[str]) -> list[str]:
    """Return the names below ``factor/`` of what may be factors of some matrices."""
    return [
        f"{matrix}/{ridge}"
        for matrix in matrices
        for ridge in sorted(storage.children(run.address("factor", matrix)))
        if ridge.startswith("ridge-")
    ]


def current_factor(run: Run, address: str, memory_limit: str) -> CholeskyFactor:
    """Open a finished factor of the run as it is now.

    Raises:
        StoreError: There is none, or it is not finished.
        StageError: It is of the run before it was extended.
    """
    from ntkdist.linalg import CholeskyFactor

    factor = CholeskyFactor.open(address, memory_limit=memory_limit)
    if run.manifest.extension is not None and not _fits(run, factor):
        raise StageError(
            f"{address}: is the factor of {factor.n} images, from before the run was extended; "
            f"ntkdist factor {run.url}"
        )
    return factor


def is_ready(run: Run, name: str, method: str) -> bool:
    """Return whether what a label method needs of a factor's inverse is stored."""
    from ntkdist.linalg import holds

    address, n = run.address("factor", name), int(run.array("inputs", "labels").shape[0])
    if holds(address, "inverse", n):
        return True
    return method == "posterior" and holds(address, "diagonal", n)


def is_stale(run: Run, name: str) -> bool:
    """Return whether a stored factor, named below ``factor/``, is of the run before it grew."""
    if run.manifest.extension is None:
        return False
    factor = _finished(run, name)
    return factor is not None and not _fits(run, factor)


def _finished(run: Run, name: str) -> CholeskyFactor | None:
    from ntkdist.linalg import CholeskyFactor

    try:
        return CholeskyFactor.open(run.address("factor", name))
    except NtkdistError:
        return None


def _fits(run: Run, factor: CholeskyFactor) -> bool:
    n = run.array("inputs", "labels").shape[0]
    return (factor.fingerprint, factor.n) == (run.fingerprint, n)
