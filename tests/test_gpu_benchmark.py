"""The GPU benchmark: what it times is right, in order and in time; nothing is lost or timed twice.

A simulated GPU, or the cpu backend in the place of the GPU's, stands for the GPU.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ntkdist import Architecture
from ntkdist.errors import InputError
from ntkdist.kernels import get_backend
from ntkdist.kernels.cpu import CpuBackend
from ntkdist.kernels.cuda import device as cuda_device
from ntkdist.kernels.cuda.device import DeviceInfo
from ntkdist.linalg import device
from tests.kernels import SIMULATED
from tests.kernels.simulator import ON_SIMULATOR
from tests.kernels.stand_in import H100, T4, driver, machine
from tests.linalg.standin import StandIn, install, no_cupy

__all__ = ["driver", "machine"]  # fixtures

BENCHMARKS = Path(__file__).parents[1] / "jobs" / "benchmarks"
KINDS = ("ntk", "nngp")
NETWORKS = {
    "cntk-gap-6": ("cntk-gap-6", (4, 5, 2)),
    "cntk-v-4": ("cntk-v-4", (4, 3, 3)),
    "fc-3": ("fc-3", (2, 3, 2)),
    "cnn-3, ragged": ("cnn-3", (5, 6, 3)),
    "wide, biases, fixed": (
        "[Conv(size=5, b_std=0.3, trainable=False), Relu(), Conv(size=1), Relu(), "
        "GlobalAvgPool(), Dense(b_std=0.1), Relu(), Dense()]",
        (4, 4, 2),
    ),
    "windows flattened": (
        "[Conv(), Relu(), AvgPool(size=2), Conv(), Relu(), Flatten(), Dense()]",
        (5, 4, 2),
    ),
}
GPU = DeviceInfo(0, "Test GPU", "9.0", "580.1", 132, 80 * 2**30, 79 * 2**30)
MACHINE = {"gpu": [dataclasses.asdict(GPU)], "versions": {}, "time": "2026-12-01T00:00:00+00:00"}
ABOUT = {"machine": MACHINE, "kernels": {"arithmetic": "cuda-4", "sources": "0123"}}
CHECKED = {"shape": [4, 4, 2], "checks": {"largest_error": 1e-7, "equal_bits": True}}
TIMED = CHECKED | {
    "us_per_entry": 2.0,
    "peak_gflops": 60e3,
    "copy_gbs": 2500.0,
    "entries_per_second": 5e5,
    "gpu_hours": {"1": 0.7, "8": 0.09, "64": 0.01},
}
OF_PEER = {"us_per_entry": 6.0, "ratio": 3.0, "ratio_range": [2.9, 3.1]}


class FakeCuda(CpuBackend):
    """The cpu backend in the place of the cuda backend."""

    name = "cuda"

    def block_on_device(self, a, b, kinds):
        return self.block(a, b, kinds)


class WrongCuda(FakeCuda):
    def block(self, a, b, kinds=("ntk",)):
        return {k: x * np.float32(1 + 1e-4) for k, x in super().block(a, b, kinds).items()}


class RestlessCuda(FakeCuda):
    calls = 0

    def block(self, a, b, kinds=("ntk",)):
        RestlessCuda.calls += 1
        found = super().block(a, b, kinds)
        return {k: np.nextafter(x, np.float32(RestlessCuda.calls % 2)) for k, x in found.items()}


@pytest.fixture
def gpu(monkeypatch):
    """Put the benchmarks' folder on the path and return the script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


