"""Analyses of a run: each computes one result from its kernel, stores it and describes it.

A module of this package is one analysis, whole: what computes it, its result, its text for people,
its picture, and how the report reads it back from a run. It defines ``ANALYSIS``, by which the
report, ``ntkdist status`` and the documentation's tests find it.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ntkdist.analyses.section import Analysis, ReportSection
    from ntkdist.runs.run import Run

__all__ = ["analyses", "read_sections"]


@cache
def analyses() -> tuple[Analysis, ...]:
    """Return every analysis in its place; importing them takes no longer than the stages do."""
    modules = (import_module(f"{__name__}.{one.name}") for one in pkgutil.iter_modules(__path__))
    defined = (module.ANALYSIS for module in modules if hasattr(module, "ANALYSIS"))
    return tuple(sorted(defined, key=lambda analysis: analysis.place))


def read_sections(run: Run) -> tuple[list[ReportSection], list[Analysis]]:
    """Read the stored results of all analyses; those from before an extension count as missing.

    Returns:
        The sections of the report in their order, and the analyses without a result.
    """
    found: list[ReportSection] = []
    missing: list[Analysis] = []
    for analysis in analyses():
        if analysis.sections is not None:
            sections = analysis.sections(run)
            found += sections
            missing += [] if sections else [analysis]
    return found, missing
