"""Panels on a GPU: CuPy's stand-in where there is none, the same tests on a real one."""

from __future__ import annotations

import pickle
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from ntkdist.cli import main as cli
from ntkdist.errors import DeviceLostError, InputError
from ntkdist.events.types import FactorDevice, PanelDone, PanelStarted
from ntkdist.linalg import (
    CholeskyFactor,
    NotPositiveDefiniteError,
    check_device,
    device,
    factorize,
    plan_panels,
)
from ntkdist.linalg.blas import ITEM
from ntkdist.linalg.device import WORKSPACE, PanelRow, Shared
from ntkdist.linalg.panels import FactorStore, PanelPlan
from ntkdist.linalg.status import parse_memory
from tests.linalg.matrices import SMALL, spd, stored_bytes, whole_factor, with_eigenvalues
from tests.linalg.standin import GPU, StandIn, install, no_cupy
from tests.linalg.stopping import StopError, stop_at

N = 450
MODES = {"one panel": "2GiB", "many panels": SMALL}


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    return spd(N)


@pytest.fixture(scope="module")
def on_cpu(matrix, tmp_path_factory) -> Path:
    url = tmp_path_factory.mktemp("cpu") / "f"
    factorize(matrix, url, memory_limit=SMALL, device="cpu")
    return url


@pytest.fixture
def gpu(monkeypatch) -> StandIn:
    return install(monkeypatch, StandIn())


@pytest.fixture
def none(monkeypatch) -> None:
    monkeypatch.setattr(device, "load_cupy", no_cupy)


def devices(url: Path) -> list[str | None]:
    opened = FactorStore.open(str(url))
    assert opened is not None
    return [record.get("device") for record in opened[0].records()]


def told(events: list) -> list[tuple[str, str]]:
    return [(e.device, e.reason) for e in events if isinstance(e, FactorDevice)]


def traffic(plan: PanelPlan) -> tuple[int, int]:
    """Bytes to a GPU and from it: each block once."""
    up = down = 0
    for k in range(plan.count):
        first, past = plan.columns(k)
        w, below = past - first, plan.n - past
        up += (w + below) * (first + w)  # its rows of earlier panels, and its entries of A
        down += (w + below) * w
    return ITEM * up, ITEM * down


def most_at_once(plan: PanelPlan) -> int:
    """Bytes of one task after the other: two diagonal blocks, or one and two blocks of rows."""
    most = 0
    for k in range(plan.count):
        first, past = plan.columns(k)
        w = past - first
        rows = max((r1 - r0 for r0, r1 in plan.blocks(past, plan.n)), default=0)
        earlier = plan.width if k else 0
        most = max(most, w * first + w * w + max(w * w, rows * (w + earlier)))
    return ITEM * most


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("limit", MODES.values(), ids=MODES)
def test_the_same_blas_gives_the_same_bits(tmp_path, matrix, gpu, limit, scheduler):
    expected = factorize(matrix, tmp_path / "cpu", memory_limit=limit, device="cpu")
    assert gpu.up == gpu.down == 0
    events: list = []
    got = factorize(
        matrix, tmp_path / "f", memory_limit=limit, scheduler=scheduler, on_event=events.append
    )
    assert stored_bytes(tmp_path / "f") == stored_bytes(tmp_path / "cpu")
    assert got.digest() == expected.digest()
    assert (got.device, expected.device) == ("cuda", "cpu")
    assert told(events) == [("cuda", GPU)]
    assert events[0].line() == f"factor: on cuda ({GPU})"


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("limit", MODES.values(), ids=MODES)
def test_nothing_is_copied_twice_and_all_memory_is_given_back(
    tmp_path, matrix, gpu, limit, scheduler
):
    factorize(matrix, tmp_path / "f", memory_limit=limit, scheduler=scheduler, device="cuda")
    plan = plan_panels(N, parse_memory(limit))
    assert (gpu.up, gpu.down) == traffic(plan)
    assert gpu.in_use == 0
    if scheduler == "synchronous":
        assert gpu.peak == most_at_once(plan)
    assert gpu.peak <= plan.device_bytes(len(plan.blocks(0, N)))


