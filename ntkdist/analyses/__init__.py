"""Analyses of a run: each computes one result from its kernel, stores it and describes it.

A module of this package is one analysis, whole: what computes it, its result, its text for people,
its picture, and how the report reads it back from a run. It defines ``ANALYSIS``, by which the
report, ``ntkdist status`` and the documentation's tests find it. Here is what they share.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ntkdist import storage
from ntkdist.display.svg import FONT_SIZE, inline_svg, new_figure
from ntkdist.runs.run import Run, result_key
from ntkdist.words import VERDICTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLACE = "place"  # attribute of a result: how many were stored before it
_WHICH = {
    "test": "of the test split",
    "rest": "of the split that the run leaves out",
    "holdout": "of the run that were held out",
}


@dataclass(frozen=True)
class ReportSection:
    """The stored result of one analysis, as the report shows it.

    Attributes:
        name: Of the section, unique in the page.
        title: Its heading.
        sentences: What was found.
        numbers: (what, number, note) of the most important values.
        figures: (SVG, caption) each.
        head: Column titles of a table; empty for none.
        rows: Rows of the table; the first cell names the row.
        more: A command that would add to the section, and what it adds; None for none.
    """

    name: str
    title: str
    sentences: tuple[str, ...]
    numbers: tuple[tuple[str, str, str], ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    more: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """A question that the kernel of a run answers.

    Attributes:
        command: Of the command line; its results are in the run's group of the same name.
        question: The first sentence of the command's help.
        place: Position in the report and in every list of analyses.
        sections: Reads the stored results as sections of the report, none where a result is
            missing, incomplete or outdated. None: the analysis stores nothing in the run.
        arguments: What the command needs beside the run.
        suggested: Whether ``ntkdist status`` suggests the command for a finished run.
    """

    command: str
    question: str
    place: int
    sections: Callable[[Run], list[ReportSection]] | None = None
    arguments: str = ""
    suggested: bool = False

    @property
    def group(self) -> str:
        """The group of a run that holds the results."""
        return self.command.replace("-", "_")

    def is_stored(self, run: Run) -> bool:
        """Return whether a run holds results of this analysis, outdated ones included."""
        return bool(run.attributes(self.group))

    def is_current(self, run: Run) -> bool:
        """Return whether a run holds results of this analysis on its present images."""
        return self.is_stored(run) and run.is_current(self.group)

    def command_line(self, run: Run) -> str:
        """Return the command that answers the question for a run."""
        return f"ntkdist {self.command} {run.url} {self.arguments}".rstrip()


def read_verdict(run: Run) -> str | None:
    """Return the verdict on a run's labels; None where there is none that can be read."""
    summary = run.attributes("labels").get("summary")
    reliability = summary.get("reliability") if isinstance(summary, dict) else None
    verdict = reliability.get("verdict") if isinstance(reliability, dict) else None
    return verdict if verdict in VERDICTS else None


def stored(run: Run, name: str, *keys: str) -> dict[str, Any] | None:
    """Return the attributes of a stored result, named by its group (slash-separated).

    None if one of the keys is missing or the result was stored before the run was extended.
    """
    parts = name.split("/")
    attributes = run.attributes(*parts)
    if not attributes.keys() >= set(keys) or not run.is_current(*parts):
        return None
    return attributes


def store_result(
    run: Run,
    group: str,
    settings: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Any],
) -> None:
    """Store a result under the settings that it was asked for; those of others are kept.

    Args:
        run: Of the result.
        group: Of the analysis, in the run.
        settings: Everything that decides the result, as JSON takes it.
        arrays: Name → values.
        attributes: The figures, as JSON takes them.
    """
    key = result_key(settings)
    place = run.attributes(group, key).get(_PLACE, len(storage.children(run.address(group))))
    about = {**attributes, "settings": dict(settings), _PLACE: place}
    run.write_result(f"{group}/{key}", arrays, about)
    run.write_attributes(group, {})


def stored_results(run: Run, group: str, *keys: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the results of an analysis as (group, attributes), in the order of their first start.

    Those that lack a key, or were stored before the run was extended, are left out.
    """
    children = (name for name in storage.children(run.address(group)) if "." not in name)
    names = [group, *(f"{group}/{name}" for name in children)]
    results = ((name, stored(run, name, *keys)) for name in names)
    kept = [(name, attributes) for name, attributes in results if attributes is not None]
    return sorted(kept, key=lambda one: (one[1].get(_PLACE, -1), one[0]))


def numbered(sections: Sequence[ReportSection]) -> list[ReportSection]:
    """Number the titles of several sections of one analysis."""
    if len(sections) == 1:
        return list(sections)
    return [replace(one, title=f"{one.title} ({k})") for k, one in enumerate(sections, start=1)]


def panel(
    name: str,
    alt: str,
    draw: Callable[..., None],
    *args: Any,
    width: float = 390,
    height: float = 280,
) -> str:
    """Return one panel of an analysis's picture as an ``<svg>`` element for the page.

    ``draw`` takes axes, ``args`` and the font size; ``alt`` says in words what it shows. Width and
    height are in CSS pixels.
    """

    def make() -> Figure:
        figure = new_figure(width, height)
        draw(figure.add_subplot(), *args, FONT_SIZE)
        return figure

    return inline_svg(name, alt, make)


def which_images(on: str) -> str:
    """Return which images were predicted, from ``predict.on`` or the name of their arrays."""
    return _WHICH.get(on.partition("-")[0], "beside it")


def all_of(names: list[str]) -> str:
    """Join names for a sentence: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


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
    stored: list[ReportSection] = []
    missing: list[Analysis] = []
    for analysis in analyses():
        if analysis.sections is not None:
            sections = analysis.sections(run)
            stored += sections
            missing += [] if sections else [analysis]
    return stored, missing
