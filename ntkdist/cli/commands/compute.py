"""Stages one by one: the Gram matrix, more images for it, its factor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ntkdist.cli.app import COMPUTE, DEFAULTS, app, begins_with, target_settings
from ntkdist.cli.options import Out, Recompute, Settings, Target
from ntkdist.cli.result import CommandResult, opened
from ntkdist.config import RunConfig
from ntkdist.errors import InputError


@app.command(group=COMPUTE, sort_key=1)
def gram(
    target: Target = None, *, recompute: Recompute = (), settings: Settings = DEFAULTS, out: Out
) -> CommandResult:
    """How alike are any two images to the infinite network? Compute the tiles that are missing.

    Example: ntkdist gram jobs/mnist.yaml --gram.workers 8

    Writes gram/ of the run, tile by tile; killed at any moment, it resumes.
    """
    from ntkdist.analyses.status import read_gram

    with opened(settings, out) as session:
        session.pipeline.gram(recompute)
        return session.result(
            {"gram": read_gram(session.pipeline.run)}, next=["ntkdist factor RUN"]
        )


def _all_images(arguments: Mapping[str, Any]) -> RunConfig:
    target = arguments.get("target")
    if target is None:
        raise InputError("extend: give the folder or URL of a run")
    stored = target_settings(target)
    return dataclasses.replace(stored, data=dataclasses.replace(stored.data, n=None))


@app.command(group=COMPUTE, sort_key=3)
@begins_with(_all_images)
def extend(target: Target = None, *, settings: Settings = DEFAULTS, out: Out) -> CommandResult:
    """What if there were more images? Add some of the run's own source, keeping what is computed.

    --data.n says how many there are to be in all; without it all that the source has.

    Example: ntkdist extend runs/mine --data.n 20000

    Writes the new images, the new tiles of gram/, and new rows of finished factors.
    """
    from ntkdist.pipeline.extend import as_stored, describe_extension, extend as extended

    with opened(as_stored(settings), out) as session:
        result = extended(session.pipeline, settings.data.n)
        return session.result(result, describe_extension(result), next=["ntkdist run RUN"])


@app.command(group=COMPUTE, sort_key=2)
def factor(target: Target = None, *, settings: Settings = DEFAULTS, out: Out) -> CommandResult:
    """What is the inverse of the Gram? Factor it plus a ridge (Cholesky), panel by panel.

    Of the inverse, posterior needs the diagonal, exact and paper all entries (labels.method).

    Example: ntkdist factor runs/mine --factor.ridge 1e-4

    Writes factor/ of the run; needs a finished Gram.
    """
    with opened(settings, out) as session:
        factored = session.pipeline.factor()
        result = {
            "ridge": factored.ridge,
            "ridge_absolute": factored.ridge_absolute,
            "rows": factored.n,
            "panels": factored.panel_count,
            "address": session.pipeline.factor_address(),
        }
        return session.result(result, next=["ntkdist labels RUN"])