def test_the_sum_of_the_blocks_is_the_one_in_the_documentation():
    n, w = 20_000, 500
    up, down = traffic(PanelPlan(n, w, w))
    assert up == pytest.approx(ITEM * n**3 / (6 * w), rel=0.1)
    assert down == pytest.approx(ITEM * n**2 / 2, rel=0.1)


@pytest.mark.parametrize("panel", range(6))
def test_it_resumes_after_any_panel(tmp_path, matrix, on_cpu, gpu, panel):
    url = tmp_path / "f"
    with pytest.raises(StopError):
        factorize(matrix, url, memory_limit=SMALL, on_event=stop_at(PanelDone, index=panel))
    events: list = []
    factorize(matrix, url, memory_limit=SMALL, on_event=events.append)
    computed = [e.index for e in events if isinstance(e, PanelStarted)]
    assert computed == list(range(panel + 1, 6))
    assert told(events) == ([("cuda", GPU)] if computed else [])
    assert stored_bytes(url) == stored_bytes(on_cpu)
    assert devices(url) == ["cuda"] * 6


KEPT = "2 panels computed on {} kept: they agree to rounding"


@pytest.mark.parametrize(
    ("begun", "then", "present", "expected", "reason"),
    [
        # nothing to tell: it goes on as it began
        ("cpu", "cpu", True, "cpu", None),
        ("cpu", "auto", False, "cpu", None),
        ("cuda", "auto", True, "cuda", GPU),
        ("cuda", "cuda", True, "cuda", GPU),
        ("cpu", "auto", True, "cpu", "as the 2 panels stored; device cuda continues on the GPU"),
        ("cpu", "cuda", True, "cuda", f"{GPU}; {KEPT.format('cpu')}"),
        ("cuda", "cpu", True, "cpu", KEPT.format("cuda")),
        (
            "cuda",
            "auto",
            False,
            "cpu",
            "CuPy is not installed; pip install 'cupy-cuda12x[ctk]'; " + KEPT.format("cuda"),
        ),
    ],
)
def test_a_factor_is_continued_on_its_device_or_says_why_not(
    tmp_path, monkeypatch, matrix, on_cpu, gpu, begun, then, present, expected, reason
):
    url = tmp_path / "f"
    stop = stop_at(PanelDone, index=1)
    with pytest.raises(StopError):
        factorize(matrix, url, memory_limit=SMALL, device=begun, on_event=stop)
    if not present:
        monkeypatch.setattr(device, "load_cupy", no_cupy)
    events: list = []
    factor = factorize(matrix, url, memory_limit=SMALL, device=then, on_event=events.append)
    assert told(events) == ([(expected, reason)] if reason else [])
    assert devices(url) == [begun] * 2 + [expected] * 4
    assert factor.device == "+".join(sorted({begun, expected}))
    assert stored_bytes(url) == stored_bytes(on_cpu)


def test_panels_without_a_device_in_their_records_are_the_cpus(tmp_path, matrix, gpu):
    url = tmp_path / "f"
    with pytest.raises(StopError):
        factorize(
            matrix, url, memory_limit=SMALL, device="cpu", on_event=stop_at(PanelDone, index=1)
        )
    for k in range(2):
        record = zarr.open_group(str(url / f"panels/{k:05d}"), mode="r+")
        record.attrs.put({k: v for k, v in dict(record.attrs).items() if k != "device"})
    assert factorize(matrix, url, memory_limit=SMALL).device == "cpu"
    assert devices(url) == [None, None, *["cpu"] * 4]


def test_a_finished_factor_needs_no_gpu(matrix, on_cpu, none):
    assert factorize(matrix, on_cpu, memory_limit=SMALL, device="cuda").device == "cpu"


