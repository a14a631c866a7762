"""Copies the Gram and factors of an earlier run of the same images into a new run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from ntkdist import storage
from ntkdist.errors import InputError, NtkdistError, StoreError
from ntkdist.events.types import Event, GramReused
from ntkdist.gram.store import DigestLog, GramStore, read_digests, tile_digest
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.pipeline.gram import stored_gram
from ntkdist.pipeline.growth import factor_names
from ntkdist.runs.manifest import GramOrigin, write_manifest
from ntkdist.runs.run import Run

_READERS = 4


def take_from_origin(
    run: Run, tile: int | str, on_event: Callable[[Event], None], check_stop: Callable[[], None]
) -> Run:
    """Copy tiles and factors from the run that the manifest names, unless that is done.

    What is not taken, because it is unfinished, damaged or gone, is computed by the stages. Killed
    at any moment, the same call resumes. The run's lease must be held.

    Raises:
        InputError: The run cannot be written.
        InterruptedRunError: If a signal asked to stop.
    """
    origin = run.manifest.gram_from
    if origin is None or origin.taken:
        return run
    from ntkdist.linalg.maintenance import drop_unfinished_copy

    for name in factor_names(run, run.config.gram.kinds):
        drop_unfinished_copy(run.address("factor", name))
    event = _take(run, origin.run, tile, check_stop)
    on_event(event)
    done = None
    if event.tiles:
        done = GramOrigin(origin.run, True, event.tiles, event.factors)
    manifest = dataclasses.replace(run.manifest, gram_from=done)
    write_manifest(run.url, manifest)
    return Run(run.url, manifest, run.config)


def _take(run: Run, url: str, tile: int | str, check_stop: Callable[[], None]) -> GramReused:
    try:
        source = Run.open(url)
    except NtkdistError as error:
        return GramReused(url, 0, 0, (), str(error))
    if source.fingerprint != run.fingerprint:
        return GramReused(url, 0, 0, (), "its fingerprint has changed")
    tiling = _tiling(source)
    if tiling is None:
        return GramReused(url, 0, 0, (), "it is no longer stored")
    if tile != "auto" and Tiling.from_target(tiling.n_rows, int(tile)).edge != tiling.edge:
        why = f"its tiles have edge {tiling.edge}, gram.tile={tile} is set"
        return GramReused(url, 0, 0, (), why)
    stored: set[TileKey] = set(tiling.keys())
    bad: set[TileKey] = set()
    for kind in run.config.gram.kinds:
        taken = take_tiles(
            source.address("gram", kind),
            run.address("gram", kind),
            fingerprint=run.fingerprint,
            between=check_stop,
        )
        stored &= taken.stored
        bad |= taken.bad
    problems = []
    if bad:
        tiles = f"tile {min(bad)} is" if len(bad) == 1 else f"{len(bad)} tiles are"
        problems.append(f"{tiles} damaged there and computed again")
    factors: list[str] = []
    # not where a tile was damaged: the factor may have been computed from it
    if len(stored) == tiling.count:
        factors, damaged = _take_factors(run, source, check_stop)
        problems += damaged
    return GramReused(url, len(stored), tiling.count, tuple(factors), "; ".join(problems))


@dataclass(frozen=True)
class TilesTaken:
    """The tiles that a store holds now, and those not taken because they are damaged."""

    stored: frozenset[TileKey]
    bad: frozenset[TileKey]


def take_tiles(
    source: str, target: str, *, fingerprint: str, between: Callable[[], None] = lambda: None
) -> TilesTaken:
    """Copy the tiles of another store that are undamaged and missing in this one.

    Each tile is read first: its checksum and, where logged, its digest must match, and no entry may
    be NaN. Tiles of another tiling or of another backend are not copied. A tile is copied whole or
    not at all, so after a kill the same call resumes.

    Raises:
        InputError: If a store has another fingerprint, or the target cannot be written.
        StoreError: If the source does not exist.
    """
    old = GramStore.open(source, "r", fingerprint)
    if not GramStore.exists(target):
        # copy the metadata too: chunks are encoded with its codecs
        metadata = storage.read_bytes(storage.join(source, "zarr.json")) or b""
        storage.write_bytes(storage.join(target, "zarr.json"), metadata)
    new = GramStore.open(target, "r+", fingerprint)
    done = old.done() - set(old.mixed_tiles()) if old.tiling == new.tiling else set()
    wanted = [key for key in new.missing() if key in done]
    digests = read_digests(source)

    def take(key: TileKey) -> bool:
        try:
            block = old.block(key.row, key.col)
        except StoreError:
            return False
        if digests.get(key) not in (None, tile_digest(old.kind, key, block)):
            return False
        return storage.copy(old.path_of(key), new.path_of(key))

    bad = set()
    with closing(DigestLog(target)) as log, ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(wanted), _READERS):
            between()
            some = wanted[start : start + _READERS]
            for key, taken in zip(some, pool.map(take, some), strict=True):
                if not taken:
                    bad.add(key)
                elif key in digests:
                    log.append(key, digests[key])
    return TilesTaken(frozenset(new.done()), frozenset(bad))


def _take_factors(
    run: Run, source: Run, check_stop: Callable[[], None]
) -> tuple[list[str], list[str]]:
    """Return the names of the factors that are taken, and what is wrong with others."""
    from ntkdist.linalg.maintenance import copy_factor

    taken, problems = [], []
    for name in factor_names(source, source.config.gram.kinds):
        here, there = source.address("factor", name), run.address("factor", name)
        if storage.exists(storage.join(there, "zarr.json")):
            taken.append(name)  # before a kill
            continue
        try:
            if copy_factor(here, there, fingerprint=run.fingerprint, between=check_stop):
                taken.append(name)
        except (InputError, StoreError) as error:
            problems.append(f"the factor {name} is not taken: {error}")
    return taken, problems


def _tiling(run: Run) -> Tiling | None:
    """Return how a run's matrices are cut; None where one of them was not begun."""
    tiling = None
    for kind in run.config.gram.kinds:
        store = stored_gram(run, kind)
        if store is None:
            return None
        tiling = store.tiling
    return tiling


def finished_tiles(url: str) -> int:
    """Return how many tiles of a run's Gram are stored, 0 for a run that cannot be opened."""
    try:
        run = Run.open(url)
        stores = [stored_gram(run, kind) for kind in run.config.gram.kinds]
        return min(0 if store is None else len(store.done()) for store in stores)
    except NtkdistError:
        return 0
