"""The end of an extension that was begun: what every command that writes does before all else."""

from __future__ import annotations

import dataclasses

from ntkdist import storage
from ntkdist.gram.growth import grow_store
from ntkdist.gram.store import GramStore
from ntkdist.runs.extension import STAGING, settle_inputs
from ntkdist.runs.run import Run, write_manifest


def settle(run: Run) -> Run:
    """Bring inputs and matrices to the size that the manifest speaks of, if they are not.

    Idempotent: a kill at any moment leaves a run that the same call goes on with. The run's lease
    must be held.

    Args:
        run: The run.

    Returns:
        The run as it is now.
    """
    extension = run.manifest.extension
    if extension is None or not run.unsettled:
        return run
    settle_inputs(run.url)
    n = run.array("inputs", "images").shape[0]
    before = extension.before.fingerprint
    for kind in run.config.gram.kinds:
        address = run.address("gram", kind)
        if GramStore.exists(address):
            grow_store(address, n, fingerprint=run.fingerprint, former=before)
    storage.remove_all(run.address(STAGING))
    return advanced(run, "settled")


def advanced(run: Run, state: str) -> Run:
    """Write how far the latest extension is, and return the run that says so."""
    extension = run.manifest.extension
    assert extension is not None
    changed = dataclasses.replace(extension, state=state)  # type: ignore[arg-type]
    manifest = dataclasses.replace(run.manifest, extension=changed)
    write_manifest(run.url, manifest)
    return Run(run.url, manifest, run.config)
