"""A run at a glance, as a notebook or a prompt shows it: one line, or a small table."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from ntkdist import storage
from ntkdist.data.features import feature_words
from ntkdist.display.html import html_table
from ntkdist.errors import NtkdistError
from ntkdist.networks.architecture import Architecture, preset_of
from ntkdist.runs.inputs import source_of

if TYPE_CHECKING:
    from ntkdist.runs.run import Run

_LONGEST = 48  # characters of an architecture that has no name


@dataclass(frozen=True)
class Overview:
    """How far a run is, from its store alone.

    Attributes:
        shape: (N, H, W, C) of its images; (N, D) of features.
        tiles: Tiles of the NTK's Gram that are stored.
        total: Of how many; 0 where it was not begun.
        stages: Stage → whether its result is there.
        issues: Labels that look wrong; None before the label stage.
        report: Where the report is; None before it was written.
    """

    shape: tuple[int, ...]
    tiles: int
    total: int
    stages: dict[str, bool]
    issues: int | None
    report: str | None

    @classmethod
    def of(cls, run: Run) -> Overview:
        """Look at a run; raises what its store raises."""
        tiles = total = 0
        if run.has("gram", "ntk"):
            gram = run.array("gram", "ntk")
            blocks = -(-gram.shape[0] // gram.chunks[0])
            total = blocks * (blocks + 1) // 2
            names = storage.list_objects(run.address("gram", "ntk", "c"))
            # what is not a number is the temporary file of a writer that was killed
            tiles = sum(name.replace("/", "").isdecimal() for name in names)
        factors = storage.children(run.address("factor", "ntk")) if tiles else []
        summary = run.attributes("labels").get("summary") if run.is_current("labels") else None
        report = run.address("report.html")
        written = storage.exists(report)
        stages = {
            "gram": total > 0 and tiles >= total,
            "factor": any(
                run.has("factor", "ntk", name, part)
                for name in factors
                for part in ("inverse", "diagonal")
            ),
            "labels": summary is not None,
            "report": written,
        }
        shape = run.shape
        issues = None if summary is None else int(summary["num_issues"])
        return cls(shape, tiles, total, stages, issues, report if written else None)

    @property
    def images(self) -> str:
        """Number and size of the images or features, in words."""
        if len(self.shape) == 2:
            return feature_words(*self.shape)
        n, *size = self.shape
        return f"{n:,} images of {'×'.join(map(str, size))}"


def one_line(run: Run) -> str:
    """Return address, images, architecture and progress of a run in one line; never raises.

    Of a run in an object store without its progress: a traceback or a debugger, which show such
    lines too, must not wait for a server.
    """
    name = name_of(run.architecture)
    if storage.local_path(run.url) is None:
        return f"<Run {run.url}: {run.config.data.source}, {run.num_classes} classes, {name}>"
    try:
        found = Overview.of(run)
    except (NtkdistError, OSError) as error:
        return f"<Run {run.url}: {name}, cannot be read: {' '.join(str(error).split())}>"
    done = [stage for stage, there in found.stages.items() if there]
    state = f"{', '.join(done)} done" if done else "nothing done"
    if not found.stages["gram"] and found.total:
        state = f"gram {found.tiles} of {found.total} tiles"
    return f"<Run {run.url}: {found.images}, {run.num_classes} classes, {name}, {state}>"


def as_html(run: Run) -> str:
    """Return a small table about a run, with styles of its own; never raises."""
    rows = [("Run", _code(run.url))]
    try:
        found = Overview.of(run)
    except (NtkdistError, OSError) as error:
        rows += [("State", f"cannot be read: {escape(str(error))}")]
        return html_table(rows)
    config = run.config
    source = f"{source_of(config.data)}, {config.data.split}"
    rows += [
        ("Data", f"{found.images}, {run.num_classes} classes ({_code(source)})"),
        ("Architecture", _code(name_of(run.architecture))),
        ("Gram", _bar(found.tiles, found.total) if found.total else "not begun"),
        ("Stages", ", ".join(_stage(*one) for one in found.stages.items())),
    ]
    if found.issues is not None:
        rows.append(("Suspicious labels", f"{found.issues:,} of {found.shape[0]:,}"))
    if found.report:
        rows.append(("Report", _code(found.report)))
    return html_table(rows)


def name_of(architecture: Architecture) -> str:
    """Return the preset's name of an architecture, or the beginning of its canonical text."""
    text = preset_of(architecture) or str(architecture)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _bar(done: int, total: int) -> str:
    share = 100 * min(done, total) // total
    return (
        f'<progress max="{total}" value="{min(done, total)}" aria-label="tiles of the Gram" '
        'style="width:12em;vertical-align:middle;color-scheme:light dark"></progress> '
        f"{done:,} of {total:,} tiles ({share} %)"
    )


def _stage(name: str, there: bool) -> str:
    return f"{escape(name)} {'✓' if there else '–'}"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
