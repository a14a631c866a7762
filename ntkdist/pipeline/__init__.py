"""The stages of one run, in order, each resumable."""

from ntkdist.pipeline.stages import Pipeline

__all__ = ["Pipeline"]
