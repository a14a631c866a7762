"""The CUDA backend (``backend``) and the GPUs of this machine (``device``)."""

ARITHMETIC = "cuda-3"  # here, so that a driver on a machine without a GPU knows it