def failures_at_a_pivot(folder, limit):
    """Return the errors of both devices about a matrix that is not positive definite."""
    a = with_eigenvalues(np.r_[-3e-4, np.linspace(0.5, 1.5, N - 1)])
    failures = []
    for name in ("cpu", "cuda"):
        with pytest.raises(NotPositiveDefiniteError) as caught:
            factorize(a, folder / name, memory_limit=limit, device=name)
        failures.append(caught.value)
    return failures


@pytest.mark.parametrize("limit", MODES.values(), ids=MODES)
def test_a_failing_pivot_is_the_cpus(tmp_path, gpu, limit):
    cpu, cuda = failures_at_a_pivot(tmp_path, limit)
    assert str(cuda) == str(cpu)
    assert (cuda.pivot, cuda.value) == (cpu.pivot, cpu.value)
    assert cuda.suggested_ridge == cpu.suggested_ridge == 1e-3
    assert gpu.in_use == 0


def test_the_cpu_decides_where_the_gpu_finds_no_factor(tmp_path, monkeypatch, matrix, on_cpu, gpu):
    """Rounding may differ: what the CPU can factor is no error."""
    cupy, _ = gpu.modules
    monkeypatch.setattr(cupy.linalg, "cholesky", lambda _: refuse())
    factorize(matrix, tmp_path / "f", memory_limit=SMALL, device="cuda")
    assert stored_bytes(tmp_path / "f") == stored_bytes(on_cpu)
    plan = plan_panels(N, parse_memory(SMALL))
    up, down = traffic(plan)
    # all diagonal blocks but the last, below which there are no rows, go back to the GPU
    assert (gpu.up, gpu.down) == (up + ITEM * (plan.count - 1) * plan.width**2, down)


def refuse() -> Any:
    raise np.linalg.LinAlgError("Error reported by dpotrf. devInfo = [7]")


def test_overflow_is_no_pivot(tmp_path, gpu):
    a = np.array([[1e-300, 1e300], [1e300, 1.0]])
    with pytest.raises(InputError, match="float64 overflowed"):
        factorize(a, tmp_path / "f", device="cuda")


def no_gpu(gpu: StandIn) -> StandIn:
    gpu.gpus = 0
    return gpu


def broken(gpu: StandIn, name: str) -> StandIn:
    gpu.failing = name
    return gpu


@pytest.mark.parametrize(
    ("standin", "text"),
    [
        (None, r"CuPy is not installed; pip install 'cupy-cuda12x\[ctk\]'; or take device cpu"),
        (no_gpu(StandIn()), r"CuPy finds no GPU \(cudaErrorNoDevice: .*; check nvidia-smi"),
        (broken(StandIn(), "gemm"), r"CuPy fails on the GPU \(libgemm.so.12: .*, or pip install"),
        (broken(StandIn(), "cholesky"), r"CuPy fails on the GPU \(libcholesky"),
    ],
    ids=["no CuPy", "no GPU", "no cuBLAS", "no cuSOLVER"],
)
def test_without_a_gpu_cuda_is_refused_and_auto_is_the_cpu(
    tmp_path, monkeypatch, matrix, standin, text
):
    monkeypatch.setattr(device, "load_cupy", standin.load if standin else no_cupy)
    with pytest.raises(InputError, match="device 'cuda': " + text) as caught:
        factorize(matrix, tmp_path / "f", device="cuda")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "f").exists()
    check_device("auto")
    events: list = []
    assert factorize(matrix, tmp_path / "f", on_event=events.append).device == "cpu"
    if "fails" in text:
        assert re.match(text, told(events)[0][1])
        check_device("cuda")  # would have to open a context to know
    else:
        assert told(events) == []  # a GPU that nobody expects is not missing
        with pytest.raises(InputError, match=text):
            check_device("cuda", "threads")


