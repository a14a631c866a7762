"""Arrays of other libraries on the GPU: read when they are filled, and not after ``prepare``."""

import json

import pytest

from tests.kernels.stand_in import H100, Machine, driver, machine

__all__ = ["driver", "machine"]  # fixtures

ARRAYS = """
import json, os
import numpy as np
from ntkdist import Architecture
from ntkdist.kernels import get_backend
from ntkdist.kernels.cuda import prepare
from ntkdist.kernels.cuda.intrinsics import cuda

class Array:
    def __init__(self, **more):
        self.memory = cuda.to_device(np.ones((2, 2, 2, 1)))
        interface = self.memory.__cuda_array_interface__
        del interface["stream"]
        self.__cuda_array_interface__ = {**interface, **more}

class OfJax(Array):
    def block_until_ready(self):
        with open(os.environ["STAND_IN_LOG"], "a") as log:
            log.write("0 block_until_ready\\n")

def calls():
    with open(os.environ["STAND_IN_LOG"]) as log:
        return [line.split()[1] for line in log]

arrays = {"jax": OfJax(version=2), "torch": Array(version=2), "cupy": Array(version=3, stream=7)}
"""
WAITED = """
found = {}
for name, array in arrays.items():
    before = len(calls())
    view = prepare.on_device(array)
    found[name] = calls()[before:]
    assert prepare.on_host(array).sum() == 8
os.environ["STAND_IN_POINTERS_ON"] = "1"
try:
    prepare.on_device(arrays["torch"])
except Exception as error:
    found["elsewhere"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""
READ = """
backend, arch = get_backend("cuda"), Architecture.parse("fc-2")
state = backend.prepare(arch, arrays["cupy"])
prepared = calls()
backend.block_on_device(state, state)
print(json.dumps([prepared, calls()]))
"""


def test_what_fills_an_array_is_waited_for(machine: Machine) -> None:
    found = json.loads(machine.run(ARRAYS + WAITED, H100))
    waits = ("block_until_ready", "cuCtxSynchronize", "cuStreamSynchronize")
    waited = {name: [one for one in calls if one in waits] for name, calls in found.items()}
    assert waited["jax"] == ["block_until_ready", "cuCtxSynchronize"]
    assert waited["torch"] == ["cuCtxSynchronize"]
    assert waited["cupy"] == ["cuStreamSynchronize"]
    assert found["elsewhere"] == (
        "InputError: the images are on GPU 1, and this process computes on GPU 0; copy them"
    )


@pytest.mark.slow
def test_kernels_are_waited_for_before_others_may_write_images_or_read_entries(
    machine: Machine,
) -> None:
    for calls in json.loads(machine.run(ARRAYS + READ, H100)):
        last = max(place for place, call in enumerate(calls) if call.startswith("cuLaunch"))
        assert "cuCtxSynchronize" in calls[last:]
