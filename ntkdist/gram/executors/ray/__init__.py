"""Tiles on a Ray cluster: one long-lived actor per core or GPU."""

from ntkdist.gram.executors.ray.executor import RayExecutor

__all__ = ["RayExecutor"]