@pytest.fixture
def fake(gpu, monkeypatch):
    """Return a function that puts a backend in the place of the GPU's; it returns a small scale."""
    from on_gpu import entries, peak, peers

    def put(backend):
        def get(name, **options):
            return backend() if name == "cuda" else get_backend(name, **options)

        monkeypatch.setattr(entries, "get_backend", get)
        monkeypatch.setattr(peers, "get_backend", get)
        monkeypatch.setattr(peers, "_need_jax", lambda scale: None)
        monkeypatch.setattr(peak, "peak_gflops", lambda runs=5: 2000.0)
        monkeypatch.setattr(peak, "copy_gbs", lambda: 100.0)
        monkeypatch.setattr(peak, "registers_of_chains", lambda: {"registers": 20})
        monkeypatch.setattr(cuda_device, "kernel_reports", lambda *of: [])
        return entries.Scale((4, 5, 3), 2, 4, 4, 2, 2, 4, repeats=2, seconds=(0.0, 0.1))

    return put


# What is timed


@pytest.mark.slow(but="cntk-v-4-True")
@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_peer_agrees_with_the_reference(gpu, name, separable):
    from on_gpu.xla import XlaPeer

    spec, shape = NETWORKS[name]
    arch = Architecture.parse(spec)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, *shape)), rng.standard_normal((3, *shape))
    peer = XlaPeer(arch, separable=separable)
    found = np.asarray(peer.block(peer.prepare(x), peer.prepare(y)))
    reference = get_backend("reference", dtype="float64")
    right = reference.block(reference.prepare(arch, x), reference.prepare(arch, y), KINDS)
    assert found.dtype == np.float32
    for of_kind, kind in zip(found, KINDS, strict=True):
        np.testing.assert_allclose(of_kind, right[kind], rtol=2e-5)


def test_the_peer_refuses_layers_it_does_not_know(gpu):
    from on_gpu.xla import XlaPeer

    with pytest.raises(ValueError, match="stride=2"):
        XlaPeer(Architecture.parse("[Conv(stride=2), Relu(), Flatten(), Dense()]"))
    planned = [str(task) for task in gpu.tasks_of(["cnn-3", "residual-3", "cntk-lap-6-2"])]
    assert "cnn-3 with XLA" in planned
    assert not {"residual-3 with XLA", "cntk-lap-6-2 with XLA"} & set(planned)


def test_operations_are_those_of_all_cells(gpu):
    from _networks import network
    from on_gpu.work import work_of

    deep = work_of(Architecture.parse("cntk-gap-21"), (32, 32, 3))
    assert (deep.layers, deep.cell_layers) == (20, 20 * 1024**2)
    assert deep.slots == 1024**2 * (20 * 29 + 3 * 2 + 2)
    assert deep.flops == 1024**2 * (20 * 44 + 3 * 3 + 2)
    assert work_of(Architecture.parse("cntk-v-21"), (32, 32, 3)).cell_layers == 20 * 1024
    myrtle = work_of(Architecture.parse("myrtle-5"), (32, 32, 3))
    assert myrtle.cell_layers == 2 * 1024**2 + 256**2 + 64**2
    # windows in runs of 2 and 4 displacements, each with one more; what is left is one average
    assert myrtle.exchanged == 16 * (16**3 * 24 + 8**3 * 10)
    assert work_of(Architecture.parse("fc-10"), (32, 32, 3)).flops == 3072 * 3 + 10 * 36 + 2
    # pairs of pixels at most 2·2 rows and columns apart
    apart = np.abs(np.subtract.outer(np.arange(9), np.arange(9)))
    local = work_of(Architecture.parse("cntk-lap-4-2"), (9, 9, 3))
    cells = (apart <= 4).sum() ** 2
    assert local.cell_layers == 3 * cells
    assert local.slots == cells * (3 * 29 + 3 * 2 + 2) + 2  # the last for one cell, of Flatten
    branches = work_of(network("residual-3"), (32, 32, 3))
    assert branches.slots == 1024**2 * (3 * 29 + 3 * 2 + 2 + 2)
    with pytest.raises(ValueError, match="not counted"):
        work_of(Architecture.parse("[Conv(size=5), Relu(), Flatten(), Dense()]"), (8, 8, 1))


