"""A run: one folder or object-store prefix with its inputs, manifest and results."""

from ntkdist.runs.run import STAGES, Run

__all__ = ["STAGES", "Run"]
