"""numba-cuda without a GPU and its driver: kernels are compiled and loaded, never launched."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from numba import types
from numba.cuda import dispatcher
from numba.cuda.cudadrv import devices, nvvm


class Driver:
    """Stands in for the driver, and counts what compilers do.

    Attributes:
        capability: Compute capability of the only device.
        typed: How many functions Numba has typed, device functions included.
        translated: How many programs NVVM has compiled.
        loaded: The binaries that were loaded onto the device.
    """

    def __init__(self, patch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> None:
        self.capability = capability
        self.typed = self.translated = 0
        self.loaded: list[bytes] = []
        self._device = SimpleNamespace(
            id=0, MULTIPROCESSOR_COUNT=132, MAX_THREADS_PER_MULTIPROCESSOR=2048
        )
        context = SimpleNamespace(
            device=self._device,
            create_module_image=self._load,
            get_active_blocks_per_multiprocessor=lambda *_: 8,
        )

        def get_context(_: Any = None) -> Any:
            self._device.compute_capability = self.capability
            return context

        patch.setattr(devices._runtime, "get_or_create_context", get_context)
        patch.setattr("numba.cuda.get_current_device", lambda: get_context().device)
        patch.setattr(dispatcher, "compile_cuda", self._counted("typed", dispatcher.compile_cuda))
        patch.setattr(nvvm, "compile_ir", self._counted("translated", nvvm.compile_ir))

    @property
    def compiled(self) -> bool:
        """Whether anything was typed or compiled since the last time."""
        counts = self.typed, self.translated
        self.typed = self.translated = 0
        return any(counts)

    def _counted(self, name: str, function: Any) -> Any:
        def counting(*args: Any, **options: Any) -> Any:
            setattr(self, name, getattr(self, name) + 1)
            return function(*args, **options)

        return counting

    def _load(self, cubin: Any, *_: Any) -> Any:
        """Return what ``cuModuleLoadData`` would, with the resources of no kernel."""
        self.loaded.append(bytes(cubin.code))
        attributes = SimpleNamespace(regs=64, local=8, shared=1024, const=0, maxthreads=1024)
        module = SimpleNamespace(initialized=True)
        module.get_function = lambda name: SimpleNamespace(
            name=name, module=module, attrs=attributes
        )
        return module


def compile_pool() -> None:
    """Compile the kernel of an average pool, or load it, and print what compilers did."""
    from ntkdist.kernels.cuda.general import pool_kernel

    driver = Driver(pytest.MonkeyPatch())
    cells, whole = types.Array(types.float32, 5, "C"), types.int64
    slots = types.Array(whole, 1, "C")
    kernel = pool_kernel("float32")
    kernel.compile((cells, slots, *[whole] * 5, cells))
    (registers,) = kernel.get_regs_per_thread().values()
    print(json.dumps([driver.typed, driver.translated, registers]))


def describe_kernels() -> None:
    """Print the keys of kernels that differ from each other, and those of kernels that may not."""
    from ntkdist import Architecture
    from ntkdist.kernels.chain import chain_of
    from ntkdist.kernels.cuda import backend, dense, general, graph, prepare
    from ntkdist.kernels.cuda.compile import kernel_key
    from ntkdist.kernels.cuda.fused import fused_kernel
    from ntkdist.kernels.cuda.layout import layout_of
    from ntkdist.kernels.cuda.stages import graph_layout
    from ntkdist.kernels.graph import graph_of

    Driver(pytest.MonkeyPatch())
    apart, alike = [], [graph.copy_kernel()]
    for dtype in ("float32", "float64"):
        of_dtype = (general.general_kernel, general.pool_kernel, dense.dense_kernel)
        apart += [make(dtype) for make in (*of_dtype, graph.windows_kernel, graph.halves_kernel)]
        for name, edge in (("cntk-gap-3", 8), ("cntk-gap-4", 8), ("cntk-gap-4", 9), ("cnn-3", 12)):
            chain = chain_of(Architecture.parse(name))
            blocks = layout_of(chain, (edge, edge, 3), dtype).blocks
            apart += [fused_kernel(block.fused) for block in blocks if block.fused]
        for layer in ("Gelu", "Erf", "LayerNorm"):
            network = graph_of(Architecture.parse(["Conv(2)", layer, "Flatten", "Dense"]))
            apart.append(graph.level_kernel(graph_layout(network, (6, 6, 1), dtype)))
        alike += prepare.image_kernels(dtype).values()
        for others in (False, True):
            alike += backend.finish_kernels(dtype, others).values()
    keys = [[kernel_key(k.py_func, k.targetoptions, ()) for k in ks] for ks in (apart, alike)]
    print(json.dumps(keys))
