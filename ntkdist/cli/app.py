"""The application: its help, the groups of commands, and the default settings of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cyclopts import App, Group

from ntkdist.cli.options import VERBATIM
from ntkdist.config import RunConfig, load_yaml
from ntkdist.errors import InputError
from ntkdist.networks.architecture import Architecture

START = Group("Start here", sort_key=1)
COMPUTE = Group("Compute", sort_key=2)
LABELS = Group("Labels", sort_key=3)
LEARN = Group("Predict and compare", sort_key=4)
AFTER = Group("Look after a run", sort_key=5)
OTHER = Group("Help", sort_key=8)

DEFAULTS = RunConfig()

HELP = """\
Which labels of an image set are wrong, and what would a CNN learn from it? Answered before any \
training, from the neural tangent kernel of the infinitely wide network.

Three commands to begin with:
  ntkdist audit photos/        which labels of your own images look wrong?
  ntkdist predict runs/photos  how well are images predicted that it has not seen?
  ntkdist status runs/photos   what is done, and what to run next

A command takes a run file (YAML), or the folder or URL of a run; settings on the command line \
override those of the file. Started again, a command resumes. COMMAND --help has an example each, \
COMMAND --help-all lists the settings of a run as well.

Exit codes:
  0    done
  1    some tiles or stages failed; the rest is kept
  2    bad input; nothing was written
  130  interrupted; the same command resumes

With --json a command prints one JSON object: command, version, run, ok, exit_code, result, \
next (commands to run) and error (null, or kind, message and exit_code). Numbers that are not \
finite are null. Progress goes to standard error.
"""

app = App(
    name="ntkdist",
    help=HELP,
    help_format="plaintext",
    version_flags=["--version"],
    default_parameter=VERBATIM,
)
for flag in ("--help", "--version"):
    app[flag].group = (OTHER,)

# command → its default settings, which the command line overrides, from what was typed
_BASES: dict[Callable[..., Any], Callable[[Mapping[str, Any]], RunConfig]] = {}


def begins_with(
    base: Callable[[Mapping[str, Any]], RunConfig],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a command whose default settings are not those of its target."""

    def register(command: Callable[..., Any]) -> Callable[..., Any]:
        _BASES[command] = base
        return command

    return register


def run_settings(
    command: Callable[..., Any], arguments: Mapping[str, Any], tokens: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the default settings of a command, which the command line overrides.

    Without a target they are those of the package, if the command line names a data source.

    Raises:
        InputError: There is no target and no data source, or the target is neither a run file nor
            a run.
    """
    if command in _BASES:
        return _BASES[command](arguments).to_dict()
    target = arguments.get("target")
    if target is None:
        if any(token.partition("=")[0] == "--data.source" for token in tokens):
            return RunConfig().to_dict()
        name = app.name_transform(command.__name__)
        raise InputError(
            f"{name}: give a run file (jobs/mnist.yaml), the folder of a run, or --data.source"
        )
    return target_settings(target).to_dict()


def target_settings(target: str) -> RunConfig:
    """Return the settings of a run file, or of a run.

    Raises:
        InputError: There is neither.
    """
    if target.endswith((".yaml", ".yml")):
        values = load_yaml(target)
        if "architecture" in values:
            values["architecture"] = str(Architecture.parse(values["architecture"]))
        return RunConfig.from_dict(values, where=target)
    from ntkdist.runs.run import Run

    try:
        return Run.open(target, pending_extension=True).config
    except InputError:
        from ntkdist.cli.audit import kind_of

        kind = kind_of(target)
        if kind is None or kind == "run":
            raise
        raise InputError(
            f"{target}: holds images ({kind}), no run; ntkdist audit {target} makes one of them"
        ) from None


def with_probabilities(settings: RunConfig, *, wanted: bool) -> RunConfig:
    """Return settings with ``labels.probabilities`` where the short flag asks for it."""
    if not wanted:
        return settings
    return dataclasses.replace(
        settings, labels=dataclasses.replace(settings.labels, probabilities=True)
    )