def test_an_import_that_fails_is_no_traceback(monkeypatch):
    def fail() -> Any:
        raise ImportError('Failure finding "libcublas.so.12":\nNo such file')

    monkeypatch.setattr(device, "load_cupy", fail)
    assert not device.unavailable().expected  # who has CuPy is told
    text = r'CuPy cannot be imported \(Failure finding "libcublas.so.12": No such file\); pip'
    with pytest.raises(InputError, match=text):
        check_device("cuda")


def test_an_unknown_device_is_named(tmp_path, matrix):
    with pytest.raises(InputError, match=r"device.*'gpu'.*auto, cpu, cuda"):
        factorize(matrix, tmp_path / "f", device="gpu")


def room(plan: PanelPlan, tasks: int = 1) -> int:
    return plan.device_bytes(tasks) + WORKSPACE


@pytest.mark.parametrize("limit", MODES.values(), ids=MODES)
def test_a_panel_that_does_not_fit_is_refused_or_the_cpus(tmp_path, gpu, matrix, limit):
    plan = plan_panels(N, parse_memory(limit))
    gpu.limit = room(plan) - 1
    width = min(plan.width, N)
    text = (
        rf"panels of {width} columns need 2\d\d MiB on the GPU, where 2\d\d MiB of 2\d\d MiB are "
        r"free; end what else uses the GPU \(see nvidia-smi\), or .*smaller memory_limit"
    )
    with pytest.raises(InputError, match="device 'cuda': " + text):
        factorize(matrix, tmp_path / "f", memory_limit=limit, device="cuda")
    assert not (tmp_path / "f").exists()
    events: list = []
    factor = factorize(matrix, tmp_path / "f", memory_limit=limit, on_event=events.append)
    assert factor.device == "cpu"
    assert gpu.up == 0
    [(name, reason)] = told(events)
    assert name == "cpu"
    assert reason.startswith(f"panels of {width} columns need ")
    gpu.limit += 1
    there = factorize(matrix, tmp_path / "g", memory_limit=limit, device="cuda")
    assert there.digest() == factor.digest()


def test_as_many_tasks_share_the_gpu_as_fit_its_memory():
    plan = plan_panels(20_000, 2**30)
    assert plan.device_tasks(plan.device_bytes() - 1) == 0
    for tasks in (1, 3, 8):
        memory = plan.device_bytes(tasks)
        most = plan.device_tasks(memory)
        assert plan.device_bytes(most) == memory
        assert plan.device_bytes(most + 1) > memory


@pytest.mark.parametrize("tasks", [1, 3])
def test_tasks_wait_for_their_share_of_the_memory(gpu, tasks):
    plan = plan_panels(N, parse_memory(SMALL))
    gpu.limit = room(plan, tasks)
    row = PanelRow([np.ones((plan.width, plan.width))], "cuda", plan)
    lock, inside, most = threading.Lock(), 0, 0

    def work(here: Any, blocks: list[Any]) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.01)
        with lock:
            inside -= 1

    with ThreadPoolExecutor(8) as pool:
        places = [place for _, place in pool.map(lambda _: row.compute(work), range(16))]
    assert most == plan.device_tasks(plan.device_bytes(tasks)) == tasks
    assert {place.device for place in places} == {"cuda"}
    assert gpu.up == ITEM * plan.width**2


def test_all_threads_together_stay_within_the_memory(tmp_path, matrix, gpu):
    plan = plan_panels(N, parse_memory(SMALL))
    gpu.limit = room(plan)
    factorize(matrix, tmp_path / "f", memory_limit=SMALL, scheduler="threads", device="cuda")
    assert gpu.peak <= plan.device_bytes()


def test_after_one_task_ran_out_of_memory_the_panel_stays_on_the_cpu(gpu):
    plan = plan_panels(N, 2**30)
    row = PanelRow([np.ones((4, 4))], "auto", plan)
    row.compute(lambda *_: None)
    before, gpu.limit = gpu.up, gpu.in_use
    _, first = row.compute(lambda here, _: here.put(np.ones((2, 2))))
    gpu.limit = 2**40
    _, second = row.compute(lambda here, _: here.put(np.ones((2, 2))))
    assert first.device == second.device == "cpu"
    assert first.reason == second.reason
    assert gpu.up == before
    assert gpu.in_use == 0


