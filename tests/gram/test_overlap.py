"""A tile is written while the next one is computed, and nothing is lost, mixed up or hoarded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkdist.errors import DeviceLostError, InterruptedRunError, StoreError
from ntkdist.events.types import Interrupted, TileDone, TileFailed, TileStarted
from ntkdist.gram import worker as worker_module
from ntkdist.gram.compute import compute_gram, open_outputs
from ntkdist.gram.executors.inline import InlineExecutor
from ntkdist.gram.executors.ray import RayExecutor
from ntkdist.gram.store import GramStore, read_digests, tile_digest
from ntkdist.gram.tiling import TileKey
from ntkdist.gram.worker import GramJob, TileRecord, TileWorker
from tests.gram.fakes import FakeBackend, fake_executor, make_job, random_images

PATIENCE = 20.0


class Watched(FakeBackend):
    """Counts the blocks that were begun; refuses to compute two at once."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.change = threading.Condition()
        self._one = threading.Lock()

    def block(self, a: Any, b: Any, kinds: Any = ("ntk",)) -> dict[str, np.ndarray]:
        assert self._one.acquire(blocking=False), "two blocks at once"
        try:
            with self.change:
                self.begun += 1
                self.change.notify_all()
            return super().block(a, b, kinds)
        finally:
            self._one.release()

    def wait_for(self, begun: int) -> None:
        with self.change:
            if not self.change.wait_for(lambda: self.begun >= begun, PATIENCE):
                raise StoreError(f"block {begun} does not begin while a tile is written")


class Waiting(TileWorker):
    """A worker that does not store a tile before the next one has begun to be computed."""

    def __init__(self, job: GramJob, name: str) -> None:
        self.backend = Watched()
        super().__init__(job, name, make_backend=lambda name, **_: self.backend)

    def start(self) -> dict[str, Any]:
        found = super().start()
        for store in self._stores.values():
            store.write = self._hold(store.write)  # type: ignore[method-assign]
        return found

    def _hold(self, write: Callable[..., str]) -> Callable[..., str]:
        numbers = iter(range(2, 100))

        def held(key: TileKey, *more: Any) -> str:
            # the last tile has none behind it
            self.backend.wait_for(min(next(numbers), 6))
            return write(key, *more)

        return held


@pytest.mark.slow(but="inline")
@pytest.mark.parametrize("where", ["inline", "ray"])
def test_next_tile_is_computed_while_one_is_written(
    tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    if where == "ray":
        request.getfixturevalue("ray_session")
    job, tiling = make_job(tmp_path, random_images(25), 10)
    executor = {
        "inline": InlineExecutor(make_worker=Waiting, retries=0),
        "ray": RayExecutor(1, make_worker=Waiting, retries=0),
    }[where]
    assert compute_gram(job, executor, tiling=tiling).computed == 6


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[TileKey], None]], None]:
    """Have something happen before each tile is written."""

    def before(happens: Callable[[TileKey], None]) -> None:
        real = GramStore.write

        def write(self: GramStore, key: TileKey, *more: Any) -> str:
            happens(key)
            return real(self, key, *more)

        monkeypatch.setattr(GramStore, "write", write)

    return before


def test_nothing_is_computed_while_two_tiles_wait_to_be_written(
    tmp_path: Path, writing: Any
) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)
    backend = Watched()
    two = threading.Barrier(2, timeout=PATIENCE)
    begun_meanwhile: list[int] = []

    def both(key: TileKey) -> None:
        two.wait()
        before = backend.begun
        with backend.change:  # a third would begin now, if it could
            backend.change.wait_for(lambda: backend.begun > before, 0.2)
        begun_meanwhile.append(backend.begun - before)
        two.wait()

    writing(both)
    assert compute_gram(job, fake_executor(backend), tiling=tiling).computed == 6
    assert begun_meanwhile == [0] * 6


def test_tiles_booked_in_another_order_are_the_same_bits(tmp_path: Path, writing: Any) -> None:
    images = random_images(25)
    plain, tiling = make_job(tmp_path / "plain", images, 10)
    compute_gram(plain, fake_executor(FakeBackend()), tiling=tiling)
    job, _ = make_job(tmp_path / "swapped", images, 10)
    done: dict[str, threading.Event] = {str(key): threading.Event() for key in tiling.keys()}  # noqa: SIM118
    order: list[str] = []
    started: list[str] = []

    def listen(event: Any) -> None:
        if isinstance(event, TileStarted):
            started.append(event.key)
        elif isinstance(event, TileDone):
            order.append(event.key)
            done[event.key].set()

    def behind_the_next(key: TileKey) -> None:
        position = started.index(str(key))
        if position % 2 == 0:
            following = sorted(done)[sorted(done).index(str(key)) + 1]
            assert done[following].wait(PATIENCE)

    writing(behind_the_next)
    compute_gram(job, fake_executor(FakeBackend()), tiling=tiling, on_event=listen)
    assert order == [key for a, b in zip(*[iter(started)] * 2, strict=True) for key in (b, a)]
    store, same = GramStore.open(job.outputs[0][1]), GramStore.open(plain.outputs[0][1])
    np.testing.assert_array_equal(store[:, :], same[:, :])
    assert read_digests(store.address) == {
        key: tile_digest("ntk", key, store.block(key.row, key.col))
        for key in tiling.keys()  # noqa: SIM118
    }