def test_predictions_are_labelled_and_follow_from_published_data(gpu):
    from on_gpu.work import CARDS, predicted_us, work_of

    work = work_of(Architecture.parse("cntk-gap-21"), (32, 32, 3))
    a100, h100, _, rtx = CARDS
    # a warp's instruction is one of 32 cells; 4 are issued in a clock
    us, bound = predicted_us(work, h100, 50.0)
    assert (us, bound) == (pytest.approx(50 * 20 * 2**20 / 32 / (4 * 132 * 1980)), "issue")
    assert predicted_us(work, rtx, 50.0)[0] == pytest.approx(us * 132 * 1980 / (128 * 2520))
    assert predicted_us(work, a100, 50.0) == (
        pytest.approx(work.slots / (64 * 108 * 1410)),
        "fp32",
    )
    text = gpu.predictions(["cntk-gap-21", "gelu-3"], 50.0)
    assert text.startswith("Predicted, not measured:")
    assert f"| cntk-gap-21 | 63.3 (fp32) | {us:.3g} (issue) |" in text
    assert "| gelu-3 | not counted |" in text
    assert all(card.source in text for card in CARDS)


@pytest.mark.slow
def test_rows_follow_from_the_times(gpu, fake):
    from on_gpu.entries import measure
    from on_gpu.peers import time_peer

    scale, notes = fake(FakeCuda), []
    arch = Architecture.parse("cntk-gap-4")
    row = measure(arch, scale, 0.1, notes.append)
    json.dumps(row)
    assert set(notes[0]) == {"shape", "kinds", "checks", "work"}
    assert row["checks"]["equal_bits"]
    assert row["checks"]["largest_error"] < 2e-5
    us = row["us_per_entry"]
    assert us == np.median(row["us"]["cuda"])
    assert row["entries_per_second"] == pytest.approx(1e6 / us)
    assert row["us_per_entry_layer"] == pytest.approx(us / 3)
    flops = 400 * (3 * 44 + 3 * 3 + 2)
    assert row["share_of_peak"] == pytest.approx(flops / (us * 1e-6) / 2000e9)
    assert row["bound_us_per_entry"] == pytest.approx(400 * (3 * 29 + 3 * 2 + 2) / 1e12 * 1e6)
    assert row["share_of_slots"] == pytest.approx(row["bound_us_per_entry"] / us)
    assert row["gpu_hours"]["8"] == pytest.approx(50_000 * 50_001 / 2 * us / 1e6 / 3600 / 8)
    peer = time_peer("xla", arch, scale, 0.1)
    theirs, ours = (np.median(peer["us"][who]) for who in ("xla", "cuda"))
    assert peer["ratio"] == pytest.approx(theirs / ours)
    assert peer["difference"] < 1e-4
    text = gpu.markdown({**ABOUT, "rows": [{"network": "cntk-gap-4", **row, "xla": peer}]})
    assert f"| cntk-gap-4 | {us:.3g} |" in text
    assert f"| {peer['us_per_entry']:.3g} | {peer['ratio']:.3g} (" in text
    assert "Test GPU, compute capability 9.0, driver 580.1, kernels cuda-4" in text


def test_a_network_whose_operations_are_not_counted_is_timed(fake):
    from on_gpu.entries import measure

    row = measure(Architecture.parse("[Conv(size=5), Relu(), Flatten(), Dense()]"),
                  fake(FakeCuda), 0.1, lambda _: None)  # fmt: skip
    assert row["work"] is None
    assert row["us_per_entry"] > 0
    assert "share_of_peak" not in row


@pytest.mark.parametrize(
    ("backend", "words"),
    [(WrongCuda, "differs from the reference by 1.0e-04"), (RestlessCuda, "differ in their bits")],
)
def test_what_fails_its_check_is_not_timed(fake, backend, words):
    from on_gpu.entries import measure
    from on_gpu.worker import Refused

    notes = []
    with pytest.raises(Refused, match=words):
        measure(Architecture.parse("cntk-gap-4"), fake(backend), 0.1, notes.append)
    assert not notes


