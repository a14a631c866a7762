"""What a command comes to, and the session of a run that most of them open."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ntkdist.cli.console import StageTime, Table, Terminal
from ntkdist.config import RunConfig
from ntkdist.errors import NtkdistError

if TYPE_CHECKING:
    from ntkdist.pipeline.stages import Pipeline
    from ntkdist.runs.run import Prepared


@dataclass(frozen=True)
class Outcome:
    """What a command comes to.

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
    """A run that is open.

    Attributes:
        pipeline: Of the run.
        stages: Those that were finished so far.
    """

    pipeline: Pipeline
    stages: list[StageTime] = field(default_factory=list)

    def outcome(self, result: Any, *shown: str | Table, next: Sequence[str] = ()) -> Outcome:
        """Return what the command comes to, with the stages' times in the result.

        Args:
            result: A dataclass or a mapping.
            shown: The same for people.
            next: Commands that may follow, ``RUN`` standing for the run's address.

        Returns:
            The outcome.
        """
        url = self.pipeline.run.url
        parts = result
        if dataclasses.is_dataclass(result) and not isinstance(result, type):
            fields = (one for one in dataclasses.fields(result) if one.repr)
            parts = {one.name: getattr(result, one.name) for one in fields}
        return Outcome(
            {**parts, "stages": list(self.stages)},
            shown,
            url,
            [command.replace("RUN", shlex.quote(url)) for command in next],
        )


@contextmanager
def opened(
    settings: RunConfig, out: Terminal, prepared: Prepared | None = None
) -> Iterator[Session]:
    """Open the run of some settings, and say what is done with it.

    Args:
        settings: Of the run.
        out: Where to say it.
        prepared: What a new run is begun with; None reads it from its source.

    Yields:
        The session.
    """
    from ntkdist.pipeline.stages import Pipeline

    with out.watch() as watch, Pipeline(settings, watch.subscribers, prepared) as pipeline:
        out.note(f"backend {pipeline.run.manifest.reason}")
        yield Session(pipeline, watch.stages)
