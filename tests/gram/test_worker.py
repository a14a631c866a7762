from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ntkdist.errors import InputError, StoreError
from ntkdist.gram.compute import open_outputs
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey
from ntkdist.gram.worker import TileWorker
from tests.gram.fakes import FakeBackend, make_job, random_images


def worker_for(
    folder: Path, images: np.ndarray, backend: FakeBackend, **more: object
) -> TileWorker:
    job, tiling = make_job(folder, images, 10, **more)  # type: ignore[arg-type]
    open_outputs(job, tiling)
    return TileWorker(job, "w0", make_backend=lambda name, **_: backend)


def test_tile_of_every_kind_is_written_and_recorded(tmp_path: Path) -> None:
    images = random_images(25)
    worker = worker_for(tmp_path, images, FakeBackend(), kinds=("ntk", "nngp"))
    record = worker.compute(TileKey(1, 2), attempt=2)
    assert (record.key, record.worker, record.attempt, record.error) == (
        "r0001c0002",
        "w0",
        2,
        None,
    )
    assert (record.entries, record.bytes) == (50, 50 * 4 * 2)
    flat = images.reshape(25, -1).astype(float)
    expected = (flat[10:20] @ flat[20:].T).astype("f4")
    np.testing.assert_array_equal(GramStore.open(f"{tmp_path}/gram/nngp").block(1, 2), expected)
    np.testing.assert_array_equal(GramStore.open(f"{tmp_path}/gram/ntk").block(1, 2), expected**2)


def test_diagonal_tile_passes_the_same_state_and_rows_are_prepared_once(tmp_path: Path) -> None:
    backend = FakeBackend()
    worker = worker_for(tmp_path, random_images(25), backend)
    for col in range(3):
        worker.compute(TileKey(0, col))
    assert backend.same == [True, False, False]
    assert backend.prepared == [10, 10, 5]


def test_rectangular_tiles_take_their_columns_elsewhere(tmp_path: Path) -> None:
    rows, cols = random_images(12, 1), random_images(25, 2)
    backend = FakeBackend()
    worker = worker_for(tmp_path, rows, backend, columns=cols, kinds=("nngp",))
    worker.compute(TileKey(1, 0))
    worker.compute(TileKey(0, 0))
    assert backend.same == [False, False]
    expected = rows.reshape(12, -1).astype(float) @ cols.reshape(25, -1).T.astype(float)
    got = GramStore.open(f"{tmp_path}/gram/nngp").block(1, 0)
    np.testing.assert_array_equal(got, expected[10:, :10].astype("f4"))


def test_other_arithmetic_is_refused(tmp_path: Path) -> None:
    worker = worker_for(tmp_path, random_images(12), FakeBackend(arithmetic="fake 2"))
    with pytest.raises(InputError, match="computes fake 2, the job is fake 1"):
        worker.start()


def test_images_of_another_number_are_refused(tmp_path: Path) -> None:
    job, tiling = make_job(tmp_path, random_images(12), 10)
    open_outputs(job, type(tiling)(13, 10))
    worker = TileWorker(job, "w0", make_backend=lambda *a, **k: FakeBackend())
    with pytest.raises(InputError, match=r"12×12 entries, the stores have .13, 13."):
        worker.start()


def test_entries_that_are_not_finite_name_their_images(tmp_path: Path) -> None:
    images = random_images(25)
    images[13] = np.nan
    worker = worker_for(tmp_path, images, FakeBackend())
    with pytest.raises(StoreError, match=r"r0000c0001 of ntk: 10 of 100 .*column images \[13\]"):
        worker.compute(TileKey(0, 1))
    record = worker.attempt(TileKey(1, 2), 3)
    assert record.error is not None
    assert "row images [13]" in record.error
    assert "Traceback" in record.traceback
    assert GramStore.open(f"{tmp_path}/gram/ntk").done() == set()


def test_damaged_images_are_named(tmp_path: Path) -> None:
    worker = worker_for(tmp_path, random_images(25), FakeBackend())
    next(Path(tmp_path, "images", "c").rglob("*/0/0/0")).write_bytes(b"rubbish")
    with pytest.raises(StoreError, match="images 0 to 9 cannot be read"):
        worker.compute(TileKey(0, 0))


def test_nothing_is_computed_on_a_device_that_is_lost(tmp_path: Path) -> None:
    backend = FakeBackend(loses_device=2)
    worker = worker_for(tmp_path, random_images(25), backend)
    records = [worker.attempt(TileKey(0, col)) for col in range(3)]
    assert [record.device_lost_by for record in records] == ["", "r0000c0001", "r0000c0001"]
    assert [bool(record.error) for record in records] == [False, True, True]
    assert len(backend.same) == 2
    assert all("CUDA_ERROR_LAUNCH_FAILED" in str(record.error) for record in records[1:])


def test_an_error_beside_a_lost_device_is_not_taken_for_it(tmp_path: Path) -> None:
    backend = FakeBackend(fail={1: 1})
    worker = worker_for(tmp_path, random_images(25), backend)
    record = worker.attempt(TileKey(0, 0))
    assert (record.device_lost_by, "scripted failure" in str(record.error)) == ("", True)
