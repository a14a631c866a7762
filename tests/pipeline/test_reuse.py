"""Tiles of another store: taken where they are whole, never where they are damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist import storage
from ntkdist.errors import InputError
from ntkdist.gram.store import DigestLog, GramStore, read_digests
from ntkdist.gram.tiling import TileKey, Tiling
from ntkdist.pipeline.reuse import take_tiles

PRINT = "f" * 64
KEYS = list(Tiling(10, 4).keys())


@pytest.fixture(params=["path", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "path" else f"memory://{tmp_path.name}/{id(request)}"


def begun(address: str, **changes: Any) -> GramStore:
    about = {"fingerprint": PRINT, "kind": "ntk", "attributes": {"arithmetic": "cpu-1"}}
    return GramStore.create(address, Tiling(10, changes.pop("edge", 4)), **{**about, **changes})


def filled(address: str) -> GramStore:
    store, log = begun(address), DigestLog(address)
    random = np.random.default_rng(0)
    for key in KEYS:
        block = random.normal(size=store.tiling.tile_shape(key)).astype(np.float32)
        log.append(key, store.write(key, block))
    log.close()
    return store


def test_all_tiles_come_with_their_digests(base: str) -> None:
    old = filled(f"{base}/old")
    found = take_tiles(old.address, f"{base}/new", fingerprint=PRINT)
    assert (found.stored, found.bad) == (frozenset(KEYS), frozenset())
    storage.remove_all(old.address)
    new = GramStore.open(f"{base}/new", "r", PRINT)
    assert new.count_by_arithmetic() == {"cpu-1": 6}
    assert set(read_digests(new.address)) == set(KEYS)
    assert np.isfinite(new[:, :]).all()


def test_a_tile_that_another_backend_computed_is_left_out(base: str) -> None:
    old = filled(f"{base}/old")
    storage.write_text(storage.join(old.address, "made_by", "r0000c0001"), "cuda-1")
    assert old.count_by_arithmetic() == {"cpu-1": 5, "cuda-1": 1}
    found = take_tiles(old.address, f"{base}/new", fingerprint=PRINT)
    assert (found.stored, found.bad) == (frozenset(KEYS) - {TileKey(0, 1)}, frozenset())


def test_a_tile_with_a_wrong_checksum_is_left_out(base: str) -> None:
    old = filled(f"{base}/old")
    content = bytearray(storage.read_bytes(old.path_of(TileKey(1, 2))) or b"")
    content[len(content) // 2] ^= 1
    storage.write_bytes(old.path_of(TileKey(1, 2)), bytes(content))
    found = take_tiles(old.address, f"{base}/new", fingerprint=PRINT)
    assert found.bad == {TileKey(1, 2)}
    assert found.stored == set(KEYS) - {TileKey(1, 2)}
    assert TileKey(1, 2) not in read_digests(f"{base}/new")


def test_a_whole_tile_in_the_place_of_another_is_left_out(base: str) -> None:
    old = filled(f"{base}/old")
    other = storage.read_bytes(old.path_of(TileKey(0, 0))) or b""
    storage.write_bytes(old.path_of(TileKey(1, 1)), other)
    assert take_tiles(old.address, f"{base}/new", fingerprint=PRINT).bad == {TileKey(1, 1)}


def test_after_a_stop_the_rest_is_taken_and_what_is_there_stays(base: str) -> None:
    old = filled(f"{base}/old")
    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take_tiles(old.address, f"{base}/new", fingerprint=PRINT, between=stop)
    new = GramStore.open(f"{base}/new", "r+", PRINT)
    assert 0 < len(new.done()) < len(KEYS)
    own = np.ones(new.tiling.tile_shape(min(new.done())), np.float32)
    new.write(min(new.done()), own)
    found = take_tiles(old.address, f"{base}/new", fingerprint=PRINT)
    assert found.stored == set(KEYS)
    np.testing.assert_array_equal(new.block(0, 0), own)


def test_tiles_of_another_matrix_or_another_edge_are_not_taken(base: str) -> None:
    old = filled(f"{base}/old")
    with pytest.raises(InputError, match="fingerprint differs"):
        take_tiles(old.address, f"{base}/new", fingerprint="0" * 64)
    assert not GramStore.exists(f"{base}/new")
    begun(f"{base}/other", edge=5)
    assert take_tiles(old.address, f"{base}/other", fingerprint=PRINT).stored == frozenset()
