"""A GPU simulated: the kernels' compiled code (PTX) is executed on the processor, and checked.

``program`` turns PTX into NumPy operations, ``machine`` runs a launch, ``compiler`` makes PTX
without a GPU, and ``device`` stands in for the GPU, so that the cuda backend runs as it is. The
compilers are numba-cuda's, from ``deploy/constraints-cuda.txt``.
"""

from tests.kernels.simulator.device import GPU, ON_SIMULATOR, install, run_script, use_as_gpu

__all__ = ["GPU", "ON_SIMULATOR", "install", "run_script", "use_as_gpu"]