def test_failed_write_is_booked_and_tried_again_while_others_go_on(
    tmp_path: Path, writing: Any
) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)
    backend, events, refusals = Watched(), [], iter([StoreError("no room")])

    def refuse(key: TileKey) -> None:
        if key == TileKey(0, 1) and (error := next(refusals, None)):
            backend.wait_for(3)
            raise error

    writing(refuse)
    summary = compute_gram(job, fake_executor(backend), tiling=tiling, on_event=events.append)
    assert (summary.computed, backend.begun) == (6, 7)
    (failed,) = [event for event in events if isinstance(event, TileFailed)]
    assert (failed.key, failed.attempt, failed.final) == ("r0000c0001", 1, False)
    assert failed.error == "UnwritableError: no room"
    again = [event.attempt for event in events if isinstance(event, TileDone)]
    assert sorted(again) == [1, 1, 1, 1, 1, 2]


def test_stop_lets_the_tile_that_is_written_and_the_one_computed_finish(
    tmp_path: Path, writing: Any
) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)
    backend, stop, events = Watched(), threading.Event(), []

    def stopping(key: TileKey) -> None:
        backend.wait_for(2)
        stop.set()

    writing(stopping)
    with pytest.raises(InterruptedRunError, match="2 tiles computed, 4 of 6 still missing"):
        compute_gram(job, fake_executor(backend), tiling=tiling, on_event=events.append, stop=stop)
    (told,) = [event for event in events if isinstance(event, Interrupted)]
    assert told.in_flight == ("r0000c0000", "r0000c0001")
    assert {e.key for e in events if isinstance(e, TileDone)} == set(told.in_flight)


def test_second_signal_waits_for_nothing_and_stores_nothing_more(tmp_path: Path) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)
    backend, left = FakeBackend(), threading.Event()
    block = backend.block

    def second_waits(*args: Any) -> Any:
        if backend.same:
            assert left.wait(PATIENCE)
        return block(*args)

    backend.block = second_waits  # type: ignore[method-assign]

    def interrupt(event: Any) -> None:
        if isinstance(event, TileDone):
            raise KeyboardInterrupt  # what the second signal raises in the driver's thread

    with pytest.raises(KeyboardInterrupt):
        compute_gram(job, fake_executor(backend), tiling=tiling, on_event=interrupt)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("tiles-")]
    assert threads
    left.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert len(backend.same) == 2
    assert GramStore.open(job.outputs[0][1]).done() == {TileKey(0, 0)}


def test_what_ends_a_thread_ends_the_job(tmp_path: Path) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)
    backend = FakeBackend()

    def leave(*args: Any) -> Any:
        raise SystemExit("no longer")

    backend.block = leave  # type: ignore[method-assign]
    with pytest.raises(SystemExit, match="no longer"):
        compute_gram(job, fake_executor(backend), tiling=tiling)


def test_record_tells_computing_from_writing_and_leaves_out_the_wait_for_its_turn(
    tmp_path: Path, writing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)
    open_outputs(job, tiling)
    now, backend = [0.0], FakeBackend()
    monkeypatch.setattr(worker_module.time, "perf_counter", lambda: now[0])
    block = backend.block
    first_computes, second_asks = threading.Event(), threading.Event()

    def ten_seconds(*args: Any) -> Any:
        first_computes.set()
        assert second_asks.wait(PATIENCE)
        now[0] += 10
        return block(*args)

    backend.block = ten_seconds  # type: ignore[method-assign]
    writing(lambda key: now.__setitem__(0, now[0] + 1) if key == TileKey(0, 1) else None)
    worker = TileWorker(job, "w0", make_backend=lambda name, **_: backend)
    worker.start()
    records: list[TileRecord] = []
    first = threading.Thread(target=lambda: records.append(worker.attempt(TileKey(0, 0))))
    first.start()
    assert first_computes.wait(PATIENCE)
    second = threading.Thread(target=lambda: records.append(worker.attempt(TileKey(0, 1))))
    second.start()
    second_asks.set()
    for thread in (first, second):
        thread.join(PATIENCE)
    taken = {record.key: (record.computing, record.seconds) for record in records}
    assert taken["r0000c0001"] == (10, 11)
    assert taken["r0000c0000"][0] == 10


def test_lost_device_ends_the_job_when_what_is_computed_is_stored(
    tmp_path: Path, writing: Any
) -> None:
    job, tiling = make_job(tmp_path, random_images(25), 10)
    backend = Watched()
    backend.loses_device = 3
    events: list[Any] = []
    writing(lambda key: backend.wait_for(3) if key == TileKey(0, 1) else None)
    with pytest.raises(DeviceLostError) as caught:
        compute_gram(job, fake_executor(backend), tiling=tiling, on_event=events.append)
    assert str(caught.value) == (
        "CUDA_ERROR_LAUNCH_FAILED on GPU 0: this process cannot use it; 4 tiles missing, the same "
        "command in a new process resumes"
    )
    assert backend.begun == 3
    assert GramStore.open(job.outputs[0][1]).done() == {TileKey(0, 0), TileKey(0, 1)}
    (failed,) = [event for event in events if isinstance(event, TileFailed)]
    assert (failed.key, failed.final) == ("r0000c0002", False)
    assert compute_gram(job, fake_executor(FakeBackend()), tiling=tiling).computed == 4