@pytest.mark.parametrize("after", [0, 3, 40])
def test_memory_that_another_program_takes_meanwhile(
    tmp_path, monkeypatch, matrix, on_cpu, gpu, after
):
    """Under ``auto`` the panel is finished on the CPU; ``cuda`` says what to do, and resumes."""
    cupy, _ = gpu.modules
    left = iter(range(after))

    def empty(shape: tuple[int, int], dtype: Any) -> Any:
        if next(left, None) is None:
            gpu.limit = gpu.in_use
        return gpu.empty(shape, dtype)

    monkeypatch.setattr(cupy, "empty", empty)
    events: list = []
    url = tmp_path / "f"
    factor = factorize(matrix, url, memory_limit=SMALL, on_event=events.append)
    assert factor.device == ("cpu" if after < 3 else "cpu+cuda")
    name, reason = told(events)[1]
    assert "cpu" in name
    assert "GPU ran out of memory (Out of memory allocating" in reason
    assert stored_bytes(url) == stored_bytes(on_cpu)
    assert gpu.in_use == 0

    gpu.limit, left = 2**40, iter(range(after))
    with pytest.raises(InputError, match=r"device 'cuda': the GPU ran out of memory .*; end what"):
        factorize(matrix, tmp_path / "g", memory_limit=SMALL, device="cuda")
    gpu.limit, left = 2**40, iter(range(10**6))
    factorize(matrix, tmp_path / "g", memory_limit=SMALL, device="cuda")
    assert stored_bytes(tmp_path / "g") == stored_bytes(on_cpu)


def test_a_gpu_that_fails_is_left_or_the_error_says_what_is_kept(
    tmp_path, monkeypatch, matrix, on_cpu, gpu
):
    cupy, _ = gpu.modules
    left = iter(range(40))

    def empty(shape: tuple[int, int], dtype: Any) -> Any:
        gpu.lost |= next(left, None) is None  # in the middle of a panel
        return gpu.empty(shape, dtype)

    monkeypatch.setattr(cupy, "empty", empty)
    url = tmp_path / "f"
    text = r"device 'cuda': the GPU failed \(cudaErrorECC.*; panels that are stored are kept: start"
    with pytest.raises(DeviceLostError, match=text):
        factorize(matrix, url, memory_limit=SMALL, device="cuda")
    done = len(devices(url))
    assert 0 < done < 5

    gpu.lost, left = False, iter(range(10))
    events: list = []
    factorize(matrix, url, memory_limit=SMALL, on_event=events.append)
    (_, first), (name, second) = told(events)[:2]
    assert first == GPU
    assert "cpu" in name
    assert second.startswith("the GPU failed (cudaErrorECCUncorrectable")
    assert devices(url)[-1] == "cpu"  # it is not found again
    assert stored_bytes(url) == stored_bytes(on_cpu)
    with pytest.raises(InputError, match="device 'cuda': the GPU failed"):
        factorize(matrix, tmp_path / "g", device="cuda")


def test_other_processes_get_the_hosts_arrays(gpu):
    plan = plan_panels(N, 2**30)
    row = PanelRow([np.ones((2, 3))], "cuda", plan)
    row.compute(lambda here, blocks: here.put(blocks[0].gpu and np.ones((1, 1))))
    lower = Shared([np.eye(2)], ["a copy on the GPU"])
    again, below = pickle.loads(pickle.dumps((row, lower)))
    assert_array_equal(below.arrays[0], np.eye(2))
    gpu.reset()
    (values, place) = again.compute(lambda here, blocks: (blocks, below.on(here)))
    assert place.device == "cuda"
    assert gpu.up == 8 * (6 + 4)
    assert_array_equal(values[0][0].values, np.ones((2, 3)))
    assert row.__sizeof__() == 48


