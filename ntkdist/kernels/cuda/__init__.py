"""The CUDA backend (``backend``) and what this machine's GPUs are (``device``)."""
