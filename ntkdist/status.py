"""Which stages of a run are done, read from its store alone."""

from __future__ import annotations

from ntkdist.gram.events import read_events
from ntkdist.gram.store import GramStore
from ntkdist.run import Run


def describe_labels(run: Run) -> str:
    """Return what the label stage found in a few lines; empty if it has not run."""
    summary = run.attributes("labels").get("summary")
    if not summary:
        return ""
    losses = summary["block_error"]
    shown = [
        f"{name} {losses[name]:.5g}" for name in ("given", "refurbished", "true") if losses[name]
    ]
    total = run.array("inputs", "labels").shape[0]
    lines = [
        f"L(Z)      {', '.join(shown)} (lower is cleaner)",
        f"labels    {summary['num_issues']} of {total} look wrong; "
        f"estimated noise {summary['noise_rate']:.1%}; {summary['stopped']}",
    ]
    if summary["restored_share"] is not None:
        before, after = summary["accuracy_given"], summary["accuracy_refurbished"]
        lines.append(
            f"restored  {summary['restored_share']:.2%} of {summary['corrupted']} corrupted "
            f"labels; label accuracy {before:.2%} -> {after:.2%}"
        )
    return "\n".join(lines)


def describe(url: str) -> str:
    """Return the state of a run in a few lines, with what to run next.

    Args:
        url: Folder or URL of the run.

    Returns:
        One line a stage.

    Raises:
        InputError: If there is no run.
    """
    run = Run.open(url)
    shape = run.array("inputs", "images").shape
    lines = [
        f"run       {run.url} ({run.fingerprint[:12]}), created {run.manifest.created}",
        f"inputs    {' × '.join(map(str, shape))}, {run.num_classes} classes, "
        f"{run.config.data.source}",
        f"backend   {run.manifest.reason}",
    ]
    open_stage = None
    for kind in run.config.gram.kinds:
        address = run.address("gram", kind)
        if not GramStore.exists(address):
            lines.append(f"gram      {kind}: not started")
            open_stage = open_stage or "gram"
            continue
        store = GramStore.open(address, "r", run.fingerprint)
        total, missing = store.tiling.count, len(store.missing())
        by = store.count_by_arithmetic()
        mixed = ", ".join(f"{count} by {name}" for name, count in by.items())
        lines.append(
            f"gram      {kind}: {total - missing} of {total} tiles of edge {store.tiling.edge}"
            + (f" ({mixed})" if len(by) > 1 else "")
        )
        if missing:
            open_stage = open_stage or "gram"
    ridge = f"ridge-{run.config.factor.ridge:g}"
    done = run.has("factor", "ntk", ridge, "inverse")
    lines.append(f"factor    {ridge}: {'there' if done else 'not finished'}")
    summary = run.attributes("labels").get("summary")
    lines.append(describe_labels(run) or "labels    not done")
    if not (done and summary):
        open_stage = open_stage or "run"
    failed = sum(e.get("event") == "TileFailed" and bool(e.get("final")) for e in read_events(url))
    if failed:
        lines.append(f"failures  {failed} tiles given up so far; tracebacks in events.jsonl")
    lines.append(f"next      {run.resume_command if open_stage else f'ntkdist report {run.url}'}")
    return "\n".join(lines)
