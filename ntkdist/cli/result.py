"""What a command returns: its result for people and as one JSON object, and the run it opened."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cyclopts import CoercionError, CycloptsError

from ntkdist.cli.console import Table, Terminal
from ntkdist.config import RunConfig
from ntkdist.errors import InputError, InterruptedRunError, NtkdistError, StageError, StoreError

if TYPE_CHECKING:
    from ntkdist.pipeline import Pipeline
    from ntkdist.runs.run import Prepared

_KINDS: dict[type[BaseException], str] = {
    InputError: "input",
    CycloptsError: "input",
    StoreError: "store",
    StageError: "stage",
    InterruptedRunError: "interrupted",
    KeyboardInterrupt: "interrupted",
}


@dataclass(frozen=True)
class CommandResult:
    """What a command returns.

    Attributes:
        result: A dataclass, or a mapping of such and of plain values; printed as JSON.
        shown: The same for people.
        run: Address of the run it is about; None for none.
        next: Commands that may follow, the likeliest first.
        failure: Why the command ends with another exit code than 0, though it has a result.
    """

    result: Any
    shown: Sequence[str | Table] = ()
    run: str | None = None
    next: Sequence[str] = ()
    failure: NtkdistError | None = None


@dataclass
class Session:
    """An open run, and the stages that were finished so far, see ``Watch``."""

    pipeline: Pipeline
    stages: list[dict[str, Any]] = field(default_factory=list)

    def result(self, result: Any, *shown: str | Table, next: Sequence[str] = ()) -> CommandResult:
        """Return the command's result, with the stages' times in it."""
        url = self.pipeline.run.url
        parts = result
        if dataclasses.is_dataclass(result) and not isinstance(result, type):
            fields = (one for one in dataclasses.fields(result) if one.repr)
            parts = {one.name: getattr(result, one.name) for one in fields}
        return CommandResult(
            {**parts, "stages": list(self.stages)},
            shown,
            url,
            [command.replace("RUN", shlex.quote(url)) for command in next],
        )


@contextmanager
def opened(
    settings: RunConfig, out: Terminal, prepared: Prepared | None = None
) -> Iterator[Session]:
    """Open the run of some settings, and print what is done with it."""
    from ntkdist.pipeline import Pipeline

    with out.watch() as watch, Pipeline(settings, watch.subscribers, prepared) as pipeline:
        out.note(f"backend {pipeline.run.manifest.reason}")
        for note in pipeline.run.notes:
            out.note(note)
        yield Session(pipeline, watch.stages)


def envelope(
    command: str | None,
    result: CommandResult,
    *,
    error: BaseException | None = None,
    exit_code: int = 0,
) -> dict[str, Any]:
    """Return what is printed as JSON."""
    problem = None
    if error is not None:
        problem = {"kind": kind_of(error), "message": one_line(error), "exit_code": exit_code}
    return {
        "command": command,
        "version": package_version(),
        "run": result.run,
        "ok": exit_code == 0,
        "exit_code": exit_code,
        "result": plain(result.result),
        "next": list(result.next),
        "error": problem,
    }


def print_result(out: Terminal, command: str | None, result: CommandResult, **ending: Any) -> None:
    """Print a command's result, as JSON or for people, and the commands that may follow."""
    if out.json:
        text = json.dumps(
            envelope(command, result, **ending), allow_nan=False, ensure_ascii=False, indent=1
        )
        out.stream.write(text + "\n")
        out.stream.flush()
        return
    out.show(*(part for part in result.shown if part))
    if result.next:
        out.note(f"next: {'   or: '.join(result.next)}")


def kind_of(error: BaseException) -> str:
    """Return input, store, stage, interrupted or internal."""
    kinds = (name for kind, name in _KINDS.items() if isinstance(error, kind))
    return next(kinds, "internal")


def one_line(error: BaseException) -> str:
    """Return an error's message without ends of lines, and what to type where cyclopts does not."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, CoercionError) and error.argument is not None and error.token is not None:
        name = error.argument.name
        if "unable to convert" in text:
            wanted = in_words(error.argument.hint)
            text = f"{name} {error.token.value!r}: give {wanted}"
        return text.removeprefix(f"Invalid value for {name}: ")
    if isinstance(error, CycloptsError) and "--help" not in text and "Did you mean" not in text:
        text = f"{text.rstrip('.')}; ntkdist COMMAND --help lists what it takes"
    return text


def in_words(hint: Any) -> str:
    """Return what a value of an annotated type looks like, in words."""
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(map(str, typing.get_args(hint)))
    options = [one for one in typing.get_args(hint) if one is not type(None)]
    if options:
        return " or ".join(in_words(one) for one in options)
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return words.get(hint, "another value")


def package_version() -> str:
    """Return the version of the package; 0 where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ntkdist")
    except PackageNotFoundError:
        return "0"


def plain(value: Any) -> Any:
    """Return a result as dictionaries, lists, text, numbers, booleans and None.

    Strict JSON: a number that is not finite becomes None. Of a dataclass, fields that its
    ``repr`` leaves out (large arrays, which the run keeps) are left out here too.
    """
    if value is None or isinstance(value, (bool, str, int)):
        return value
    import numpy as np

    if isinstance(value, (float, np.floating)):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and type(value).__str__ is object.__str__:
        fields = (one for one in dataclasses.fields(value) if one.repr)
        return {one.name: plain(getattr(value, one.name)) for one in fields}
    return str(value)
