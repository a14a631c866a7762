"""The options of the command line as cyclopts reads them, and what the shell offers for them."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from ntkdist.cli.console import Terminal
from ntkdist.cli.help import SettingsHelp, shown_default
from ntkdist.config import RunConfig
from ntkdist.errors import InputError
from ntkdist.networks.architecture import preset_names

#: What a setting takes that its type does not say.
_CHOICES: dict[str, tuple[str, ...]] = {
    "--data.size": ("auto",),
    "--data.preprocess": (
        "auto",
        "none",
        "center",
        "standardize",
        "unit-norm",
        "halve",
        "contrast",
        "zca",
        "contrast+zca",
    ),
    "--gram.kinds": ("ntk", "nngp", "ntk,nngp"),
    "--factor.scheduler": ("auto", "threads", "synchronous", "ray"),
}
_SUFFIXES = (".yaml", ".yml")
_IMAGES = (".csv", ".npz")
_FEATURES = (".npy", ".npz")


def complete_target(context: Any) -> list[str]:
    """Return run files, runs, and folders to go on into."""
    return list(_targets(context.incomplete, _SUFFIXES, runs=True))


def complete_source(context: Any) -> list[str]:
    """Return folders, tables and archives of images; see ``complete_target``."""
    return list(_targets(context.incomplete, _IMAGES, runs=False))


def complete_setting(context: Any) -> list[str]:
    """Return what a setting of a run takes; see ``complete_target``."""
    name = context.argument.name
    if name == "--architecture":
        return complete_architecture(context)
    if name == "--data.source":
        from ntkdist.data.readers import SOURCES

        return [source.partition(":")[0] + ":" * (":" in source) for source in SOURCES]
    if name in ("--data.features", "--data.features-test", "--data.features_test"):
        return list(_targets(context.incomplete, _FEATURES, runs=False))
    if name == "--run":
        return list(_targets(context.incomplete, (), runs=True))
    if name in _CHOICES:
        return list(_CHOICES[name])
    return _literals(context.argument.hint)


def complete_architecture(_: Any) -> list[str]:
    """Return the presets, of those with a depth the usual ones."""
    return preset_names()


def _literals(hint: Any) -> list[str]:
    if typing.get_origin(hint) is typing.Literal:
        return [str(value) for value in typing.get_args(hint)]
    return [word for option in typing.get_args(hint) for word in _literals(option)]


def _targets(typed: str, suffixes: tuple[str, ...], *, runs: bool) -> Iterator[str]:
    """Yield paths below the folder that is typed so far; runs under runs/ where nothing is."""
    folder, _, start = typed.rpartition("/")
    place = Path(folder + "/" if folder or typed.startswith("/") else ".")
    head = f"{folder}/" if "/" in typed else ""
    if runs and not typed:
        yield from (f"runs/{path.name}" for path in _entries(Path("runs")) if _is_run(path))
    for path in _entries(place):
        if not path.name.startswith(start):
            continue
        if path.is_dir():
            yield head + path.name + ("" if _is_run(path) else "/")
        elif path.suffix.lower() in suffixes:
            yield head + path.name


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _is_run(folder: Path) -> bool:
    return (folder / "zarr.json").is_file()


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


def _listed(name: str, help: str, *, whole: bool = False) -> Parameter:
    """Return a setting that takes texts or whole numbers, joined by commas or one by one."""

    def convert(_: Any, tokens: Any) -> tuple[str | int, ...]:
        texts = [text for token in tokens for text in split_list(token.value)]
        return tuple(_whole(text, name) for text in texts) if whole else tuple(texts)

    return Parameter(name=name, help=help, converter=convert, n_tokens=1)


def _whole(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{name} {text!r} is not a whole number") from None


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
    _listed("--widths", "Channels or units of the hidden layers, joined by commas.", whole=True),
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
    _listed("--workers", "Numbers of workers to estimate the Gram for.", whole=True),
]


def read_rates(texts: tuple[str, ...]) -> dict[str, float]:
    """Read rates such as ``h200=25000``, name → entries a second."""
    rates = {}
    for text in texts:
        name, _, rate = text.partition("=")
        try:
            rates[name.strip()] = float(rate)
        except ValueError:
            raise InputError(f"--rates {text!r}: write NAME=ENTRIES_PER_SECOND") from None
    return rates