@pytest.mark.slow
def test_workers_of_a_cluster_decide_for_themselves(tmp_path, matrix, on_cpu, gpu):
    from distributed import Client

    with Client(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None,
        set_as_default=False,
    ) as client:  # fmt: skip
        url = tmp_path / "f"
        factor = factorize(matrix, url, memory_limit=SMALL, scheduler=client)
        assert factor.device == "cuda"
        assert (gpu.up, gpu.down) == traffic(plan_panels(N, parse_memory(SMALL)))
    assert stored_bytes(url) == stored_bytes(on_cpu)


@pytest.mark.slow
def test_a_worker_without_a_gpu_is_an_error_with_the_remedy(tmp_path, matrix, gpu):
    """The stand-in is in this process alone: workers have no CuPy."""
    pytest.importorskip("distributed")
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(InputError, match=r"device 'cuda': CuPy .*or take device cpu"):
            factorize(matrix, tmp_path / "f", scheduler=address, device="cuda")
        assert factorize(matrix, tmp_path / "f", scheduler=address).device == "cpu"


RUN = [
    "--data.source",
    "digits",
    "--architecture",
    "fc-2",
    "--data.n",
    "200",
    "--gram.executor",
    "inline",
]


def test_a_run_on_the_command_line_says_what_computes_its_factor(
    tmp_path, monkeypatch, capsys, gpu
):
    monkeypatch.chdir(tmp_path)
    cli.main(["run", "--run", "here", *RUN, "--factor.device", "cpu"])
    said = capsys.readouterr().err
    assert "1 panel on cpu, ridge 0.001" in said
    assert "factor: on" not in said
    assert gpu.up == 0
    flags = [*RUN, "--factor.device", "cuda", "--factor.memory_limit", "1.4MB"]
    cli.main(["run", "--run", "there", *flags])
    said = capsys.readouterr().err
    assert f"factor: on cuda ({GPU})" in said
    assert "3 panels on cuda, ridge 0.001" in said
    assert gpu.up > 0
    factors = [CholeskyFactor.open(f"{run}/factor/ntk/ridge-0.001") for run in ("here", "there")]
    assert [factor.device for factor in factors] == ["cpu", "cuda"]
    lower = whole_factor(factors[0])
    assert np.abs(whole_factor(factors[1]) - lower).max() <= 1e-12 * np.abs(lower).max()
    cli.main(["verify", "there", "--quiet"])
    assert "nothing is wrong" in capsys.readouterr().out


def test_a_run_that_asks_for_a_gpu_is_refused_before_its_gram(tmp_path, monkeypatch, capsys, none):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "--run", "here", *RUN, "--factor.device", "cuda"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "device 'cuda': CuPy is not installed; pip install 'cupy-cuda12x[ctk]'" in said
    assert not list((tmp_path / "here").rglob("gram/ntk/c/*"))


@pytest.fixture(scope="module")
def real() -> None:
    """CuPy itself, or the reason why there is none."""
    if place := device.unavailable():
        pytest.skip(place.reason)


@pytest.mark.gpu
@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("limit", ["2GiB", "100MB"], ids=MODES)
def test_a_real_gpu_computes_the_cpus_factor(tmp_path, limit):
    a = spd(3000)
    cpu = factorize(a, tmp_path / "cpu", memory_limit=limit, device="cpu")
    cuda = factorize(a, tmp_path / "cuda", memory_limit=limit, device="cuda")
    assert (cpu.device, cuda.device) == ("cpu", "cuda")
    assert cuda.panel_count == cpu.panel_count
    expected = whole_factor(cpu)
    assert np.abs(whole_factor(cuda) - expected).max() <= 1e-12 * np.abs(expected).max()


@pytest.mark.gpu
@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("limit", MODES.values(), ids=MODES)
def test_a_real_gpu_fails_at_the_cpus_pivot(tmp_path, limit):
    failures = failures_at_a_pivot(tmp_path, limit)
    assert failures[1].pivot == failures[0].pivot
    assert failures[1].suggested_ridge == failures[0].suggested_ridge
