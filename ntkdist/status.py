"""Which stages of a run are done, read from its store alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ntkdist.gram.events import read_events
from ntkdist.gram.store import GramStore
from ntkdist.run import Run

if TYPE_CHECKING:
    from ntkdist.labels.bias import ClassBias
    from ntkdist.pipeline.compare import Compared
    from ntkdist.pipeline.labelings import Labeling


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


def describe_comparison(found: Sequence[Compared], folder: str) -> str:
    """Return a table of architectures, best leave-one-out accuracy first, with their ranks."""
    from ntkdist.pipeline.compare import ranks

    place = ranks(found)
    head = ("architecture", "accuracy", "log-lik.", "L(Z)", "separation", "noise", "Gram", "solve")
    rows = [
        (
            one.name,
            f"{one.accuracy:.2%} ({place['accuracy'][i]})",
            f"{one.log_likelihood:.3f} ({place['log_likelihood'][i]})",
            f"{one.block_error:.4g} ({place['block_error'][i]})",
            f"{one.separation:.3f} ({place['separation'][i]})",
            f"{one.noise_rate:.1%}",
            f"{one.gram_seconds:.1f} s",
            f"{one.factor_seconds:.1f} s",
        )
        for i, one in enumerate(found)
    ]
    notes = (
        "leave-one-out accuracy and log-likelihood of the given labels: higher is better; L(Z) "
        "times the mean diagonal: lower; separation of classes by kernel PCA: higher; rank in "
        f"brackets; all in {folder}/compare.json, "
        "a picture of the classes in compare.svg"
    )
    return "\n".join([*_columns([head, *rows]), notes])


def describe_labelings(found: Sequence[Labeling]) -> str:
    """Return a table of labelings, the cleanest first."""
    head = ("labels", "L(Z)", "differ from given", "estimated noise", "")
    rows = [
        (
            one.name,
            f"{one.block_error:.5g}",
            f"{one.changed:.2%}",
            f"{one.noise_rate:.1%}",
            "; ".join(one.left_out),
        )
        for one in found
    ]
    return "\n".join(_columns([head, *rows]))


def describe_bias(found: ClassBias, names: Sequence[str], most: int = 20) -> str:
    """Return the ranking of classes, and the first pairs of the ranking of pairs."""
    lines = ["classes, hardest first:"]
    lines += [f"  {names[k]}" for k in found.intra]
    pairs = [(int(k), int(d)) for k, d in found.inter]
    lines.append(f"pairs, most entangled first ({min(most, len(pairs))} of {len(pairs)}):")
    lines += [f"  {names[k]} – {names[d]}" for k, d in pairs[:most]]
    return "\n".join(lines)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines in which the cells of a column begin at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


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
