"""One thing that was looked at, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]
_MARKS = {"ok": "", "warning": "warning: ", "problem": "PROBLEM: "}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What, in one word.
        text: What was found.
        state: ok; warning (a run goes, but slower or without something); problem (it does not).
        remedy: What to do; empty where nothing is to be done.
    """

    name: str
    text: str
    state: State = "ok"
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """What was found, and what to do."""
        return f"{self.text}; {self.remedy}" if self.remedy else self.text


def describe_finding(found: Finding) -> str:
    """Return a finding as one line of ``status``'s form."""
    return f"{found.name:<10}{_MARKS[found.state]}{found.sentence}"
