"""What the cuda backend asks of NVIDIA's driver, on a stand-in for it (``driver.c``)."""

import json
import re
from collections import Counter

import pytest

from ntkdist.events.log import read_events
from tests.kernels.stand_in import H100, OPENING, T4, Machine, driver, machine

__all__ = ["driver", "machine"]  # fixtures

EXCLUSIVE, PROHIBITED = (f"Hopper H100,9.0,{mode},1000" for mode in (3, 2))
ABOUT = """
import dataclasses, json
from ntkdist.kernels.cuda.device import cuda_unavailable, devices, usable_gpus
print(json.dumps({
    "reason": cuda_unavailable(),
    "devices": [dataclasses.asdict(one) for one in devices()],
    "usable": usable_gpus(),
}))
"""
SELECT = """
from ntkdist import Architecture
from ntkdist.kernels import get_backend, select_backend
chosen = select_backend(Architecture.parse("cntk-gap-4"), (8, 8, 1))
print(chosen.reason)
try:
    get_backend("cuda")
except Exception as error:
    print(type(error).__name__, error)
"""
NEW_NUMPY = """
import numpy
numpy.__version__ = "2.5.5"
del numpy.row_stack
"""
NO_TOOLKIT = """
from numba.cuda.cudadrv import nvvm
class Missing:
    def __init__(self):
        raise RuntimeError("no libnvvm.so")
nvvm.NVVM = Missing
"""


def about(machine: Machine, *gpus: str, before: str = "", **environment: str) -> dict:
    return json.loads(machine.run(before + ABOUT, *gpus, **environment))


@pytest.mark.parametrize("code", [ABOUT, SELECT])
def test_no_context_is_opened_to_list_gpus_and_to_choose_a_backend(machine, code):
    machine.run(code, EXCLUSIVE, T4)
    assert not OPENING & set(machine.log)
    assert "cuDeviceGetName" in machine.log


RUN = """
import sys
from ntkdist.api import execute
from ntkdist.config import DataConfig, GramConfig, RunConfig
from ntkdist.gram.store import GramStore
from ntkdist.pipeline import Pipeline
gram = GramConfig(backend="cuda", executor="ray", workers=1, tile=%r)
with Pipeline(RunConfig(sys.argv[1], "fc-2", DataConfig(n=12), gram=gram)) as pipeline:
    execute(pipeline, ["gram"])
    print(len(GramStore.open(pipeline.run.address("gram", "ntk")).done()))
"""
INLINE = """
import sys
from ntkdist.cli.main import main
settings = "--architecture fc-2 --data.source digits --data.n 12"
gram = "--gram.backend cuda --gram.executor inline --gram.tile 6"
try:
    main(["gram", "--run", sys.argv[1], *settings.split(), *gram.split()])
except SystemExit as error:
    print("code", error.code)
"""


@pytest.mark.slow
def test_the_driver_of_a_run_leaves_the_gpu_to_its_workers(machine, tmp_path):
    assert int(machine.run(RUN % "auto", EXCLUSIVE, argument=str(tmp_path / "run"))) >= 1
    assert OPENING & set(machine.others)
    mine = Counter(machine.log) - Counter(machine.others)
    assert not OPENING & set(mine)
    assert mine["cuDeviceGetName"]


@pytest.fixture
def loss(tmp_path):
    """The first process that launches a kernel loses its GPU to CUDA_ERROR_ILLEGAL_ADDRESS."""
    file = tmp_path / "loss"
    file.touch()
    return {"STAND_IN_LOSS": str(file)}


@pytest.mark.slow
def test_worker_that_loses_its_gpu_costs_one_attempt(machine, tmp_path, loss):
    run = str(tmp_path / "run")
    assert machine.run(RUN % 6, H100, argument=run, **loss) == "3"
    events = list(read_events(run))
    (failed,) = [one for one in events if one["event"] == "TileFailed"]
    assert "DeviceLostError: CUDA_ERROR_ILLEGAL_ADDRESS on GPU 0 (Hopper H100" in failed["error"]
    assert "cuLaunch" not in failed["error"]
    assert "failure.py" in failed["traceback"]
    assert [one["event"] for one in events].count("WorkerLost") == 1
    assert len({one["pid"] for one in events if one["event"] == "WorkerStarted"}) == 2