def test_a_peer_that_is_wrong_is_not_timed(fake, monkeypatch):
    from on_gpu import xla
    from on_gpu.peers import time_peer
    from on_gpu.worker import Refused

    scale, right = fake(FakeCuda), xla._relu

    def wrong(K, A, B):
        new, slope = right(K, A, B)
        return new, slope * 1.1

    monkeypatch.setattr(xla, "_relu", wrong)
    with pytest.raises(Refused, match="its entries differ from ours by"):
        time_peer("xla", Architecture.parse("cntk-v-4"), scale, 0.1)


def test_the_factor_is_checked_and_timed_beside_the_cpus(gpu, monkeypatch):
    from on_gpu import factor
    from on_gpu.entries import FULL

    install(monkeypatch, StandIn())
    row = factor.measure_factor(300, FULL)
    assert row["checks"]["largest_error"] < 1e-12
    ours, theirs = (np.median(row["seconds"][who]) for who in ("cuda", "cpu"))
    assert (row["seconds_on_gpu"], row["ratio"]) == (ours, pytest.approx(theirs / ours))
    assert row["gflops"] == pytest.approx(300**3 / 3 / ours / 1e9)
    text = gpu.markdown({**ABOUT, "rows": [{"network": "factor-300", **row}]})
    assert f"Cholesky factor, N = 300, float64, from memory into a store: {ours:.3g} s" in text
    monkeypatch.setattr(factor, "LARGEST_ERROR", 0.0)
    with pytest.raises(factor.Refused, match="a solution differs from LAPACK's by"):
        factor.measure_factor(300, FULL)
    monkeypatch.setattr(device, "load_cupy", no_cupy)
    with pytest.raises(factor.Refused, match="CuPy is not installed"):
        factor.measure_factor(300, FULL)


# A process for each task


def add(x, y):
    return x + y, os.getpid()


def say(x, note):
    note(x + 1)
    return x


def refuse():
    from on_gpu.worker import Refused

    raise Refused("not this one")


def fail():
    raise KeyError("of a kernel")


def test_a_task_that_fails_ends_its_process_and_no_other(gpu):
    from on_gpu.worker import Refused, TaskFailedError, Worker

    worker, notes = Worker(), []
    result, first = worker.do(add, 1, 2, limit=20)
    assert (result, first != os.getpid()) == (3, True)
    assert worker.do(say, 4, limit=20, on_note=notes.append) == 4
    assert notes == [5]
    with pytest.raises(Refused, match="not this one"):
        worker.do(refuse, limit=20)
    assert worker.do(add, 0, 0, limit=20)[1] == first  # a verdict, no failure
    processes = {first}
    for function, arguments, limit, words in [
        (fail, (), 20, "KeyError: 'of a kernel'"),
        (os._exit, (7,), 20, "its process ended with code 7"),
        (time.sleep, (60,), 0.2, "stopped after 0 s"),
    ]:
        with pytest.raises(TaskFailedError, match=words):
            worker.do(function, *arguments, limit=limit)
        processes.add(worker.do(add, 0, 0, limit=20)[1])
    assert len(processes) == 4
    worker.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(max(processes), 0)


def test_a_process_that_dies_between_two_tasks_is_replaced(gpu):
    from on_gpu.worker import Worker

    worker = Worker()
    _, first = worker.do(add, 0, 0, limit=20)
    os.kill(first, signal.SIGKILL)
    worker._process.join()
    result, second = worker.do(add, 1, 2, limit=20)
    assert (result, second != first) == (3, True)
    worker.stop()


# The order, the time limit and what is kept


