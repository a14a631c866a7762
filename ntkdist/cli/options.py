"""The options of the command line, as cyclopts reads them."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Group, Parameter

from ntkdist.cli.completion import complete_setting, complete_source, complete_target
from ntkdist.cli.console import Terminal
from ntkdist.cli.help import SettingsHelp, shown_default
from ntkdist.config import RunConfig
from ntkdist.errors import InputError


def split_list(text: str) -> list[str]:
    """Split at commas that are outside of brackets."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def _whole(text: str, name: str = "--widths") -> int:
    """Read a whole number; what it is for is checked where it is used."""
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{name} {text!r} is not a whole number") from None


def _listed(name: str, help: str) -> Parameter:
    """Return a setting that takes values joined by commas, or given one by one."""
    return Parameter(
        name=name,
        help=help,
        converter=lambda _, tokens: tuple(x for t in tokens for x in split_list(t.value)),
        n_tokens=1,
    )


# switches of commands have no --no-, lists no --empty-
VERBATIM = Parameter(negative_bool=(), negative_iterable=(), show_default=shown_default)
SETTINGS = Group(
    "Settings of the run",
    help="Keys of a run file; each defaults to what the target says, or to what is shown.",
    sort_key=9,
    help_formatter=SettingsHelp(),
)
OUTPUT = Group("Output", sort_key=10)

Target = Annotated[
    str | None,
    Parameter(help="Run file (YAML), or folder or URL of a run.", completer=complete_target),
]
Source = Annotated[
    str | None,
    Parameter(
        help="Folder of class folders, .csv, .npz or idx files, or a data source.",
        completer=complete_source,
    ),
]
Settings = Annotated[
    RunConfig,
    Parameter(name="*", group=SETTINGS, completer=complete_setting, negative_bool="no-"),
]
Out = Annotated[Terminal, Parameter(parse=False)]
Json = Annotated[
    bool,
    Parameter(
        name="--json", group=OUTPUT, help="Print one JSON object, and nothing else, on stdout."
    ),
]
Quiet = Annotated[
    bool, Parameter(name="--quiet", group=OUTPUT, help="Print the result and errors only.")
]
Verbose = Annotated[
    bool,
    Parameter(
        name="--verbose", group=OUTPUT, help="Print every event, and tracebacks of failures."
    ),
]
WatchRun = Annotated[
    bool, Parameter(name="--watch", help="Serve a page that follows the run, until Ctrl-C.")
]
Open = Annotated[bool, Parameter(name="--open", help="Open that page in a browser.")]
Recompute = Annotated[
    tuple[str, ...],
    Parameter(
        name="--recompute",
        help="Tiles to compute again, such as r0003c0012.",
        consume_multiple=True,
    ),
]
By = Annotated[
    Literal["auto", "given", "refurbished"],
    Parameter(
        name="--by",
        help="Labels to judge by; auto takes the refurbished ones where the run has them.",
    ),
]
Repair = Annotated[
    bool, Parameter(name="--repair", help="Compute again what is bad, and only that.")
]
Files = Annotated[
    tuple[str, ...],
    Parameter(
        name="--files",
        help="Labels as .npy, or text with one class number a line.",
        consume_multiple=True,
    ),
]


File = Annotated[
    str | None,
    Parameter(help="What to write; its ending is .npy, .npz, .h5 or .safetensors."),
]
Kind = Annotated[str, Parameter(name="--kind", help="ntk, or nngp where the run has it.")]
Overwrite = Annotated[bool, Parameter(name="--overwrite", help="Replace a file that is there.")]
Architectures = Annotated[
    tuple[str, ...],
    _listed("--architectures", "Presets or lists of layers, joined by commas or one by one."),
]
Over = Annotated[str, Parameter(name="--over", help="depth, W_std, b_std, nonlinearity or width.")]
Values = Annotated[tuple[str, ...], _listed("--values", "What to try, joined by commas.")]
Criteria = Annotated[
    tuple[str, ...],
    _listed("--criteria", "Some of mlmoc, emoc, eer, margin, entropy, random, joined by commas."),
]
Empirical = Annotated[
    bool,
    Parameter(
        name="--empirical",
        help="Train networks, and look ahead with their own kernel.",
    ),
]
CrossEntropy = Annotated[bool, Parameter(name="--cross-entropy", help="Follow that loss as well.")]
Images = Annotated[int, Parameter(name="--images", help="How many of the run's images.")]
Widths = Annotated[
    tuple[int, ...],
    Parameter(
        name="--widths",
        help="Channels or units of the hidden layers, joined by commas.",
        converter=lambda _, tokens: tuple(_whole(x) for t in tokens for x in split_list(t.value)),
        n_tokens=1,
    ),
]
Classes = Annotated[
    tuple[str, ...],
    _listed("--classes", "Two, by name or number; none takes the two that lie closest."),
]
Variants = Annotated[
    tuple[str, ...],
    _listed("--variants", "Some of kr-v1, kr-v2, fjlt-v1, fjlt-v2; none takes all."),
]
Probabilities = Annotated[
    bool,
    Parameter(
        name="--probabilities",
        help="Give labels.csv a column of probabilities for each class, as "
        "--labels.probabilities does.",
    ),
]
Quick = Annotated[bool, Parameter(name="--quick", help="Measure no speed.")]
Rates = Annotated[
    tuple[str, ...],
    _listed("--rates", "Devices that are not here, as h200=25000 (entries/s of one of them)."),
]
Counts = Annotated[
    tuple[int, ...],
    Parameter(
        name="--workers",
        help="Numbers of workers to reckon the Gram for, joined by commas.",
        converter=lambda _, tokens: tuple(
            _whole(x, "--workers") for t in tokens for x in split_list(t.value)
        ),
        n_tokens=1,
    ),
]


def read_rates(texts: tuple[str, ...]) -> dict[str, float]:
    """Read rates such as ``h200=25000``, name → entries a second."""
    found = {}
    for text in texts:
        name, _, rate = text.partition("=")
        try:
            found[name.strip()] = float(rate)
        except ValueError:
            raise InputError(f"--rates {text!r}: write NAME=ENTRIES_PER_SECOND") from None
    return found