@pytest.mark.slow
def test_command_that_loses_its_gpu_says_how_to_resume(machine, tmp_path, loss):
    run = str(tmp_path / "run")
    assert machine.run(INLINE, H100, argument=run, **loss).splitlines()[-1] == "code 1"
    said, resume = machine.errors.splitlines()[-2:]
    assert said.startswith("ntkdist: CUDA_ERROR_ILLEGAL_ADDRESS on GPU 0 (Hopper H100, GPU-0101")
    assert said.endswith("3 tiles missing, the same command in a new process resumes")
    assert resume.startswith(f"resume with: ntkdist gram --run {run}")
    assert "code" not in machine.run(INLINE, H100, argument=run)


def test_a_context_would_be_seen(machine):
    machine.run("from numba import cuda; cuda.current_context()", H100)
    assert set(machine.log) >= {"cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2"}


def test_gpus_are_listed_with_what_is_free_and_their_mode(machine):
    found = about(machine, EXCLUSIVE, H100.replace("1000", "3000"))
    assert found["reason"] is None
    assert found["usable"] == 2
    first, second = found["devices"]
    assert (first["index"], first["name"], first["compute_capability"]) == (0, "Hopper H100", "9.0")
    assert (first["multiprocessors"], first["memory"], first["free"]) == (132, 80 * 2**30, 1000)
    assert (first["exclusive"], first["unusable"]) == (True, "")
    assert (second["index"], second["free"], second["exclusive"]) == (1, 3000, False)


def test_free_memory_is_known_of_an_instance_of_a_gpu_too(machine):
    (device,) = about(machine, H100, STAND_IN_KIND="MIG")["devices"]
    assert device["free"] == 1000


def test_free_memory_is_unknown_without_the_management_library(machine):
    found = about(machine, H100, STAND_IN_ERROR="nvmlInit_v2=12")
    assert found["devices"][0]["free"] is None


def test_old_gpus_are_refused_by_name_and_auto_says_why(machine):
    old = "GPU 0 (Tesla T4) has compute capability 7.5, and the kernels need 8.0 or more"
    found = about(machine, T4)
    assert found["reason"] == f"{old}; hide this GPU by CUDA_VISIBLE_DEVICES"
    assert found["usable"] == 0
    chosen, refused = machine.run(SELECT, T4).splitlines()
    assert chosen == f"cpu: the fastest that covers this network (cuda: {found['reason']})"
    assert refused == f"InputError backend 'cuda': {found['reason']}; or take backend cpu"


def test_a_process_is_told_of_its_own_gpu_alone(machine):
    found = about(machine, H100, T4)
    assert found["reason"] is None
    assert found["usable"] == 1
    assert [bool(one["unusable"]) for one in found["devices"]] == [False, True]
    found = about(machine, T4, H100)
    assert "GPU 0 (Tesla T4)" in found["reason"]
    assert found["usable"] == 1


def test_a_gpu_that_no_process_may_use_is_named(machine):
    found = about(machine, PROHIBITED)
    assert "GPU 0 (Hopper H100) is in compute mode prohibited" in found["reason"]
    assert found["usable"] == 0


@pytest.mark.parametrize(
    ("before", "environment", "words"),
    [
        (NEW_NUMPY, {}, r"numba-cuda .* does not work with numpy 2.5.5 \(.*'row_stack'\); pip "),
        (NO_TOOLKIT, {}, r"no CUDA toolkit \(no libnvvm.so\); pip install 'numba-cuda\[cu12\]'"),
        ("", {"STAND_IN_CUDA": "11040"}, r"driver offers CUDA 11.4; install a newer driver"),
    ],
    ids=["numpy", "toolkit", "driver"],
)
def test_what_keeps_kernels_from_being_compiled_is_said(machine, before, environment, words):
    found = about(machine, H100, before=before, **environment)
    assert re.search(words, found["reason"])
    assert found["usable"] == 0
    assert [one["unusable"] for one in found["devices"]] == [""]
    if before is NEW_NUMPY:
        assert found["reason"].endswith("pip install 'numpy<2.5'")


@pytest.mark.parametrize(
    ("gpus", "environment", "reason"),
    [
        ((), {}, "no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        ((H100,), {"STAND_IN_ERROR": "cuInit=802"}, "CUDA cannot be used here: .*SYSTEM_NOT_READY"),
        ((H100,), {"NUMBA_DISABLE_CUDA": "1"}, "CUDA cannot be used here: .*NUMBA_DISABLE_CUDA=1"),
    ],
    ids=["none", "not ready", "disabled"],
)
def test_a_machine_without_a_gpu_says_why(machine, gpus, environment, reason):
    found = about(machine, *gpus, **environment)
    assert re.match(reason, found["reason"])
    assert found["devices"] == []