class Script:
    """A worker that takes what it is told of a fake clock's time, and then does what it is told."""

    def __init__(self, costs, outcomes=()):
        self.now, self.costs, self.outcomes = 0.0, costs, dict(outcomes)
        self.done, self.limits, self.shares = [], {}, {}

    def clock(self):
        return self.now

    def do(self, function, *arguments, limit, on_note=None):
        peer = arguments[0] if on_note is None else ""
        *_, arch, _, share = arguments if on_note is None else ("", *arguments)
        (name,) = (name for name in NAMED if Architecture.parse(name) == arch)
        key = f"{name} {peer}".strip()
        self.done.append(key)
        self.limits[key], self.shares[key] = limit, share
        self.now += self.costs[key]
        if on_note is not None:
            on_note(dict(CHECKED))
        if key in self.outcomes:
            raise self.outcomes[key]
        return dict(OF_PEER if peer else TIMED)


NAMED = ("cntk-gap-3", "fc-1", "fc-2")


@pytest.fixture
def tasks(gpu):
    """Three networks of 10, 20 and 5 s, two of them with a peer of 8 s."""
    return [
        *(gpu.Task(name, "entries", s) for name, s in zip(NAMED, (10, 20, 5), strict=True)),
        *(gpu.Task(name, "xla", 8) for name in NAMED[:2]),
    ]


EVERY = {"cntk-gap-3": 10, "fc-1": 20, "fc-2": 5, "cntk-gap-3 xla": 8, "fc-1 xla": 8}


def started(gpu, path, tasks, script, seconds, about=ABOUT):
    """Start once; what the file then holds."""
    from on_gpu.entries import FULL

    record = gpu.Record(path, about, tasks)
    gpu.run(record, script, FULL, script.now + seconds, script.clock)
    return json.loads(path.read_text())


def test_networks_come_in_order_and_peers_behind_them(gpu, tasks, tmp_path):
    script = Script(EVERY)
    found = started(gpu, tmp_path / "gpu.json", tasks, script, 60)
    assert script.done == list(EVERY)
    assert [row["network"] for row in found["rows"]] == list(NAMED)
    assert found["missing"] == {}
    assert found["rows"][0]["xla"]["ratio"] == 3.0
    assert [row["task_seconds"] for row in found["rows"]] == [10, 20, 5]
    # 60 s for what needs 51; the last gets all that is left
    assert script.shares["cntk-gap-3"] == pytest.approx(60 * 10 / 51)
    assert script.shares["fc-1 xla"] == pytest.approx(60 - 43)
    assert script.limits["cntk-gap-3"] == 30
    assert script.limits["fc-1 xla"] == 17


def test_what_does_not_fit_the_time_limit_is_listed_and_measured_by_the_next_start(
    gpu, tasks, tmp_path
):
    path, script = tmp_path / "gpu.json", Script(EVERY)
    found = started(gpu, path, tasks, script, 24)
    # 14 s are left for the second, which needs 20; those that fit share them
    assert script.done == ["cntk-gap-3", "fc-2", "cntk-gap-3 xla"]
    assert script.shares["fc-2"] == pytest.approx(14 * 5 / (5 + 8))
    assert found["missing"] == {"fc-1": "14 s were left, about 20 s are needed"}
    again = Script(EVERY)
    found = started(gpu, path, tasks, again, 60)
    assert again.done == ["fc-1", "fc-1 xla"]
    assert found["missing"] == {}
    assert {row["network"] for row in found["rows"]} == set(NAMED)


def test_a_row_that_fails_stops_no_other_and_comes_last_the_next_time(gpu, tasks, tmp_path):
    from on_gpu.worker import Refused, TaskFailedError

    path = tmp_path / "gpu.json"
    outcomes = {
        "cntk-gap-3": TaskFailedError("stopped after 40 s"),
        "fc-2": Refused("two runs differ in their bits"),
        "fc-1 xla": Refused("jax sees no GPU here"),
    }
    script = Script(EVERY, outcomes)
    found = started(gpu, path, tasks, script, 60)
    assert script.done == ["cntk-gap-3", "fc-1", "fc-2", "fc-1 xla"]
    gap, _, other = found["rows"]
    assert gap["checks"] == CHECKED["checks"]  # before it failed
    assert (gap["failed"], "us_per_entry" in gap) == ("stopped after 40 s", False)
    assert "checks" not in other
    assert found["missing"] == {
        "cntk-gap-3": "stopped after 40 s",
        "fc-2": "two runs differ in their bits",
    }  # a peer that cannot be timed is no task that is left
    text = gpu.markdown(found)
    assert "| cntk-gap-3 | not timed: stopped after 40 s |" in text
    assert "| fc-1 | 2 |" in text
    again = Script(EVERY)
    started(gpu, path, tasks, again, 60)
    assert again.done == ["cntk-gap-3", "fc-2", "cntk-gap-3 xla", "fc-1 xla"]


