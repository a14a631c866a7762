"""The CUDA backend (``backend``) and the GPUs of this machine (``device``)."""

ARITHMETIC = "cuda-3"  # here, so that a driver on a machine without a GPU knows it
SIMULATED_BYTES = 64 * 2**20  # device memory that the simulator reports as free
