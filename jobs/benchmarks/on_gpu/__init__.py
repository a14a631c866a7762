"""What ``gpu.py`` measures a GPU with; numba and jax are imported only where they are used."""
