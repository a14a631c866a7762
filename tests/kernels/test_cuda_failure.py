"""Errors of CUDA: which of them a process survives, and what is freed for the next attempt."""

import json
from types import SimpleNamespace

import pytest

from ntkdist.errors import DeviceLostError, InputError
from ntkdist.kernels.cuda import failure
from tests.kernels.stand_in import H100, Machine, driver, machine

__all__ = ["driver", "machine"]  # fixtures


class Backend:
    """Fails on request."""

    def __init__(self) -> None:
        self.freed = 0

    def free_workspace(self) -> None:
        self.freed += 1

    @failure.watched
    def block(self, error: Exception | None) -> str:
        if error is not None:
            raise error
        return "entries"


class Gpu:
    """What the module has as ``cuda``, with calls that all fail if ``error`` is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.gpus = [SimpleNamespace(id=0, name="H100", uuid="GPU-01")]

    def synchronize(self) -> None:
        if self._error:
            raise self._error

    def get_current_device(self) -> SimpleNamespace:
        self.synchronize()
        return self.gpus[0]


ILLEGAL = RuntimeError("[700] Call to cuCtxSynchronize results in CUDA_ERROR_ILLEGAL_ADDRESS")
BUSY = RuntimeError("CUDA_ERROR_DEVICE_UNAVAILABLE: the device\n is in exclusive mode")


def test_a_context_that_fails_in_every_call_is_lost(monkeypatch):
    monkeypatch.setattr(failure, "cuda", Gpu(ILLEGAL))
    with pytest.raises(DeviceLostError) as caught:
        Backend().block(ValueError("of whatever kind"))
    assert str(caught.value) == (
        "CUDA_ERROR_ILLEGAL_ADDRESS on GPU 0 (H100, GPU-01): this process cannot use the GPU"
    )
    assert caught.value.exit_code == 1


def test_a_gpu_that_another_process_holds_is_said_to_be_held(monkeypatch):
    monkeypatch.setattr(failure, "cuda", Gpu(BUSY))
    with pytest.raises(DeviceLostError, match=r"UNAVAILABLE on GPU 0 .*held by another process"):
        Backend().block(BUSY)


def test_an_error_after_which_the_gpu_answers_stays_what_it_is(monkeypatch):
    monkeypatch.setattr(failure, "cuda", Gpu())
    backend = Backend()
    assert backend.block(None) == "entries"
    with pytest.raises(ValueError, match="of the call"):
        backend.block(ValueError("of the call"))
    assert backend.freed == 0
    with pytest.raises(RuntimeError, match="OUT_OF_MEMORY"):
        backend.block(RuntimeError("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"))
    assert backend.freed == 1


def test_bad_input_is_not_asked_about(monkeypatch):
    monkeypatch.setattr(failure, "cuda", Gpu(ILLEGAL))
    with pytest.raises(InputError, match="bad"):
        Backend().block(InputError("bad"))


FAILING = """
import json, os
import numpy as np
from ntkdist import Architecture
from ntkdist.kernels import get_backend
from ntkdist.kernels.cuda.device import kernel_reports

backend, arch = get_backend("cuda"), Architecture.parse("fc-2")
images = np.ones((2, 2, 2, 1))
state = backend.prepare(arch, images)

def outcome(call, *given):
    try:
        call(*given)
        return ["none", ""]
    except Exception as error:
        return [type(error).__name__, str(error)]

found = {}
backend._runners["float32"].workspace.array("big", (9,), np.float32)
for name in %r:
    os.environ["STAND_IN_ERROR"] = name
    found[name] = [
        outcome(backend.prepare, arch, images),
        outcome(backend.block, state, state),
        outcome(backend.block_on_device, state, state),
    ]
    if "=2" in name:
        found["left"] = backend._runners["float32"].workspace.nbytes
os.environ["STAND_IN_ERROR"] = ""
found["kernels"] = [[one.blocks, one.occupancy] for one in kernel_reports("fc-2", (2, 2, 1))]
print(json.dumps(found))
"""
LOST, LAUNCH, COPY, MEMORY = errors = (
    "*=700",
    "cuLaunchKernelEx=700",
    "cuMemcpyDtoH_v2=716,cuCtxSynchronize=716",
    "cuMemAlloc_v2=2",
)


@pytest.mark.slow
def test_exceptions_of_numba_and_of_cuda_core_are_both_seen(machine: Machine) -> None:
    found = json.loads(machine.run(FAILING % (errors,), H100))
    assert {kind for kind, _ in found[LOST]} == {"DeviceLostError"}
    assert "CUDA_ERROR_ILLEGAL_ADDRESS on GPU 0 (Hopper H100, GPU-0101" in found[LOST][1][1]
    assert {kind for kind, _ in found[LAUNCH]} == {"CUDAError"}  # as if the next call worked
    assert "CUDA_ERROR_MISALIGNED_ADDRESS on GPU 0" in found[COPY][1][1]
    assert {kind for kind, _ in found[MEMORY]} == {"CudaAPIError"}
    assert found["left"] == 0
    # 6 blocks of 8 warps, says the driver; a multiprocessor has 64
    assert found["kernels"] == [[6, 0.75]]


@pytest.mark.slow
def test_a_gpu_in_use_in_exclusive_mode_is_told_as_such(machine: Machine) -> None:
    code = """
import numpy as np
from ntkdist import kernel_matrix
try:
    kernel_matrix("fc-2", np.ones((2, 2, 2, 1)))
except Exception as error:
    print(type(error).__name__, error)
"""
    said = machine.run(code, H100, STAND_IN_ERROR="cuDevicePrimaryCtxRetain=46")
    assert said.startswith("DeviceLostError CUDA_ERROR_DEVICE_UNAVAILABLE on GPU 0 (Hopper H100")
    assert "held by another process" in said
