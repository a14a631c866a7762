"""Backends in one matrix: refused, unless it is asked for; then every tile says who made it."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ntkdist.analyses.status import describe
from ntkdist.api import execute
from ntkdist.config import DataConfig, GramConfig, RunConfig
from ntkdist.errors import InputError, StageError
from ntkdist.events.types import TileDone, TileStarted, WorkerStarted, read_events
from ntkdist.gram.compute import compute_gram
from ntkdist.gram.executors.inline import InlineExecutor
from ntkdist.gram.executors.ray.executor import RayExecutor
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import TileKey
from ntkdist.kernels.backend import arithmetic_of
from ntkdist.networks.architecture import Architecture
from ntkdist.pipeline import Pipeline
from ntkdist.runs.run import Run
from tests.gram.fakes import FakeBackend, fake_executor, make_job, random_images
from tests.tolerances import RTOL, assert_close

DEEP = str(Architecture.parse("cntk-gap-11"))


class Interrupting:
    """Stops a job behind the first tile."""

    def __init__(self) -> None:
        import threading

        self.stop = threading.Event()

    def __call__(self, event: object) -> None:
        if isinstance(event, TileStarted):
            self.stop.set()


def begun(folder: Path):
    """Return a job of six tiles of which one is computed, by "fake 1"."""
    job, tiling = make_job(folder, random_images(30), 10)
    halt = Interrupting()
    with pytest.raises(Exception, match="still missing"):
        compute_gram(
            job, fake_executor(FakeBackend()), tiling=tiling, on_event=halt, stop=halt.stop
        )
    return job, tiling, GramStore.open(job.outputs[0][1])


def test_another_arithmetic_is_refused_with_the_remedy(tmp_path):
    job, tiling, store = begun(tmp_path)
    other = dataclasses.replace(job, arithmetic="other 2")
    with pytest.raises(InputError, match=r"by fake 1.*by other 2.*gram\.mix_backends"):
        compute_gram(other, fake_executor(FakeBackend(arithmetic="other 2")), tiling=tiling)
    assert len(store.done()) == 1


def test_mixed_tiles_say_who_made_them(tmp_path):
    job, tiling, store = begun(tmp_path)
    told: list[TileDone] = []
    other = dataclasses.replace(job, arithmetic="other 2", mix=True)
    compute_gram(
        other,
        fake_executor(FakeBackend(arithmetic="other 2")),
        tiling=tiling,
        on_event=lambda e: told.append(e) if isinstance(e, TileDone) else None,
    )
    (first,) = {key for key in store.done() if store.made_by(key) == "fake 1"}
    assert store.count_by_arithmetic() == {"other 2": 5, "fake 1": 1}
    assert {store.made_by(key) for key in store.done() - {first}} == {"other 2"}
    assert [event.backend for event in told] == ["other 2"] * 5
    # made again by the store's own arithmetic, a tile loses its record
    again = next(key for key in store.done() if key != first)
    mixed = dataclasses.replace(job, mix=True)
    compute_gram(mixed, fake_executor(FakeBackend()), tiling=tiling, recompute=[again])
    assert store.made_by(again) == "fake 1"


def test_a_record_without_its_tile_is_nothing(tmp_path, monkeypatch):
    _, _, store = begun(tmp_path)
    (key,) = store.missing()[:1]
    store = GramStore.open(store.address, "r+")

    class Killed(BaseException):
        pass

    def die(*args: object) -> None:
        raise Killed

    monkeypatch.setattr(type(store._array), "__setitem__", die)
    with pytest.raises(Killed):
        store.write(key, np.zeros(store.tiling.tile_shape(key), "f4"), "other 2")
    monkeypatch.undo()
    assert os.listdir(Path(store.address) / "made_by") == [str(key)]
    assert store.count_by_arithmetic() == {"fake 1": 1}
    with pytest.raises(Exception, match="is missing"):
        store.made_by(key)
    store.write(key, np.zeros(store.tiling.tile_shape(key), "f4"), "fake 1")
    assert store.made_by(key) == "fake 1"


def test_unmixed_jobs_keep_no_records(tmp_path):
    job, tiling = make_job(tmp_path, random_images(30), 10)
    compute_gram(job, fake_executor(FakeBackend()), tiling=tiling)
    store = GramStore.open(job.outputs[0][1])
    assert not (Path(store.address) / "made_by").exists()
    assert store.count_by_arithmetic() == {"fake 1": 6}
    assert store.made_by(TileKey(0, 1)) == "fake 1"


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[None]:
    """A Ray with three cores and two GPUs, as far as Ray knows."""
    import ray

    from ntkdist.gram.executors.ray.cluster import package_path

    if ray.is_initialized():
        ray.shutdown()
    before = {name: os.environ.get(name) for name in package_path()}
    os.environ.update(package_path())
    ray.init(
        address="local", num_cpus=3, num_gpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=80 * 2**20,
    )  # fmt: skip
    yield
    ray.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def _fail() -> None:
    raise ZeroDivisionError


def _visible() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "unset")


def test_gpu_and_cpu_actors_share_a_matrix(tmp_path, two_gpus):
    """The reference backend stands for the one that has the GPUs, slow enough for all to start."""
    images = np.random.default_rng(0).normal(size=(36, 8, 8, 1)).astype("f4")
    own = arithmetic_of("reference")
    job, tiling = make_job(tmp_path, images, 2, backend="reference", arithmetic=own, arch=DEEP)
    told: list[object] = []
    compute_gram(
        dataclasses.replace(job, mix=True),
        RayExecutor(num_gpus=1),
        tiling=tiling,
        on_event=told.append,
    )
    workers = sorted(e.worker for e in told if isinstance(e, WorkerStarted))
    assert [name[0] for name in workers] == ["c", "w", "w"]
    store = GramStore.open(job.outputs[0][1])
    counts = store.count_by_arithmetic()
    assert set(counts) == {own, arithmetic_of("cpu")}
    assert sum(counts.values()) == tiling.count
    done = [e for e in told if isinstance(e, TileDone)]
    assert all(e.backend == store.made_by(TileKey.parse(e.key)) for e in done)
    assert all((e.worker[0] == "c") == (e.backend != own) for e in done)
    alone, _ = make_job(
        tmp_path / "alone", images, 2, backend="cpu", arithmetic=arithmetic_of("cpu"), arch=DEEP
    )
    compute_gram(alone, InlineExecutor(), tiling=tiling)
    assert_close(store[:, :], GramStore.open(alone.outputs[0][1])[:, :], RTOL["float32"])


def test_a_worker_with_a_gpu_sees_it_and_others_do_not(two_gpus):
    assert RayExecutor(num_gpus=1).call(functools.partial(_visible)) in ("0", "1")
    with pytest.raises(StageError, match="ZeroDivisionError"):
        RayExecutor(num_gpus=1).call(_fail)


def cuda_run(folder: Path, **gram: object) -> RunConfig:
    return RunConfig(
        run=str(folder / "run"),
        architecture="fc-2",
        data=DataConfig(n=12),
        gram=GramConfig(**{"backend": "cuda", "executor": "inline", "tile": 6, **gram}),
    )


def test_a_run_on_the_gpu_can_go_on_without_one_if_it_may_mix(tmp_path):
    config = cuda_run(tmp_path)
    with Pipeline(config) as pipeline:
        execute(pipeline, ["gram"])
    first = pipeline.gram_store()[:, :]
    assert pipeline.run.manifest.arithmetic == arithmetic_of("cuda")
    on_cpu = cuda_run(tmp_path, backend="cpu")
    with pytest.raises(InputError, match=r"gram.backend='cuda'.*--gram.mix_backends"):
        Run.create(on_cpu)
    mixed = cuda_run(tmp_path, backend="cpu", mix_backends=True)
    with Pipeline(mixed) as pipeline:
        execute(pipeline, ["gram"], recompute=["r0000c0001"])
    store = pipeline.gram_store()
    assert store.count_by_arithmetic() == {arithmetic_of("cuda"): 2, arithmetic_of("cpu"): 1}
    on_gpu, on_cores = arithmetic_of("cuda"), arithmetic_of("cpu")
    assert f"2 by {on_gpu}, 1 by {on_cores}" in describe(config.run)
    said = [
        e["detail"]
        for e in read_events(config.run)
        if e["event"] == "StageDone" and e["stage"] == "gram"
    ]
    assert said[-1].endswith(f"2 by {on_gpu} and 1 by {on_cores}")
    assert_close(store[:, :], first, RTOL["float32"])


def test_a_driver_without_a_gpu_can_begin_a_run_for_workers_with_one(
    two_gpus, tmp_path, monkeypatch
):
    monkeypatch.setattr("ntkdist.kernels.cuda.device.cuda_unavailable", lambda: "no GPU here")
    run = Run.create(cuda_run(tmp_path, executor="ray"))
    assert (run.manifest.backend, run.manifest.arithmetic) == ("cuda", arithmetic_of("cuda"))
    strided = dataclasses.replace(
        cuda_run(tmp_path / "other", executor="ray"),
        architecture="[Conv(3, stride=2), Relu(), Flatten(), Dense()]",
    )
    with pytest.raises(InputError, match="backend 'cuda' cannot compute this"):
        Run.create(strided)
