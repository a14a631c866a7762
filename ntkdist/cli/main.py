"""The command line: parse it, run one command, print its result.

Exit codes: 0 done, 1 some tiles or stages failed, 2 bad input, 130 interrupted and resumable.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import CycloptsError, Parameter
from cyclopts.config import Dict

from ntkdist.cli.commands import app, run_settings
from ntkdist.cli.console import Terminal
from ntkdist.cli.help import all_settings
from ntkdist.cli.options import Json, Quiet, Verbose
from ntkdist.cli.result import CommandResult, one_line, print_result
from ntkdist.config import RunConfig
from ntkdist.errors import DeviceLostError, InputError, NtkdistError

HELP_ALL = "--help-all"


@app.meta.default
def _common_flags(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> tuple[Terminal, tuple[str, ...]]:
    """Separate the flags that every command has from the rest."""
    return Terminal(json=json, quiet=quiet, verbose=verbose), tokens


@dataclass
class _Call:
    """A command with its arguments; the name is None for help and version."""

    name: str | None
    run: str | None
    invoke: Callable[[], Any]


def _parse(tokens: Sequence[str], out: Terminal) -> _Call:
    """Parse twice: first to find the target, then with the target's settings as defaults."""
    app.config = ()
    command, bound, ignored = app.parse_args(tokens, print_error=False, exit_on_error=False)
    if "out" not in ignored:
        if out.json:
            raise InputError("--json goes with a command; ntkdist --help lists them")
        return _Call(None, None, lambda: command(*bound.args, **bound.kwargs))
    name = app.name_transform(command.__name__)
    if "settings" in command.__annotations__:
        # under the command's name: else cyclopts drops keys that are names of commands (gram)
        base = {name: run_settings(command, bound.arguments, tokens)}
        app.config = (Dict(base, source="run file"),)
        command, bound, _ = app.parse_args(tokens, print_error=False, exit_on_error=False)
    settings = bound.arguments.get("settings")
    run = settings.run if isinstance(settings, RunConfig) else None
    return _Call(name, run, lambda: command(*bound.args, **bound.kwargs, out=out))


def main(tokens: Sequence[str] | None = None) -> None:
    """Run one command, print its result, and exit with its code.

    Raises:
        SystemExit: With the command's exit code, unless that is 0.
    """
    tokens = list(sys.argv[1:] if tokens is None else tokens)
    # before anything is parsed, so that parse errors are printed in the same form
    out = Terminal(json="--json" in tokens, verbose="--verbose" in tokens)
    call = _Call(next((word for word in tokens if word in app), None), None, lambda: None)
    try:
        if HELP_ALL in tokens:
            with all_settings(app[call.name].default_command if call.name else None):
                app([*([call.name] if call.name else []), "--help"], result_action="return_value")
            return
        command, bound, _ = app.meta.parse_args(tokens, print_error=False, exit_on_error=False)
        if command is not _common_flags:  # help, version, or completions for the shell
            command(*bound.args, **bound.kwargs)
            return
        out, rest = _common_flags(*bound.args, **bound.kwargs)
        with contextlib.redirect_stdout(sys.stderr) if out.json else contextlib.nullcontext():
            call = _parse(rest, out)
            outcome = call.invoke()
        if isinstance(outcome, CommandResult):
            _finish(out, call.name, outcome)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (KeyboardInterrupt, Exception) as error:
        _fail(out, call, tokens, error)


def _finish(out: Terminal, name: str | None, outcome: CommandResult) -> None:
    failure = outcome.failure
    if failure is None:
        print_result(out, name, outcome)
        return
    print_result(out, name, outcome, error=failure, exit_code=failure.exit_code)
    print(f"ntkdist: {one_line(failure)}", file=sys.stderr)
    sys.exit(failure.exit_code)


def _fail(out: Terminal, call: _Call, tokens: Sequence[str], error: BaseException) -> None:
    """Print in one line why a command failed, and exit with the code for it."""
    if out.verbose:
        traceback.print_exception(error)
    code, message = 1, one_line(error)
    if isinstance(error, NtkdistError):
        code = error.exit_code
    elif isinstance(error, CycloptsError):
        code = 2
    elif isinstance(error, KeyboardInterrupt):
        code, message = 130, "interrupted"
    else:
        message = (
            f"{type(error).__name__}: {message}; --verbose shows where, what is stored is kept"
        )
    resumes = code == 130 or isinstance(error, DeviceLostError)
    again = [f"ntkdist {shlex.join(tokens)}"] if resumes else []
    if out.json:
        nothing = CommandResult(None, run=call.run, next=again)
        print_result(out, call.name, nothing, error=error, exit_code=code)
    print(f"ntkdist: {message}", file=sys.stderr)
    if again:
        print(f"resume with: {again[0]}", file=sys.stderr)
    sys.exit(code)
