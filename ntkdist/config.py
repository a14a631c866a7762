"""The configuration of a run: nested frozen dataclasses, which check their values when made."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from numbers import Integral, Real
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

from ntkdist.errors import InputError, did_you_mean, shown
from ntkdist.networks.architecture import Architecture
from ntkdist.storage import expand

_READ_APART = ("architecture", "size")  # by functions of their own
#: Most that a number of images, pixels, steps or rows may be; seeds may be larger.
MOST = 10**9
_MOST_SEED = 2**128


@dataclass(frozen=True)
class _Settings:
    """Settings whose values are converted to their annotated types when they are made."""

    def __post_init__(self) -> None:
        cls: Any = type(self)
        section = _section(cls)
        for name, hint in _hints(cls).items():
            value = getattr(self, name)
            if _is_section(hint):
                if not isinstance(value, hint):
                    raise InputError(f"{name}={shown(value)} must be a {hint.__name__}")
            elif name not in _READ_APART:
                object.__setattr__(self, name, _convert(hint, value, section + name))
        self._check()

    def _check(self) -> None:
        """Raise ``InputError`` for a value out of its range."""


@dataclass(frozen=True)
class DataConfig(_Settings):
    """Which images or features.

    Attributes:
        source: digits, images:DIR, csv:FILE, npz:FILE, idx:DIR, cifar10:DIR, cifar100:DIR,
            shapes or corners. An npz file may hold features (N, D) in place of images.
        split: train or test.
        features: File of features that the kernel sees in place of the images: .npy with an array
            (N, D), row i for image i of the source; or .npz with one such array, or with one for
            each split, called train and test. Features need a fully connected network.
        features_test: File of the features of the source's test split, for predict.on=test. It is
            not needed where data.features holds both splits.
        size: Scale the images to this many pixels a side, or HEIGHTxWIDTH; auto: 32, unless all
            have one size of at most 64 pixels a side. Without it images are not scaled.
        n: Number of images; None takes all.
        subset: first, or balanced (equal numbers per class, drawn by ``seed``).
        seed: Seed of the balanced draw.
        preprocess: none, center, standardize, unit-norm, halve, contrast, zca (or zca=0.1, with its
            regularisation relative to the mean eigenvalue), or several joined by ``+``; auto:
            standardize for images, center+unit-norm for features. Statistics come from the whole
            split before ``n`` images are taken.
    """

    source: str = "digits"
    split: Literal["train", "test"] = "train"
    features: str | None = None
    features_test: str | None = None
    size: int | str | None = None
    n: int | None = None
    subset: Literal["first", "balanced"] = "first"
    seed: int = 0
    preprocess: str = "auto"

    def _check(self) -> None:
        if self.size is not None and not (isinstance(self.size, str) and self.size == "auto"):
            object.__setattr__(self, "size", _one_form(self.size))
        if self.n is not None:
            _within("data.n", self.n, 2, MOST)
        _within("data.seed", self.seed, 0, _MOST_SEED)


@dataclass(frozen=True)
class NoiseConfig(_Settings):
    """Symmetric label noise that is added for an experiment.

    Attributes:
        rate: Share of labels replaced by another class, 0 to 1.
        seed: Seed of the noise.
    """

    rate: float = 0.0
    seed: int = 0

    def _check(self) -> None:
        _within("noise.rate", self.rate, 0.0, 1.0)
        _within("noise.seed", self.seed, 0, _MOST_SEED)


KINDS = ("ntk", "nngp")


@dataclass(frozen=True)
class GramConfig(_Settings):
    """How the Gram matrix is computed.

    Attributes:
        kinds: ntk, nngp or both.
        backend: auto, cuda, cpu, stax or reference.
        dtype: float32 or float64.
        invariance: none, or flip: entries averaged over horizontal flips of the images, so that an
            image and its mirror image have the same. It takes twice as long (four times where the
            network treats left and right differently), and is not for features.
        tile: Edge of a tile in images, or auto: 5 to 30 s a tile by a quick measurement.
        memory: Limit of the memory that one worker's tile takes.
        executor: ray, or inline for this process.
        workers: Number of Ray actors, or auto: one per GPU for cuda, else one per core.
        address: A Ray cluster to join; None starts one here.
        threads: Threads per worker, or auto: 1 per Ray actor, all cores inline.
        time_limit: Seconds after which a worker that has not finished its tile is ended and another
            worker computes the tile, or auto: ten times the median of the tiles so far.
        grace: Seconds to wait for the tiles in flight after Ctrl-C or SIGTERM; None waits until
            they are done.
    """

    kinds: tuple[str, ...] = ("ntk",)
    backend: Literal["auto", "cuda", "cpu", "stax", "reference"] = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    invariance: Literal["none", "flip"] = "none"
    tile: int | Literal["auto"] = "auto"
    memory: str = "1GiB"
    executor: Literal["ray", "inline"] = "ray"
    workers: int | Literal["auto"] = "auto"
    address: str | None = None
    threads: int | Literal["auto"] = "auto"
    time_limit: float | Literal["auto"] = "auto"
    grace: float | None = None

    def _check(self) -> None:
        most = {"tile": MOST, "workers": 10**5, "threads": 1024, "time_limit": _LONGEST}
        for name, limit in most.items():
            value = getattr(self, name)
            if value != "auto":
                _within(f"gram.{name}", value, 1, limit, ", or auto")
        if self.grace is not None:
            _within("gram.grace", self.grace, 0.0, _LONGEST)
        _memory("gram.memory", self.memory)
        # the command line gives ntk,nngp as one text
        kinds = tuple(name.strip() for kind in self.kinds for name in kind.split(","))
        object.__setattr__(self, "kinds", kinds)
        if unknown := [name for name in kinds if name not in KINDS]:
            raise InputError(
                f"gram.kinds: {shown(unknown[0])} is not one of {', '.join(KINDS)}"
                + did_you_mean(unknown[0], KINDS)
            )
        if "ntk" not in self.kinds:
            raise InputError(f"gram.kinds={list(self.kinds)} must hold ntk; add nngp beside it")


_LONGEST = 1e9  # seconds, which are 32 years
_SIZE = re.compile(r"[1-9]\d{0,17}([KMGT]i?B)?")
_ADDRESS = re.compile(r"\w+://\S+")
SCHEDULERS = ("auto", "threads", "synchronous", "ray")


@dataclass(frozen=True)
class FactorConfig(_Settings):
    """The Cholesky stage.

    Attributes:
        ridge: Added to the diagonal, relative to its mean; auto takes 1e-3 for the label method
            posterior, and for the others the ridge under which the given labels are likeliest.
        memory_limit: Limit of the memory that a panel takes.
        scheduler: The Dask scheduler: auto (threads here, or what Dask is configured with),
            threads, synchronous, ray (on the Gram's cluster) or tcp://HOST:PORT.
        device: What computes the panels of the factor: cpu, cuda (CuPy on a GPU), or auto: cuda
            where CuPy finds a GPU with enough free memory, else cpu; a factor begun on the CPU is
            continued there. Each worker looks for a GPU of its own. All else of this stage is
            computed on the CPU.
    """

    ridge: float | Literal["auto"] = 1e-3
    memory_limit: str = "2GiB"
    scheduler: str = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def _check(self) -> None:
        _ridge("factor.ridge", self.ridge)
        _memory("factor.memory_limit", self.memory_limit)
        if self.scheduler not in SCHEDULERS and not _ADDRESS.fullmatch(self.scheduler):
            known = ", ".join(SCHEDULERS)
            raise InputError(
                f"factor.scheduler={shown(self.scheduler)} is not one of {known} or an address "
                f"tcp://HOST:PORT{did_you_mean(self.scheduler, SCHEDULERS)}"
            )


@dataclass(frozen=True)
class LabelsConfig(_Settings):
    """The label stage.

    Attributes:
        method: posterior (the class most probable given all labels), exact (every flip lowers
            L(Z)) or paper (Algorithm 1).
        steps: Maximum number of label changes; auto stops at the estimated number of wrong labels
            (posterior: where no other class is more probable), none where no change helps.
        beta: Weight of the between-class term of L(Z).
        noise: How labels go wrong: symmetric (any other class, in proportion to its size),
            class-conditional (which class is taken for which is estimated), or auto to choose
            between the two by the given labels.
        noise_rate: Share of wrong labels under symmetric noise, or auto to estimate it.
        confidence: Least probability of another class for a label to be changed to it.
        locked: Text file of images whose labels are known to be right, one number a line.
        flips_per_step: Label changes per scan of all rows (exact and paper).
        blocks: Number of row blocks of the gradient (exact and paper), or auto: as many as
            factor.memory_limit needs. With factor.scheduler tcp://HOST:PORT its workers hold
            them.
        probabilities: Give labels.csv a column probability_CLASS for each class: the probability
            of that class by all images but this one, for tools such as cleanlab.
    """

    method: Literal["posterior", "exact", "paper"] = "posterior"
    steps: int | Literal["auto", "none"] = "auto"
    beta: float = 1.0
    noise: Literal["auto", "symmetric", "class-conditional"] = "auto"
    noise_rate: float | Literal["auto"] = "auto"
    confidence: float = 0.0
    locked: str | None = None
    flips_per_step: int = 1
    blocks: int | Literal["auto"] = "auto"
    probabilities: bool = False

    def _check(self) -> None:
        if isinstance(self.steps, int):
            _within("labels.steps", self.steps, 0, MOST, ", auto or none")
        if self.method == "paper" and self.steps == "none":
            raise InputError("labels.steps=none: method paper has no end of its own; give a number")
        _within("labels.beta", self.beta, 0.0, 1e12)
        if self.noise_rate != "auto":
            _within("labels.noise_rate", self.noise_rate, 0.0, 1.0)
            if self.noise == "class-conditional":
                raise InputError(
                    f"labels.noise_rate={self.noise_rate} is a rate of symmetric noise; leave it "
                    "out, or give labels.noise=symmetric"
                )
        _within("labels.confidence", self.confidence, 0.0, 1.0)
        _within("labels.flips_per_step", self.flips_per_step, 1, MOST)
        if self.blocks != "auto":
            _within("labels.blocks", self.blocks, 1, MOST)


@dataclass(frozen=True)
class PredictConfig(_Settings):
    """Which images are predicted, and with which labels.

    Attributes:
        on: Images to predict: test (the source's test split), rest (images of the split that the
            run leaves out), holdout (a share of the run's own images, which are then not trained
            on), or auto: the first of these that exists. One that exists and cannot be read is an
            error.
        n: Number of images of test or rest; None takes all.
        share: Share of the run's images that holdout takes, between 0 and 1.
        seed: Seed by which images are drawn.
        labels: Labels to train on: given, refurbished (by the label stage) or true (before the
            noise).
        ridge: Added to the diagonal, relative to its mean; auto chooses it by leave-one-out
            predictions of the images trained on.
        targets: centered (one-hot less 1/K) or one-hot.
        kind: ntk or nngp, one of gram.kinds.
    """

    on: Literal["auto", "test", "rest", "holdout"] = "auto"
    n: int | None = None
    share: float = 0.2
    seed: int = 0
    labels: Literal["given", "refurbished", "true"] = "given"
    ridge: float | Literal["auto"] = "auto"
    targets: Literal["centered", "one-hot"] = "centered"
    kind: Literal["ntk", "nngp"] = "ntk"

    def _check(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"predict.share={self.share} must lie between 0 and 1, such as 0.2")
        if self.n is not None:
            _within("predict.n", self.n, 2, MOST)
        _within("predict.seed", self.seed, 0, _MOST_SEED)
        _ridge("predict.ridge", self.ridge)


@dataclass(frozen=True)
class RunConfig(_Settings):
    """The configuration of a run.

    Attributes:
        run: Folder or URL of the run.
        architecture: Preset name, list of layers, or canonical text.
        data: Which images.
        noise: Label noise for experiments.
        gram: The Gram stage.
        factor: The Cholesky stage.
        labels: The label stage.
        predict: Predictions for other images.
    """

    run: str = "runs/digits"
    architecture: str = "cntk-gap-4"
    data: DataConfig = field(default_factory=DataConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    gram: GramConfig = field(default_factory=GramConfig)
    factor: FactorConfig = field(default_factory=FactorConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)

    def _check(self) -> None:
        if not self.run.strip():
            raise InputError(f"run={self.run!r} is empty; give the folder or URL of the run")
        object.__setattr__(self, "run", expand(self.run))
        object.__setattr__(self, "architecture", str(Architecture.parse(self.architecture)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dictionaries, as JSON and YAML hold them."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "config") -> RunConfig:
        """Build a configuration from nested dictionaries.

        Args:
            values: Keys as the attributes; missing keys take their defaults.
            where: What to call the source in an error message.

        Raises:
            InputError: For an unknown key (with the nearest known one) or a bad value.
        """
        return _build(cls, values, where)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML run file into nested dictionaries, with unknown keys refused.

    Raises:
        InputError: If it is missing, is no YAML mapping, or holds an unknown key.
    """
    import yaml

    path = Path(expand(path))
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.y*ml")])
        raise InputError(f"{path}: no such run file{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        # the last three for a tag that does not fit its value, or lists inside each other
        first = " ".join(str(error).split())
        raise InputError(f"{path}: is not valid YAML: {first[:500]}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a {type(values).__name__}; key: value lines are needed")
    RunConfig.from_dict(values, where=str(path))
    return values


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List ``(dotted field, old value, new value)`` where two nested mappings differ."""
    found: list[tuple[str, Any, Any]] = []
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += [(f"{key}.{name}", x, y) for name, x, y in differences(a, b)]
        elif a != b:
            found.append((key, a, b))
    return found


def _one_form(size: int | str) -> int | str:
    """Return the canonical form of a size, or raise ``InputError``."""
    from ntkdist.data.scaling import parse_size

    parsed = parse_size(size)
    if isinstance(parsed, str):
        return parsed
    height, width = parsed
    return height if height == width else f"{height}x{width}"


def _memory(name: str, text: str) -> None:
    """Raise ``InputError`` unless the text is a size in bytes."""
    if _SIZE.fullmatch(text.strip()):
        return  # Dask, which reads other forms, takes long to import
    from ntkdist.linalg import parse_memory

    try:
        parse_memory(text)
    except InputError:
        raise InputError(f"{name}={shown(text)} is no size; write 2GiB or 500MB") from None


def _ridge(name: str, ridge: float | str) -> None:
    """Raise ``InputError`` unless the ridge is auto or in range."""
    if isinstance(ridge, str) or 0 <= ridge <= 1:
        return  # NumPy, which the check imports, is not needed to read a configuration
    from ntkdist.checks import check_ridge

    check_ridge(ridge, name, otherwise=", or auto")


def _within(
    name: str, value: Any, least: float, most: float = math.inf, otherwise: str = ""
) -> None:
    if not least <= value <= most:
        upper = "" if most == math.inf else f" and at most {most:g}"
        raise InputError(f"{name}={shown(value)} must be at least {least:g}{upper}{otherwise}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _build(cls: type, values: Any, where: str) -> Any:
    section = _section(cls)
    if not isinstance(values, Mapping):
        name = section.rstrip(".") or "the file"
        raise InputError(f"{where}: {name} is {shown(values)}; key: value lines are needed")
    hints = _hints(cls)
    for key in values:
        if key not in hints:
            raise InputError(
                f"{where}: unknown key {section + str(key)!r}; known here: {', '.join(hints)}"
                + did_you_mean(str(key), hints)
            )
    given = {
        key: _build(hints[key], value, where) if _is_section(hints[key]) else value
        for key, value in values.items()
    }
    try:
        return cls(**given)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, _Settings)


def _section(cls: type) -> str:
    """Return what stands in front of the keys of a section: ``gram.``, nothing for all."""
    return "" if cls is RunConfig else cls.__name__.removesuffix("Config").lower() + "."


@cache
def _hints(cls: Any) -> dict[str, Any]:
    """Return the annotated type of each key."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _convert(hint: Any, value: Any, name: str) -> Any:
    """Return ``value`` as the annotated type, or raise ``InputError`` with what is allowed."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    options = args if origin in (typing.Union, types.UnionType) else (hint,)
    words: list[str] = []
    for option in options:
        if typing.get_origin(option) is Literal:
            if isinstance(value, str) and value in typing.get_args(option):
                return str(value)
            words += typing.get_args(option)
        elif typing.get_origin(option) is tuple:
            if isinstance(value, str):
                return tuple(x.strip() for x in value.split(","))
            if isinstance(value, (list, tuple)) and all(isinstance(x, str) for x in value):
                return tuple(value)
        elif option is type(None):
            if value is None:
                return None
        elif option is bool:
            if isinstance(value, bool):
                return value
        elif option is int:
            if isinstance(value, Integral) and not isinstance(value, bool):
                return int(value)
        elif option is float:
            if isinstance(value, (Real, str)) and not isinstance(value, bool):
                try:
                    return float(value)  # YAML reads 1e-6 as text
                except (ValueError, OverflowError):
                    pass
        elif option is str and isinstance(value, (str, PathLike)):
            text = _text(fspath(value), name)
            return None if not text.strip() and type(None) in options else text
    allowed = " or ".join(_in_words(option) for option in options)
    near = did_you_mean(value, words) if isinstance(value, str) else ""
    raise InputError(f"{name}={shown(value)} must be {allowed}{near}")


def _text(text: str | bytes, name: str) -> str:
    """Return a text that can be stored, and can be the name of a file."""
    if isinstance(text, bytes) or "\0" in text or not text.isprintable():
        try:
            if isinstance(text, bytes) or "\0" in text:
                raise UnicodeError
            text.encode("utf-8")
        except UnicodeError:
            raise InputError(
                f"{name}={shown(text)} must be text in UTF-8 without zero bytes; rename the file "
                "or folder"
            ) from None
    return str(text)


def _in_words(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return ", ".join(map(repr, typing.get_args(hint)))
    words = {str: "text", int: "a whole number", float: "a number", type(None): "nothing"}
    return words.get(hint, "true or false" if hint is bool else "a list of names")