def test_a_check_is_kept_although_its_timing_is_cut_short(gpu, tasks, tmp_path):
    path = tmp_path / "gpu.json"
    with pytest.raises(KeyboardInterrupt):
        started(gpu, path, tasks, Script(EVERY, {"cntk-gap-3": KeyboardInterrupt()}), 60)
    found = json.loads(path.read_text())
    assert found["rows"] == [{"network": "cntk-gap-3", **CHECKED}]
    assert found["missing"]["cntk-gap-3"] == "not finished"
    assert "| cntk-gap-3 | checked, not timed |" in gpu.markdown(found)
    again = Script(EVERY)
    started(gpu, path, tasks, again, 60)
    assert again.done == list(EVERY)


def test_what_failed_comes_behind_what_was_not_begun(gpu, tasks, tmp_path):
    from on_gpu.worker import TaskFailedError

    path = tmp_path / "gpu.json"
    started(gpu, path, tasks, Script(EVERY, {"cntk-gap-3": TaskFailedError("hangs")}), 12)
    again = Script(EVERY)
    started(gpu, path, tasks, again, 60)
    assert again.done == ["fc-1", "fc-2", "fc-1 xla", "cntk-gap-3", "cntk-gap-3 xla"]


@pytest.mark.parametrize(
    "other",
    [
        {"kernels": {"arithmetic": "cuda-5", "sources": "0123"}},
        {"kernels": {"arithmetic": "cuda-4", "sources": "4567"}},
        {"machine": MACHINE | {"gpu": [MACHINE["gpu"][0] | {"name": "Another GPU"}]}},
        {"simulated": True},
    ],
    ids=["arithmetic", "sources", "gpu", "simulated"],
)
def test_rows_of_another_gpu_or_other_kernels_are_kept_apart(gpu, tasks, tmp_path, other):
    path = tmp_path / "gpu.json"
    old = started(gpu, path, tasks, Script(EVERY), 60)
    again = Script(EVERY)
    found = started(gpu, path, tasks, again, 60, ABOUT | other)
    assert again.done == list(EVERY)
    assert json.loads((tmp_path / "gpu-1.json").read_text()) == old
    assert found["kernels"] == (ABOUT | other)["kernels"]


def test_a_file_that_is_no_result_is_not_overwritten(gpu, tasks, tmp_path):
    path = tmp_path / "gpu.json"
    path.write_text("[1, 2")
    with pytest.raises(InputError, match="is no result of this script"):
        gpu.Record(path, ABOUT, tasks)
    assert path.read_text() == "[1, 2"


def test_the_table_of_an_earlier_result_can_be_printed(gpu, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--markdown", "results/gpu.json"])
    gpu.main()
    text = capsys.readouterr().out
    assert "| cntk-gap-21 | 40.3 | 24,843 | 2.01 | 37% |" in text
    assert "kernels cuda-2" in text


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (RuntimeError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION"), "driver is older"),
        (MemoryError("CUDA_ERROR_OUT_OF_MEMORY"), "nvidia-smi"),
        (ValueError("of a new kind"), "python -m numba -s"),
    ],
)
def test_the_preflight_names_a_remedy(gpu, monkeypatch, error, remedy):
    from on_gpu import peak, preflight, worker

    def fails(**_):
        raise error

    monkeypatch.setattr(cuda_device, "cuda_unavailable", lambda: None)
    monkeypatch.setattr(peak, "peak_gflops", fails)
    with pytest.raises(worker.Refused) as refused:
        preflight.preflight(simulated=True)
    text = str(refused.value)
    assert str(error) in text
    assert remedy in text
    assert "numpy 2" in text
    assert "\n" not in text


