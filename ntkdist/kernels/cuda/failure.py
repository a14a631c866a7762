"""What an error of CUDA means for the process: the call alone failed, or the GPU is lost to it.

After an illegal address, a failed launch or a memory error that cannot be corrected, every later
call of the process ends with the same error, and only another process can use the GPU again. Which
errors are of this kind is not listed here; the GPU is asked. Launches raise exceptions of
cuda-core, allocations and copies those of Numba, so the type of an exception says nothing.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from ntkdist.errors import DeviceLostError, NtkdistError
from ntkdist.kernels.cuda.intrinsics import cuda

_Backend = TypeVar("_Backend")
_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
_Method = Callable[Concatenate[_Backend, _Given], _Result]


def watched(method: _Method[Any, _Given, _Result]) -> _Method[Any, _Given, _Result]:
    """Wrap a method of the backend: where it fails, ask whether the GPU can still be used.

    If it cannot, the method raises ``DeviceLostError``. If memory was short, the backend's
    workspace is freed for the next attempt.
    """

    @functools.wraps(method)
    def run(self: Any, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        try:
            return method(self, *args, **kwargs)
        except NtkdistError:
            raise
        except Exception as error:
            if "OUT_OF_MEMORY" in str(error):
                self.free_workspace()
            if (reason := loss()) is not None:
                raise DeviceLostError(f"{reason}: this process cannot use the GPU") from error
            raise

    return run


def loss() -> str | None:
    """Return the error that every call of CUDA ends with, and the GPU; None if calls succeed."""
    try:
        cuda.synchronize()
    except Exception as error:
        text = " ".join(str(error).split())
        name = re.search(r"CUDA_ERROR_\w+", text)
        holder = ", maybe held by another process (see nvidia-smi)" if "UNAVAILABLE" in text else ""
        return f"{name[0] if name else text} on {_gpu()}{holder}"
    return None


def _gpu() -> str:
    try:
        gpu = cuda.get_current_device()
    except Exception:  # where no context could be opened
        gpu = cuda.gpus[0]
    return f"GPU {gpu.id} ({gpu.name}, {gpu.uuid})"
