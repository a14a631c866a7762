"""The CUDA backend (``backend``) and the GPUs of this machine (``device``)."""

ARITHMETIC = "cuda-5"  # defined here: it is read on machines without a GPU too
