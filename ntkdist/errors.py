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


class InterruptedRunError(NtkdistError):
    """Stopped by a signal; starting the same command again resumes."""

    exit_code = 130


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return ``'; did you mean ...?'`` for the nearest known names, or ``''``.

    Args:
        given: What the user wrote.
        known: The names that would have been accepted.

    Returns:
        A clause to append to an error message.
    """
    near = difflib.get_close_matches(given, list(known), n=2, cutoff=0.55)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
