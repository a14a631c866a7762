"""``ntkdist extend``: adds images of a run's source, computes new tiles and extends factors."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from ntkdist import storage
from ntkdist.config import RunConfig
from ntkdist.gram.store import GramStore
from ntkdist.pipeline.gram import gram_of
from ntkdist.pipeline.growth import advanced, factors_to_grow, roll_forward
from ntkdist.pipeline.stages import Pipeline
from ntkdist.runs.inputs import Inputs, fingerprint, store_inputs
from ntkdist.runs.manifest import STAGING, Extension, Former, write_manifest
from ntkdist.runs.run import Run
from ntkdist.runs.source_match import grown_inputs, stored_inputs


@dataclass(frozen=True)
class ExtensionResult:
    """What an extension did.

    Attributes:
        before: Images of the run before it.
        after: Images now; as many where there was nothing new.
        kept: Tiles of the matrix that were there already.
        computed: Tiles that were computed.
        factors: Names below ``factor/`` of those that the new rows were appended to.
        seconds: Wall time.
        place: The run.
    """

    before: int
    after: int
    kept: int
    computed: int
    factors: tuple[str, ...]
    seconds: float
    place: str


def as_stored(settings: RunConfig) -> RunConfig:
    """Return settings with the stored run's number of images, to open that run.

    Raises:
        InputError: If there is no run.
    """
    n = Run.open(settings.run, pending_extension=True).config.data.n
    return replace(settings, data=replace(settings.data, n=n))


def extend(pipeline: Pipeline, n: int | None = None) -> ExtensionResult:
    """Add images of the run's own source to it, and bring its matrices and factors up to date.

    The images of the run keep their places and labels; the others follow in the source's order,
    prepared with the statistics that the run was begun with. Whole tiles stay; those at a ragged
    end are computed anew. The rows are appended to every finished factor, which keeps its absolute
    ridge (relative to the mean diagonal of the images that it was begun with). Where its inverse,
    or the diagonal of that, was stored, what the label method needs of it is brought up to date.
    All else that was made from the smaller run is kept until it is asked for again.

    After a kill the run is unchanged, or the next command that writes to it rolls it forward;
    the same call does what is left. For subsets of kind ``first`` the run
    then has the fingerprint and the bits of one begun with all images and the same tile edge.

    Raises:
        InputError: The source has too few images, lacks some of the run, or has other classes.
        StageError: If tiles failed; what was done is kept.
        InterruptedRunError: If a signal stopped it.
    """
    began = time.monotonic()
    before = _images(pipeline.run)
    with pipeline.stage("extend") as detail:
        config = _larger(pipeline.run, pipeline.run.config, n)
        inputs = grown_inputs(config, stored_inputs(pipeline.run))
        if inputs is not None:
            _switch(pipeline, inputs, n)
        detail.append(f"{before} images, now {_images(pipeline.run)}")
    extension = pipeline.run.manifest.extension
    kept = _stored_tiles(pipeline.run)
    factors: tuple[str, ...] = ()
    if extension is not None and extension.state != "done":
        before = extension.before.images
        pipeline.gram()
        factors = _grow_factors(pipeline, extension)
        pipeline.run = advanced(pipeline.run, "done")
    return ExtensionResult(
        before=before,
        after=_images(pipeline.run),
        kept=kept,
        computed=_stored_tiles(pipeline.run) - kept,
        factors=factors,
        seconds=time.monotonic() - began,
        place=pipeline.run.url,
    )


def _switch(pipeline: Pipeline, inputs: Inputs, n: int | None) -> None:
    """Enlarge the run: stage the new inputs, write the manifest, then roll forward."""
    run = pipeline.run
    extension = run.manifest.extension
    former = () if extension is None else extension.former
    factors = factors_to_grow(run)
    if extension is not None and extension.state != "done":  # factors it did not grow yet
        for name, inverse in extension.factors.items():
            factors[name] = inverse or factors.get(name, False)
    waiting = run.address(STAGING)
    storage.remove_all(waiting)  # left by an extension that was killed
    store_inputs(waiting, inputs)
    written = RunConfig.from_dict({**run.manifest.config, "run": run.url})
    manifest = replace(
        run.manifest,
        config={**_larger(run, written, n).to_dict(), "run": run.manifest.config["run"]},
        fingerprint=fingerprint(
            inputs.images, run.architecture, run.config.gram, run.manifest.arithmetic
        ),
        extension=Extension("begun", (*former, Former(run.fingerprint, _images(run))), factors),
    )
    pipeline.config = _larger(run, pipeline.config, n)
    write_manifest(run.url, manifest)
    pipeline.run = roll_forward(Run(run.url, manifest, pipeline.config))


def _larger(run: Run, config: RunConfig, n: int | None) -> RunConfig:
    """Return settings with another number of images, and the edge that tiles are stored with."""
    config = replace(config, data=replace(config.data, n=n))
    address = run.address("gram", config.gram.kinds[0])
    if config.gram.tile == "auto" or not GramStore.exists(address):
        return config
    # another number of images would give another near-equal edge
    return replace(config, gram=replace(config.gram, tile=GramStore.open(address).tiling.edge))


def _grow_factors(pipeline: Pipeline, extension: Extension) -> tuple[str, ...]:
    """Append the new rows to the factors that there were; return the names of those that grew."""
    from ntkdist.linalg import CholeskyFactor

    grown, limit = [], pipeline.config.factor.memory_limit
    for name, inverse in extension.factors.items():
        with pipeline.stage("factor") as detail, pipeline.scheduler() as scheduler:
            address = pipeline.run.address("factor", name)
            if not pipeline.grow_factor(address, pipeline.gram_store(name.partition("/")[0])):
                detail.append(f"{name}: dropped, the larger matrix needs a larger ridge")
                continue
            factor = CholeskyFactor.open(address, memory_limit=limit, scheduler=scheduler)
            if inverse and pipeline.config.labels.method != "posterior":
                factor.inverse(on_event=pipeline.forward)
            elif inverse or pipeline.run.has("factor", name, "diagonal"):
                factor.diagonal_of_inverse(on_event=pipeline.forward)
            detail.append(f"{name}: {factor.n} rows")
            grown.append(name)
    return tuple(grown)


def _images(run: Run) -> int:
    return int(run.array("inputs", "labels").shape[0])


def _stored_tiles(run: Run) -> int:
    """Return the number of tiles of which every kind is stored."""
    missing, count = set(), 0
    for _, address in gram_of(run).outputs:
        if not GramStore.exists(address):
            return 0
        store = GramStore.open(address, "r", run.fingerprint)
        missing |= set(store.missing())
        count = store.tiling.count
    return count - len(missing)


def describe_extension(result: ExtensionResult) -> str:
    """Return what the command prints."""
    if not result.computed and result.after == result.before:
        return f"nothing new: the run has {result.after} images already"
    lines = [
        f"images    {result.before} -> {result.after}",
        f"tiles     {result.kept} kept, {result.computed} computed",
        f"factors   {', '.join(result.factors) or 'none to append to'}",
        f"seconds   {result.seconds:.1f}",
        f"next      ntkdist run {result.place}",
    ]
    return "\n".join(lines)