# All of it


def start(*words, before=(), code="", environment=os.environ):
    """Start the script in a process of its own, after some code; the process."""
    command = before
    if code:
        command = ("-c", f"{code}\n{before[1] if before else ''}")
    return subprocess.Popen(
        [sys.executable, *command, str(BENCHMARKS / "gpu.py"), *words],
        cwd=BENCHMARKS.parents[1], env=environment | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process):
    """Return the exit code, the output and the errors of a process."""
    out, errors = process.communicate(timeout=300)
    return process.returncode, out, errors


def test_the_process_that_starts_others_touches_no_gpu():
    code = "import sys; sys.path.insert(0, 'jobs/benchmarks'); import gpu; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BENCHMARKS.parents[1], capture_output=True, text=True
    )
    assert "on_gpu.entries" in done.stdout.split()
    assert not {"numba", "jax", "neural_tangents"} & set(done.stdout.split())


@pytest.mark.skipif(not SIMULATED, reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path):
    path = tmp_path / "gpu.json"
    code, out, errors = ended(start("--all", "--output", str(path)))
    assert code == 2
    assert errors.startswith("gpu.py: nothing is measured: ")
    assert (out, len(errors.splitlines())) == ("", 1)
    assert not path.exists()


@pytest.mark.parametrize(
    ("card", "words"),
    [(T4, "has compute capability 7.5"), (H100, "a small kernel does not run (numpy 2")],
)
def test_the_preflight_stops_where_kernels_do_not_run(machine, tmp_path, card, words):
    path = tmp_path / "gpu.json"
    environment = machine.environment(card) | {"NUMBA_CACHE_DIR": str(tmp_path)}
    code, out, errors = ended(start("--all", "--output", str(path), environment=environment))
    assert (code, out) == (2, "")
    assert errors.startswith("gpu.py: nothing is measured: ")
    assert words in errors
    assert len(errors.splitlines()) == 1
    assert not path.exists()


