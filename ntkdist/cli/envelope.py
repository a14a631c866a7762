"""The JSON object that every command prints with ``--json``, and the same for people."""

from __future__ import annotations

import json
import typing
from typing import Any

from cyclopts import CoercionError, CycloptsError

from ntkdist.cli.console import Terminal
from ntkdist.cli.plain import plain
from ntkdist.cli.session import Outcome
from ntkdist.errors import InputError, InterruptedRunError, StageError, StoreError

_KINDS: dict[type[BaseException], str] = {
    InputError: "input",
    CycloptsError: "input",
    StoreError: "store",
    StageError: "stage",
    InterruptedRunError: "interrupted",
    KeyboardInterrupt: "interrupted",
}


def envelope(
    command: str | None,
    outcome: Outcome,
    *,
    error: BaseException | None = None,
    exit_code: int = 0,
) -> dict[str, Any]:
    """Return what is printed as JSON.

    Args:
        command: Its name; None where none was recognised.
        outcome: What it came to.
        error: Why it ended early, or with another exit code than 0.
        exit_code: That code.

    Returns:
        Plain values: command, version, run, ok, exit_code, result, next and error.
    """
    found = None
    if error is not None:
        found = {"kind": kind_of(error), "message": one_line(error), "exit_code": exit_code}
    return {
        "command": command,
        "version": package_version(),
        "run": outcome.run,
        "ok": exit_code == 0,
        "exit_code": exit_code,
        "result": plain(outcome.result),
        "next": list(outcome.next),
        "error": found,
    }


def print_outcome(out: Terminal, command: str | None, outcome: Outcome, **ending: Any) -> None:
    """Print what a command came to, as JSON or for people, and what may follow.

    Args:
        out: How to speak.
        command: Its name.
        outcome: What it came to.
        ending: ``error`` and ``exit_code``, as of ``envelope``.
    """
    if out.json:
        text = json.dumps(
            envelope(command, outcome, **ending), allow_nan=False, ensure_ascii=False, indent=1
        )
        out.stream.write(text + "\n")
        out.stream.flush()
        return
    out.show(*(part for part in outcome.shown if part))
    if outcome.next:
        out.note(f"next: {'   or: '.join(outcome.next)}")


def kind_of(error: BaseException) -> str:
    """Return input, store, stage, interrupted or internal."""
    found = (name for kind, name in _KINDS.items() if isinstance(error, kind))
    return next(found, "internal")


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
