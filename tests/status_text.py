"""The state of a run as ``ntkdist status`` prints it, with the command to run next."""

from ntkdist.analyses.status import describe_status, read_status


def describe(url: str, *, now: float | None = None) -> str:
    """Return the lines; ``now`` is in seconds since 1970."""
    status = read_status(url, now=now)
    return f"{describe_status(status)}\nnext      {status.next}"
