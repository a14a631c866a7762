"""Looking after a run: how far it is, whether it is whole, its report."""

from __future__ import annotations

from typing import Any

from ntkdist.cli.app import AFTER, DEFAULTS, app
from ntkdist.cli.console import Terminal
from ntkdist.cli.options import File, Kind, Open, Out, Overwrite, Repair, Settings, Target, WatchRun
from ntkdist.cli.result import CommandResult, opened, print_result
from ntkdist.errors import InputError, StageError
from ntkdist.words import counted


@app.command(group=AFTER, sort_key=1)
def status(target: Target = None, *, settings: Settings = DEFAULTS, out: Out) -> CommandResult:
    """What is done, and what is to run next? Read from the run's store, while a driver runs or not.

    Example: ntkdist status runs/mine

    Writes nothing.
    """
    from ntkdist.analyses.status import describe_status, read_status

    state = read_status(settings.run)
    return CommandResult(state, [describe_status(state)], state.run, [state.next])


@app.command(group=AFTER, sort_key=2)
def report(
    target: Target = None,
    *,
    watch: WatchRun = False,
    port: int = 0,
    open_page: Open = False,
    settings: Settings = DEFAULTS,
    out: Out,
) -> CommandResult | None:
    """What was found, on one page? Write the report, an HTML file that needs no server.

    Example: ntkdist report runs/mine

    Writes report.html of the run; with --watch serves a page that follows the run, until Ctrl-C.

    Parameters
    ----------
    port:
        Of 127.0.0.1, with --watch; 0 takes a free one.
    """
    if watch:
        _watched(settings.run, port, open_page, out)
        return None
    if port or open_page:
        raise InputError("--port and --open go with --watch; give it too, or leave them out")
    from ntkdist.analyses.status import next_after_report
    from ntkdist.api import report as written

    with opened(settings, out) as session:
        path = written(session.pipeline)
        result = {"address": None, "report": path}
        more = next_after_report(session.pipeline.run)
        return session.result(result, path, next=[more] if more else [])


def _watched(url: str, port: int, open_page: bool, out: Terminal) -> None:
    """Serve the page until it is stopped, its address printed first."""
    from ntkdist.report.live import watch
    from ntkdist.runs.run import Run

    if not 0 <= port < 65536:
        raise InputError(f"--port {port} must be from 1 to 65535, or 0 for a free one")
    run = Run.open(url, pending_extension=True).url

    def ready(address: str) -> None:
        result: dict[str, Any] = {"address": address, "report": None, "stages": []}
        print_result(out, "report", CommandResult(result, [address], run))

    watch(run, port=port, open_browser=open_page, on_ready=ready)


@app.command(group=AFTER, sort_key=3)
def verify(
    target: Target = None,
    *,
    tiles: int = 4,
    entries: int = 16,
    repair: Repair = False,
    settings: Settings = DEFAULTS,
    out: Out,
) -> CommandResult:
    """Is every bit what it was? Read all that a run holds, and compute some of it again.

    Example: ntkdist verify runs/mine --repair

    Writes nothing without --repair; with it, what was bad, and that alone.

    Parameters
    ----------
    tiles:
        Of each matrix, computed again and compared bit by bit.
    entries:
        Of each matrix, compared with the float64 reference.
    """
    from ntkdist.pipeline.verify import describe_check, verify_and_repair

    url = settings.run
    with out.watch() as watch:
        check, done = verify_and_repair(
            settings, tiles, entries, repair=repair, subscribers=watch.subscribers
        )
    result = {
        "inputs": check.inputs,
        "grams": check.grams,
        "factors": check.factors,
        "problems": check.problems,
        "done": done,
        "stages": watch.stages,
    }
    shown = "\n".join([describe_check(check, url), *done])
    if check.problems:
        failure = StageError(f"{counted(len(check.problems), 'problem')} found in {url}")
        return CommandResult(result, [shown], url, [f"ntkdist verify {url} --repair"], failure)
    return CommandResult(result, [shown], url, [f"ntkdist status {url}"])


@app.command(group=AFTER, sort_key=5)
def export(
    target: Target = None,
    file: File = None,
    *,
    kind: Kind = "ntk",
    overwrite: Overwrite = False,
    settings: Settings = DEFAULTS,
    out: Out,
) -> CommandResult:
    """How does other software get the matrix? As one file, whole and symmetric, in float32.

    Example: ntkdist export runs/mine gram.npy

    Writes the file, in bands of rows, so that a matrix larger than memory is
    exported too; numpy.load(file, mmap_mode="r") reads a .npy the same way.
    """
    from ntkdist.api import open_gram
    from ntkdist.gram.export import export as exported

    if file is None:
        raise InputError("export: name the file after the run: ntkdist export RUN gram.npy")
    store = open_gram(settings.run, kind)
    note = out.now_and_then()

    def on_rows(done: int, total: int) -> None:
        note(f"{file}: {done} of {total} rows")

    path = exported(store, file, overwrite=overwrite, on_rows=on_rows)
    result = {"file": path, "kind": kind, "shape": list(store.shape), "dtype": "float32"}
    shape = " × ".join(map(str, store.shape))
    return CommandResult(result, [f"{path}: {kind}, {shape}, float32"], settings.run, [])
