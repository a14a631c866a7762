"""What the commands after the labels found, each as a sentence, key numbers and pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ntkdist.display.svg import FONT_SIZE, inline_svg, new_figure
from ntkdist.labels.reliability import CANNOT_JUDGE, RELIABLE, VERDICTS, WEAK
from ntkdist.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


__all__ = [
    "CANNOT_JUDGE",
    "RELIABLE",
    "VERDICTS",
    "WEAK",
    "Outcome",
    "Question",
    "panel",
    "read_outcomes",
    "read_verdict",
    "stored",
]


@dataclass(frozen=True)
class Outcome:
    """One command's result as it is shown.

    Attributes:
        name: Of the command, unique in the page.
        title: Of its section.
        sentences: What came out.
        numbers: (what, number, note) of what matters most.
        figures: (SVG, caption) each.
        head: Column titles of a table; empty for none.
        rows: Its rows, the first cell naming the row.
        more: A command that would add to it, and what; empty for none.
    """

    name: str
    title: str
    sentences: tuple[str, ...]
    numbers: tuple[tuple[str, str, str], ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    more: tuple[str, str] | None = None


@dataclass(frozen=True)
class Question:
    """What one may ask of a run.

    Attributes:
        text: The question.
        command: That answers it.
    """

    text: str
    command: str


def read_outcomes(run: Run) -> tuple[list[Outcome], list[Question]]:
    """Read what a run holds of later commands.

    Args:
        run: The run. Results from before it was extended count as not there.

    Returns:
        The outcomes in the order of the page, and the questions that were not asked yet.
    """
    from ntkdist.analyses.outcomes_networks import compared, label_aware, lookahead, sweeps, widths
    from ntkdist.analyses.outcomes_training import dynamics, predictions

    asked: list[tuple[Callable[[Run], list[Outcome]], str, str]] = [
        (predictions, "predict", "How well does the kernel predict images it has not seen?"),
        (dynamics, "dynamics", "How does training go, and when should it stop?"),
        (widths, "widths", "How wide must a network be to behave as its kernel says?"),
        (sweeps, "sweep", "What do depth, initial variance and nonlinearity change?"),
        (label_aware, "label-aware", "Do labels inside the kernel help with two close classes?"),
        (lookahead, "lookahead", "Which images should be labelled next?"),
        (compared, "compare", "Which architecture suits the data?"),
    ]
    arguments = {"sweep": " --over depth", "compare": " --architectures fc-2,cnn-2"}
    found: list[Outcome] = []
    open_questions: list[Question] = []
    for read, command, question in asked:
        outcomes = read(run)
        found += outcomes
        if not outcomes:
            line = f"ntkdist {command} {run.url}{arguments.get(command, '')}"
            open_questions.append(Question(question, line))
    return found, open_questions


def read_verdict(run: Run) -> str | None:
    """Return the verdict on a run's labels; None where there is none that can be read."""
    summary = run.attributes("labels").get("summary")
    stored = summary.get("reliability") if isinstance(summary, dict) else None
    verdict = stored.get("verdict") if isinstance(stored, dict) else None
    return verdict if verdict in VERDICTS else None


def stored(run: Run, name: str, *keys: str) -> dict[str, Any] | None:
    """Return the attributes of a result; None if it, or one of the keys, is not there or outdated.

    Args:
        run: The run.
        name: Of the group, slash-separated.
        *keys: That are needed.

    Returns:
        The attributes.
    """
    parts = name.split("/")
    attributes = run.attributes(*parts)
    if not attributes.keys() >= set(keys) or not run.is_current(*parts):
        return None
    return attributes


def panel(
    name: str,
    alt: str,
    draw: Callable[..., None],
    *args: Any,
    width: float = 390,
    height: float = 280,
) -> str:
    """Draw one panel of a command's own picture for the page.

    Args:
        name: Unique in the page.
        alt: What it shows.
        draw: Takes axes, ``args`` and the size of letters.
        *args: Given to ``draw``.
        width: In CSS pixels.
        height: In CSS pixels.

    Returns:
        An ``<svg>`` element.
    """

    def make() -> Figure:
        figure = new_figure(width, height)
        draw(figure.add_subplot(), *args, FONT_SIZE)
        return figure

    return inline_svg(name, alt, make)
