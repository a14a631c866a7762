"""What the shell offers for a word that is being typed: run files, runs, presets, choices."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ntkdist.networks.architecture import preset_names

#: What a setting takes that its type does not say.
_CHOICES: dict[str, tuple[str, ...]] = {
    "--data.split": ("train", "test"),
    "--data.size": ("auto",),
    "--data.subset": ("first", "balanced"),
    "--data.preprocess": ("auto", "none", "center", "standardize", "unit-norm", "halve"),
    "--gram.kinds": ("ntk", "nngp", "ntk,nngp"),
    "--gram.backend": ("auto", "cuda", "cpu", "stax", "reference"),
    "--gram.dtype": ("float32", "float64"),
    "--factor.scheduler": ("auto", "threads", "synchronous", "ray"),
}
_SUFFIXES = (".yaml", ".yml")
_IMAGES = (".csv", ".npz")
_FEATURES = (".npy", ".npz")


def complete_target(context: Any) -> list[str]:
    """Return run files, runs, and folders to go on into."""
    return list(_targets(context.incomplete, _SUFFIXES, runs=True))


def complete_source(context: Any) -> list[str]:
    """Return folders, tables and archives of images; see ``complete_target``."""
    return list(_targets(context.incomplete, _IMAGES, runs=False))


def complete_setting(context: Any) -> list[str]:
    """Return what a setting of a run takes; see ``complete_target``."""
    name = context.argument.name
    if name == "--architecture":
        return complete_architecture(context)
    if name == "--data.source":
        from ntkdist.data.readers import SOURCES

        return [source.partition(":")[0] + ":" * (":" in source) for source in SOURCES]
    if name in ("--data.features", "--data.features-test", "--data.features_test"):
        return list(_targets(context.incomplete, _FEATURES, runs=False))
    if name == "--run":
        return list(_targets(context.incomplete, (), runs=True))
    if name in _CHOICES:
        return list(_CHOICES[name])
    return _literals(context.argument.hint)


def complete_architecture(_: Any) -> list[str]:
    """Return the presets, of those with a depth the usual ones."""
    return preset_names()


def _literals(hint: Any) -> list[str]:
    if typing.get_origin(hint) is typing.Literal:
        return [str(value) for value in typing.get_args(hint)]
    return [word for option in typing.get_args(hint) for word in _literals(option)]


def _targets(typed: str, suffixes: tuple[str, ...], *, runs: bool) -> Iterator[str]:
    """Yield paths below the folder that is typed so far; runs under runs/ where nothing is."""
    folder, _, start = typed.rpartition("/")
    place = Path(folder + "/" if folder or typed.startswith("/") else ".")
    head = f"{folder}/" if "/" in typed else ""
    if runs and not typed:
        yield from (f"runs/{path.name}" for path in _entries(Path("runs")) if _is_run(path))
    for path in _entries(place):
        if not path.name.startswith(start):
            continue
        if path.is_dir():
            yield head + path.name + ("" if _is_run(path) else "/")
        elif path.suffix.lower() in suffixes:
            yield head + path.name


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _is_run(folder: Path) -> bool:
    return (folder / "zarr.json").is_file()
