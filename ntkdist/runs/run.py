"""A run: one Zarr group in a folder or an object store, with its inputs, manifest and fingerprint.

Layout (every array in Zarr v3; results as arrays and JSON attributes, nothing pickled)::

    RUN/                  attributes: the manifest (schema, config, fingerprint, versions, ...)
      inputs/images       (N, H, W, C) float32, preprocessed: what the kernel sees; features are
                          (N, 1, 1, D)
      inputs/pictures     (N, H, W, C) uint8, for people to look at; not of features alone
      inputs/digests      (N, 16) uint8, of features as they were read; only of these
      inputs/labels       (N,) the given labels, noise included
      inputs/labels_true  (N,) the labels before noise was put on; only where it was
      inputs/files        file names as UTF-8 text (uint8), one a line; where there are any
      inputs/zca_mean     (H, W, C) float64, what ``zca`` subtracted; of recipes with it
      inputs/zca_matrix   (H·W·C, H·W·C) float64, what it multiplied by
      gram/KIND           the Gram matrix as tiles
      factor/KIND/RIDGE   the Cholesky factor, and its inverse or the diagonal of that
      extension/          inputs of a larger run, while it is extended
      labels/             what the label stage found; labels/pred_probs (N, K) float32, what all
                          other images say of the class of each
      noise/              the estimate of the label noise
      cross/NAME/         images to predict, and their kernel with the run's
      dynamics/KEY, widths/KEY, label_aware/KEY, lookahead/KEY
                          results, one for each choice of settings
      sweep/, compare/    measures of other networks
      events.jsonl        what happened when
      report.html         the report
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ntkdist import storage
from ntkdist.checks import check_made
from ntkdist.config import RunConfig, differences
from ntkdist.data.features import feature_words
from ntkdist.display.html import html_table
from ntkdist.errors import InputError, NtkdistError, StageError, StoreError
from ntkdist.networks.architecture import Architecture, preset_of
from ntkdist.runs.inputs import (
    ARRAYS,
    NOTES,
    Inputs,
    fingerprint,
    found_data,
    load_inputs,
    same_data,
    source_of,
    store_inputs,
)
from ntkdist.runs.manifest import (
    SCHEMA,
    GramOrigin,
    Manifest,
    read_manifest,
    versions,
    write_manifest,
)
from ntkdist.storage import lease
from ntkdist.storage.arrays import (
    METADATA,
    open_array,
    read_array,
    read_metadata,
    write_array,
)

if TYPE_CHECKING:
    import zarr

#: The stages of a run in their order, after its inputs.
STAGES = ("gram", "factor", "labels", "report")
_MADE_FOR = "run_fingerprint"
_PROBE = ".probe"
_LOST_INPUTS = "restore it from a copy, or make the run again under another --run"
_KEY_DIGITS = 12
_LONGEST_NAME = 48  # characters of an architecture that has no name
#: All that a killed ``Run.create`` can leave.
HALF_MADE = {"zarr.json", "inputs", _PROBE, *lease.FILES}
#: Settings that change how a run is computed or analysed but not what its Gram matrix is.
_FREE = {"run", "factor", "labels", "predict"}
EXECUTION_SETTINGS = {
    "executor",
    "workers",
    "address",
    "threads",
    "memory",
    "tile",
    "backend",
    "time_limit",
    "grace",
}


@dataclass(eq=False)
class Prepared:
    """The inputs of a new run whose source has been read already.

    Attributes:
        inputs: Its inputs; None once a run was made of them, whose store has them from then on.
        gram_from: A run of the same images in the same order, whose Gram it may take; None for
            none.
    """

    inputs: Inputs | None
    gram_from: str | None = None


class Run:
    """An open run.

    Attributes:
        url: Address of its folder or object-store prefix.
        manifest: Its manifest.
        config: Its configuration; settings that may change between starts are the latest given.
    """

    def __init__(self, url: str, manifest: Manifest, config: RunConfig) -> None:
        self.url = storage.normal(url)
        self.manifest = manifest
        self.config = config

    def __repr__(self) -> str:
        return _one_line(self)

    def _repr_html_(self) -> str:
        return _as_html(self)

    @property
    def fingerprint(self) -> str:
        """The sha256 of everything that decides the Gram; every tile carries it."""
        return self.manifest.fingerprint

    @property
    def architecture(self) -> Architecture:
        """The network."""
        return Architecture.parse(self.config.architecture)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.manifest.num_classes

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C) of the images as the kernel sees them; (N, D) of features."""
        n, *size = self.array("inputs", "images").shape
        return (n, size[-1]) if self.manifest.is_features else (n, *size)

    @property
    def scaled_to(self) -> tuple[int, int] | None:
        """(height, width) that images were scaled to as they were read; None: they were not."""
        if self.config.data.size is None or not self.has_pictures:
            return None
        _, height, width, _ = self.array("inputs", "pictures").shape
        return height, width

    @property
    def has_pictures(self) -> bool:
        """Whether there are images for people to look at; False for features of no images."""
        return not self.manifest.is_features or self.config.data.features is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what its source held that was not read as it is, and on unused classes."""
        return tuple(self.attributes("inputs", "images").get(NOTES, ()))

    @property
    def channels(self) -> int | None:
        """C of the images as they were read; None for features of no images."""
        return int(self.array("inputs", "pictures").shape[3]) if self.has_pictures else None

    def address(self, *parts: str) -> str:
        """Return the address of something inside the run."""
        return storage.join(self.url, *parts)

    @property
    def resume_command(self) -> str:
        """The command that resumes this run."""
        return f"ntkdist run {self.url}"

    @property
    def repeat_command(self) -> str:
        """The command that computes the same from the same data, into a new folder."""
        from ntkdist.data.preprocess import resolve_recipe

        flags = [("run", "runs/again"), ("data.source", self.config.data.source)]
        flags.append(("architecture", preset_of(self.architecture) or self.config.architecture))
        recipe = resolve_recipe("auto", features=self.manifest.is_features)
        for name, _, value in differences(RunConfig().to_dict(), self.config.to_dict()):
            section, _, key = name.partition(".")
            means = section == "gram" and key in EXECUTION_SETTINGS
            if means or name == "data.source" or section in ("run", "architecture", "predict"):
                continue
            if name == "data.preprocess" and value == recipe:
                continue
            values = value if isinstance(value, (list, tuple)) else [value]
            flags += [(name, str(one)) for one in values]
        flags.append(("gram.backend", self.manifest.backend))
        return "ntkdist run " + " ".join(f"--{name} {shlex.quote(text)}" for name, text in flags)

    @property
    def extend_command(self) -> str:
        """The command that finishes an extension to the size in the manifest."""
        n = self.manifest.config["data"]["n"]
        return f"ntkdist extend {self.url}" + ("" if n is None else f" --data.n {n}")

    @property
    def has_pending_extension(self) -> bool:
        """Whether an extension was killed after the manifest and before the arrays were changed."""
        return self.manifest.extension is not None and self.manifest.extension.state == "begun"

    @classmethod
    def create(
        cls,
        config: RunConfig,
        *,
        hold: Callable[[], None] | None = None,
        prepared: Prepared | None = None,
    ) -> Run:
        """Create a run, or open it if it is there with the same configuration.

        Args:
            config: What to compute. Relative data paths count from the current folder.
            hold: Takes the run's lease; called once, before the first write.
            prepared: What ``config`` names, read already; None reads it.

        Raises:
            InputError: If the data cannot be read, the place cannot be written, or another
                run is there (the first differing field, its old and its new value).
        """
        check_made("config", config, RunConfig, "make one, or use RunConfig.from_dict")
        url = storage.normal(config.run)
        if run := cls.find(config):
            if hold is None:
                return run
            hold()
            # another driver may have extended it before the lease was held
            return cls.find(config) or run
        _check_place(url)
        inputs = None if prepared is None else prepared.inputs
        if inputs is None:
            inputs = load_inputs(config)
        manifest = _describe(config, inputs)
        if prepared is not None and prepared.gram_from is not None:
            manifest = _with_origin(manifest, prepared.gram_from)
        _check_room(url, inputs, config, gram=manifest.gram_from is None)
        if hold is not None:
            hold()
            if run := cls.find(config):  # another driver has created it meanwhile
                return run
        _write_inputs(url, inputs, manifest)
        if prepared is not None:
            prepared.inputs = None
        return cls(url, manifest, _resolved(config, features=inputs.is_features))

    @classmethod
    def find(cls, config: RunConfig) -> Run | None:
        """Open the run that a configuration names, with its settings; None where there is none.

        Raises:
            InputError: The run there has other settings, or cannot be read.
        """
        url = storage.normal(config.run)
        manifest = read_manifest(url)
        if manifest is None:
            return None
        _refuse_change(manifest, config)
        return cls(url, manifest, _resolved(config, features=manifest.is_features))

    @classmethod
    def open(cls, url: str | os.PathLike[str], *, pending_extension: bool = False) -> Run:
        """Open an existing run.

        Args:
            url: Its folder or URL.
            pending_extension: Also open a run with a pending extension: its manifest has the
                larger size, its arrays may still have the smaller one.

        Raises:
            InputError: If there is no run, or a newer version wrote it.
            StageError: If a killed extension has to be finished first.
        """
        url = storage.normal(url)
        manifest = read_manifest(url)
        if manifest is None:
            raise InputError(f"{url}: there is no run here; start one with ntkdist run CONFIG.yaml")
        data = found_data(manifest.config["data"], manifest.root)
        config = RunConfig.from_dict({**manifest.config, "run": url, "data": data}, where=url)
        run = cls(url, manifest, config)
        if run.has_pending_extension and not pending_extension:
            raise StageError(
                f"{url}: an extension was interrupted; finish it: {run.extend_command}"
            )
        return run

    def has(self, *parts: str) -> bool:
        """Return whether an array or group is stored under ``parts``.

        Raises:
            StoreError: If an array of the inputs is not there any more.
        """
        if storage.exists(self.address(*parts, METADATA)):
            return True
        inputs, _, name = "/".join(parts).partition("/")
        if inputs == "inputs" and name != "images" and name in self.stored_names("inputs"):
            raise StoreError(f"{self.address(*parts)}: is missing; {_LOST_INPUTS}")
        return False

    def stored_names(self, group: str) -> list[str]:
        """Return the names of the arrays that a group was stored with; empty if not recorded."""
        at = ("inputs", "images") if group == "inputs" else (group,)
        return [str(name) for name in self.attributes(*at).get(ARRAYS, [])]

    def array(self, *parts: str) -> zarr.Array:
        """Open a stored array for reading; reading a missing chunk raises ``StoreError``.

        Raises:
            StoreError: If it is not there.
        """
        with self._naming_absent(parts):
            return open_array(self.address(*parts), self.remedy(parts[0]))

    def read(self, *parts: str) -> np.ndarray:
        """Read a stored array whole; an absent, incomplete or damaged one raises ``StoreError``."""
        with self._naming_absent(parts):
            return read_array(self.address(*parts), self.remedy(parts[0]))

    @contextlib.contextmanager
    def _naming_absent(self, parts: tuple[str, ...]) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, KeyError) as error:
            name = "/".join(parts)
            raise StoreError(f"{self.url}: holds no {name} yet; {self.resume_command}") from error

    def remedy(self, name: str) -> str:
        """Return what to do about a damaged array, named inside the run."""
        if name.split("/")[0] == "inputs":
            return _LOST_INPUTS
        return f"ntkdist verify {self.url} --repair removes what is damaged"

    def write(
        self, parts: str, values: np.ndarray, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Store an array under a slash-separated name, replacing what is there."""
        write_array(self.address(parts), np.asarray(values), attributes)

    def files(self) -> list[str]:
        """Return the file name of every image; empty where images came from no files."""
        if not self.has("inputs", "files"):
            return []
        return self.read("inputs", "files").tobytes().decode("utf-8").split("\n")

    def attributes(self, *parts: str) -> dict[str, Any]:
        """Return the JSON attributes of a group or array; empty if it is not there."""
        try:
            metadata = read_metadata(self.address(*parts), self.remedy(parts[0]))
        except FileNotFoundError:
            return {}
        return dict(metadata["attributes"])

    def write_attributes(self, parts: str, attributes: Mapping[str, Any]) -> None:
        """Set JSON attributes of a group, created if needed.

        The run's fingerprint and the names of the group's arrays are added.
        """
        import zarr

        group = zarr.open_group(storage.zarr_store(self.address(parts)), mode="a")
        about = {ARRAYS: self.array_names(parts), _MADE_FOR: self.fingerprint}
        group.attrs.update({**attributes, **about})

    def write_result(
        self, group: str, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
    ) -> None:
        """Store a result in place of an earlier one: its arrays first, its attributes last.

        A group without attributes counts as no result, so that a kill leaves none that is mixed.
        """
        storage.remove(self.address(group, METADATA))
        storage.remove_all(self.address(group))
        for name, values in arrays.items():
            self.write(f"{group}/{name}", values)
        self.write_attributes(group, attributes)

    def array_names(self, folder: str = "") -> list[str]:
        """Return the names of the arrays and groups below a group, without a checkpoint's."""
        ending = f"/{METADATA}"
        nodes = storage.list_objects(self.address(folder) if folder else self.url)
        names = (name.removesuffix(ending) for name in nodes if name.endswith(ending))
        return sorted(name for name in names if "checkpoint" not in name.split("/"))

    def is_current(self, *parts: str) -> bool:
        """Return whether a group's attributes were set since the run was last extended."""
        if self.manifest.extension is None:
            return True
        return self.attributes(*parts).get(_MADE_FOR) == self.fingerprint