@pytest.mark.slow
def test_wrong_entries_of_compiled_kernels_are_not_timed(machine, tmp_path):
    """The stand-in for the driver takes compiled kernels and does not run them."""
    path = tmp_path / "gpu.json"
    environment = machine.environment(H100) | {"NUMBA_CACHE_DIR": str(tmp_path)}
    code = (
        "import sys; sys.path.insert(0, 'jobs/benchmarks')\n"
        "import on_gpu.peak; on_gpu.peak.peak_gflops = lambda **_: 1.0\n"
        "import runpy; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    words = ("--networks", "fc-10", "--output", str(path))
    code, out, errors = ended(start(*words, code=code, environment=environment))
    assert code == 1, errors
    found = json.loads(path.read_text())
    assert found["machine"]["gpu"][0]["name"] == "Hopper H100"
    assert "libNVVM" in found["machine"]["versions"]
    (row,) = found["rows"]
    assert "differs from the reference by 1.0e+00" in row["refused"]
    assert "us" not in row
    assert "nothing was timed." in out


@pytest.mark.gpu
def test_on_a_gpu_a_network_is_checked_and_timed(tmp_path):
    path = tmp_path / "gpu.json"
    words = ("--networks", "fc-2", "--minutes", "4", "--output", str(path))
    code, _, errors = ended(start(*words))
    assert code == 0, errors
    (row,) = json.loads(path.read_text())["rows"]
    assert row["checks"]["equal_bits"]
    assert 0 < row["us_per_entry"] < row["us_per_entry_to_host"] * 2
    assert 0 < row["share_of_slots"] < 1


# a fully connected network is what goes wrong
AFFECTED = """
import os, time
import tests.kernels
from ntkdist.kernels.cuda.backend import CudaBackend
prepare = CudaBackend.prepare
def affected(self, arch, *of):
    if not arch.is_spatial:
        {}
    return prepare(self, arch, *of)
CudaBackend.prepare = affected
"""


@pytest.mark.slow
@pytest.mark.skipif(not SIMULATED, reason="there is a GPU")
def test_on_a_simulated_gpu_a_second_start_measures_what_failed(tmp_path):
    path = tmp_path / "gpu.json"
    words = ("--simulate", "--networks", "fc-1,cntk-gap-3,factor-90", "--output", str(path))
    code, out, errors = ended(
        start(*words, before=ON_SIMULATOR, code=AFFECTED.format("os._exit(7)"))
    )
    assert code == 1, errors
    found = json.loads(path.read_text())
    assert found["machine"]["gpu"] is None
    dense, gap, factor = found["rows"]
    assert factor["checks"]["largest_error"] < 1e-10
    assert dense["failed"] == "its process ended with code 7"
    assert gap["checks"]["largest_error"] < 2e-5
    assert gap["xla"]["difference"] < 1e-4
    assert "us" not in gap
    assert "us" not in gap["xla"]
    assert "missing: fc-1: its process ended with code 7" in out
    code, out, errors = ended(start(*words, before=ON_SIMULATOR))
    assert code == 0, errors
    before = next(line for line in out.splitlines() if line.startswith("measured before: "))
    assert "cntk-gap-3" in before
    assert "fc-1" not in before
    found = json.loads(path.read_text())
    assert found["missing"] == {}
    assert all(row["simulated"] for row in found["rows"])
    assert "same command" not in out


@pytest.mark.slow
@pytest.mark.skipif(not SIMULATED, reason="there is a GPU")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_what_is_measured(tmp_path, number):
    path = tmp_path / "gpu.json"
    words = ("--simulate", "--networks", "cntk-gap-3,fc-1", "--output", str(path))
    process = start(*words, before=ON_SIMULATOR, code=AFFECTED.format("time.sleep(600)"))
    while "cntk-gap-3: done" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    code, out, errors = ended(process)
    assert code == 130, errors
    found = json.loads(path.read_text())
    assert [row["network"] for row in found["rows"]] == ["cntk-gap-3"]
    assert found["missing"]["fc-1"] == "not begun"
    assert "python jobs/benchmarks/gpu.py --simulate --networks cntk-gap-3,fc-1" in out


@pytest.mark.skipif(not SIMULATED, reason="there is a GPU")
def test_a_time_limit_that_fits_nothing_lists_everything(tmp_path):
    path = tmp_path / "gpu.json"
    words = ("--all", "--simulate", "--minutes", "0.01", "--output", str(path))
    code, out, errors = ended(start(*words, before=ON_SIMULATOR))
    assert code == 1, errors
    missing = [line for line in out.splitlines() if line.startswith("missing: ")]
    names = [line.split(": ")[1] for line in missing]
    assert names[:4] == ["cntk-gap-21", "cnn-3", "myrtle-10", "cntk-gap-11"]
    found = json.loads(path.read_text())
    assert (list(found["missing"]), found["rows"]) == (names, [])


@pytest.mark.skipif(not SIMULATED, reason="there is a GPU")
def test_a_preflight_that_hangs_is_ended():
    code = (
        "import sys, time; sys.path.insert(0, 'jobs/benchmarks')\n"
        "import on_gpu.preflight; on_gpu.preflight.LIMIT = 0.3\n"
        "from ntkdist.kernels.cuda import device\n"
        "device.cuda_unavailable = lambda: time.sleep(60)\n"
        "import runpy; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    code, out, errors = ended(start("--all", code=code))
    assert (code, out) == (2, "")
    assert errors == "gpu.py: nothing is measured: stopped after 0 s\n"
