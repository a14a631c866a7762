"""Errors a user can act on: each message names the value, the limit and the remedy.

``exit_code`` is what the command line returns for it (0 done, 1 some tiles or
stages failed, 2 bad input, 130 interrupted and resumable).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NtkdistError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class InputError(NtkdistError, ValueError):
    """Something the user gave is wrong; nothing was written."""

    exit_code = 2


class MissingSplitError(InputError):
    """A source has no such split, or none of its images are left."""


class StoreError(NtkdistError):
    """A store holds something that cannot be trusted (corrupt, missing, foreign)."""


class StageError(NtkdistError):
    """A stage ended with parts of it undone; what was done is kept."""


class DeviceLostError(StageError):
    """A GPU that this process cannot use any more; another process may, and resumes the work."""


class InterruptedRunError(NtkdistError):
    """Stopped by a signal; starting the same command again resumes."""

    exit_code = 130


def shown(value: object, most: int = 120) -> str:
    """Return a value as an error shows it: its ``repr`` in one line, shortened.

    Args:
        value: Anything, also what has no ``repr``, such as an integer of 5,000 digits.
        most: Characters, of which the last ones are left out where there are more.
    """
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of any kind: the message of an error must not fail
        text = f"<{type(value).__name__}>"
    return text if len(text) <= most else text[:most] + "..."


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return ``'; did you mean ...?'`` for the nearest known names, or ``''``.

    Args:
        given: What the user wrote.
        known: The names that would have been accepted.

    Returns:
        A clause to append to an error message.
    """
    if len(given) > 100:
        return ""  # no name is so long
    near = difflib.get_close_matches(given, list(known), n=2, cutoff=0.55)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