@dataclass(frozen=True)
class Overview:
    """How far a run is, from its store alone.

    Attributes:
        shape: (N, H, W, C) of its images; (N, D) of features.
        tiles: Tiles of the NTK's Gram that are stored.
        total: Of how many; 0 where it was not begun.
        stages: Stage → whether its result is there.
        issues: Labels that look wrong; None before the label stage.
        report: Where the report is; None before it was written.
    """

    shape: tuple[int, ...]
    tiles: int
    total: int
    stages: dict[str, bool]
    issues: int | None
    report: str | None

    @classmethod
    def of(cls, run: Run) -> Overview:
        """Look at a run; raises what its store raises."""
        tiles = total = 0
        if run.has("gram", "ntk"):
            gram = run.array("gram", "ntk")
            blocks = -(-gram.shape[0] // gram.chunks[0])
            total = blocks * (blocks + 1) // 2
            names = storage.list_objects(run.address("gram", "ntk", "c"))
            # what is not a number is the temporary file of a writer that was killed
            tiles = sum(name.replace("/", "").isdecimal() for name in names)
        factors = storage.children(run.address("factor", "ntk")) if tiles else []
        summary = run.attributes("labels").get("summary") if run.is_current("labels") else None
        report = run.address("report.html")
        written = storage.exists(report)
        stages = {
            "gram": total > 0 and tiles >= total,
            "factor": any(
                run.has("factor", "ntk", name, part)
                for name in factors
                for part in ("inverse", "diagonal")
            ),
            "labels": summary is not None,
            "report": written,
        }
        shape = run.shape
        issues = None if summary is None else int(summary["num_issues"])
        return cls(shape, tiles, total, stages, issues, report if written else None)

    @property
    def images(self) -> str:
        """Number and size of the images or features, in words."""
        if len(self.shape) == 2:
            return feature_words(*self.shape)
        n, *size = self.shape
        return f"{n:,} images of {'×'.join(map(str, size))}"


def _one_line(run: Run) -> str:
    """Return address, images, architecture and progress of a run in one line; never raises.

    Of a run in an object store without its progress: a traceback or a debugger, which show such
    lines too, must not wait for a server.
    """
    name = _kernel_name(run)
    if storage.local_path(run.url) is None:
        return f"<Run {run.url}: {run.config.data.source}, {run.num_classes} classes, {name}>"
    try:
        overview = Overview.of(run)
    except (NtkdistError, OSError) as error:
        return f"<Run {run.url}: {name}, cannot be read: {' '.join(str(error).split())}>"
    done = [stage for stage, there in overview.stages.items() if there]
    state = f"{', '.join(done)} done" if done else "nothing done"
    if not overview.stages["gram"] and overview.total:
        state = f"gram {overview.tiles} of {overview.total} tiles"
    return f"<Run {run.url}: {overview.images}, {run.num_classes} classes, {name}, {state}>"


def _as_html(run: Run) -> str:
    """Return a small table about a run, with styles of its own; never raises."""
    rows = [("Run", _code(run.url))]
    try:
        overview = Overview.of(run)
    except (NtkdistError, OSError) as error:
        rows += [("State", f"cannot be read: {escape(str(error))}")]
        return html_table(rows)
    config = run.config
    source = f"{source_of(config.data)}, {config.data.split}"
    rows += [
        ("Data", f"{overview.images}, {run.num_classes} classes ({_code(source)})"),
        ("Architecture", _code(_kernel_name(run))),
        ("Gram", _bar(overview.tiles, overview.total) if overview.total else "not begun"),
        ("Stages", ", ".join(_stage(*one) for one in overview.stages.items())),
    ]
    if overview.issues is not None:
        rows.append(("Suspicious labels", f"{overview.issues:,} of {overview.shape[0]:,}"))
    if overview.report:
        rows.append(("Report", _code(overview.report)))
    return html_table(rows)


def result_key(settings: Mapping[str, Any]) -> str:
    """Return the name of the group, in that of its analysis, of a result with these settings."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]


def is_result_key(name: str) -> bool:
    """Return whether a name is one that ``result_key`` gives."""
    return len(name) == _KEY_DIGITS and set(name) <= set("0123456789abcdef")


def name_of(architecture: Architecture) -> str:
    """Return the preset's name of an architecture, or the beginning of its canonical text."""
    text = preset_of(architecture) or str(architecture)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def _kernel_name(run: Run) -> str:
    name = name_of(run.architecture)
    return name if run.config.gram.invariance == "none" else f"{name}, averaged over flips"


def _bar(done: int, total: int) -> str:
    share = 100 * min(done, total) // total
    return (
        f'<progress max="{total}" value="{min(done, total)}" aria-label="tiles of the Gram" '
        'style="width:12em;vertical-align:middle;color-scheme:light dark"></progress> '
        f"{done:,} of {total:,} tiles ({share} %)"
    )


def _stage(name: str, there: bool) -> str:
    return f"{escape(name)} {'✓' if there else '–'}"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _describe(config: RunConfig, inputs: Inputs) -> Manifest:
    from ntkdist.kernels.ranges import check_entries

    arch = Architecture.parse(config.architecture)
    name, arithmetic, reason = choose_backend(config, arch, inputs.images.shape[1:])
    check_entries(arch, inputs.images, config.gram.dtype, config.gram.kinds)
    return Manifest(
        schema=SCHEMA,
        config=_resolved(config, features=inputs.is_features).to_dict(),
        fingerprint=fingerprint(inputs.images, arch, config.gram, arithmetic),
        backend=name,
        arithmetic=arithmetic,
        reason=reason,
        num_classes=inputs.num_classes,
        class_names=inputs.class_names,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        inputs="features" if inputs.is_features else "images",
        root=os.getcwd(),
    )


def _with_origin(manifest: Manifest, url: str) -> Manifest:
    """Return the manifest with the run that its Gram is taken from, if it is the same Gram."""
    other = read_manifest(url)
    if other is None or other.fingerprint != manifest.fingerprint:
        return manifest
    return replace(manifest, gram_from=GramOrigin(url))


def _resolved(config: RunConfig, *, features: bool) -> RunConfig:
    """Return a configuration with what ``data.preprocess=auto`` stands for."""
    from ntkdist.data.preprocess import resolve_recipe

    recipe = resolve_recipe(config.data.preprocess, features=features)
    if recipe == config.data.preprocess:
        return config
    return replace(config, data=replace(config.data, preprocess=recipe))


def choose_backend(
    config: RunConfig, arch: Architecture, shape: tuple[int, ...]
) -> tuple[str, str, str]:
    """Return name, arithmetic and reason of the backend that the run is begun with."""
    from ntkdist.kernels.cuda.device import cuda_unavailable
    from ntkdist.kernels.invariance import in_words
    from ntkdist.kernels.registry import arithmetic_of, coverage, select_backend

    image = (int(shape[0]), int(shape[1]), int(shape[2]))
    settings = config.gram
    elsewhere = settings.executor == "ray" and _joins_cluster(settings.address)
    if settings.backend == "cuda" and elsewhere and cuda_unavailable():
        # the GPUs are the workers'; this machine may have none
        if arch.is_spatial:
            arch.check_image(*image[:2])
        if why_not := coverage("cuda", arch, image):
            raise InputError(f"backend 'cuda' cannot compute this: {why_not}; take auto")
        reason = "cuda: asked for by name, on the workers' GPUs"
        return "cuda", arithmetic_of("cuda"), reason + in_words(settings.invariance, arch, image)
    chosen = select_backend(
        arch,
        image,
        name=settings.backend,
        dtype=settings.dtype,
        invariance=settings.invariance,
    )
    return chosen.backend.name, chosen.backend.arithmetic, chosen.reason


def _joins_cluster(address: str | None) -> bool:
    """Return whether workers may be on other machines than this one, or have what it has not."""
    named = address or os.environ.get("RAY_ADDRESS")
    if named not in (None, "", "local"):
        return True
    ray = sys.modules.get("ray")  # one that the caller started, as tests of clusters do
    return bool(ray and ray.is_initialized() and ray.cluster_resources().get("GPU"))


def _refuse_change(manifest: Manifest, config: RunConfig) -> None:
    """Raise ``InputError`` if ``config`` asks for another Gram than the run holds."""
    old = dict(manifest.config)
    new = _resolved(config, features=manifest.is_features).to_dict()
    for both in (old, new):
        for name in _FREE:
            both.pop(name, None)
        both["gram"] = {k: v for k, v in both["gram"].items() if k not in EXECUTION_SETTINGS}
        # what is predicted is no part of the Gram
        both["data"] = {k: v for k, v in both["data"].items() if k != "features_test"}
    new["data"] = same_data(old["data"], new["data"], manifest.root)
    if config.gram.backend not in ("auto", manifest.backend):
        old["gram"]["backend"], new["gram"]["backend"] = manifest.backend, config.gram.backend
    changed = differences(old, new)
    if changed:
        name, was, now = changed[0]
        if name == "architecture":
            was, now = (preset_of(Architecture.parse(text)) or text for text in (was, now))
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise InputError(
            f"{config.run}: holds a run with {name}={was!r}, now {name}={now!r} is asked{more}; "
            "give another --run, or the old value"
        )


def check_unused(url: str) -> Path | None:
    """Raise ``InputError`` where a file or anything else lies at ``url``; return its local path."""
    folder = storage.local_path(url)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError(f"{url}: is a file; give a folder for the run")
    if not set(storage.children(url)) <= HALF_MADE:
        raise InputError(f"{url}: is a folder with other things in it; give a new or empty one")
    return folder


def nearest(url: str) -> Path:
    """Return the folder of a run, or the first one above it that exists."""
    path = Path(url).absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def free_space(url: str) -> int | None:
    """Return the bytes that are free where a run is or would be; None where that is unknown."""
    return None if "://" in url else shutil.disk_usage(nearest(url)).free


def _check_place(url: str) -> None:
    """Raise ``InputError`` unless a new run can be written at ``url``."""
    folder = check_unused(url)
    if folder is None:
        storage.write_text(storage.join(url, _PROBE), "")
        storage.remove(storage.join(url, _PROBE))
        return
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        os.makedirs(url, exist_ok=True)
        probe = os.path.join(url, _PROBE)
        with open(probe, "w"):
            pass
        os.unlink(probe)
        with contextlib.suppress(OSError):  # where others have begun a run there meanwhile
            for place in new:
                os.rmdir(place)  # data that turns out bad leaves nothing behind
    except OSError as error:
        raise InputError(
            f"{url}: cannot be written ({error.strerror}); give another --run or change its rights"
        ) from None


def _check_room(url: str, inputs: Inputs, config: RunConfig, *, gram: bool) -> None:
    """Raise ``InputError`` where there is no space for the inputs and a Gram that is computed."""
    free = free_space(url)
    if free is None:
        return
    n, item = len(inputs.labels), np.dtype(config.gram.dtype).itemsize
    needed = inputs.images.nbytes
    needed += 0 if inputs.pictures is None else inputs.pictures.nbytes
    needed += sum(array.nbytes for array in inputs.preprocess.arrays().values())
    needed += n * (n + 1) // 2 * item * len(config.gram.kinds) if gram else 0
    if needed > free:
        what = "features" if inputs.is_features else "images"
        raise InputError(
            f"{url}: {what} and Gram take up to {needed / 2**30:.3g} GiB, {free / 2**30:.3g} GiB "
            "are free there; give a --run with more room, or fewer images by --data.n"
        )


def _write_inputs(url: str, inputs: Inputs, manifest: Manifest) -> None:
    """Store inputs first and the manifest last: a run without a manifest is none."""
    import zarr

    # not mode="w", which would take the lease away
    group = zarr.open_group(storage.zarr_store(url), mode="a", zarr_format=3)
    if "inputs" in group:
        del group["inputs"]
    store_inputs(storage.join(url, "inputs"), inputs)
    write_manifest(url, manifest)
