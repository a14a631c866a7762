"""Versions that are installed against those that the package's metadata ask for."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ntkdist.cli.doctor.finding import Finding

PACKAGES = ("numpy", "numba", "numba-cuda", "zarr", "ray", "dask")
EXTRAS = ("stax", "cuda")

#: What does not work without a package, or with a wrong version of it.
_FEATURES = {
    "dask": "the factor stage",
    "distributed": "factor.scheduler tcp://HOST:PORT",
    "jax": "backend stax, ntkdist widths and lookahead --empirical",
    "matplotlib": "the report and all pictures",
    "neural-tangents": "backend stax",
    "numba": "backends cpu and cuda, and the label stage",
    "numba-cuda": "backend cuda",
    "obstore": "runs at s3://, gs:// and az://",
    "optax": "backend stax",
    "pillow": "sources images and csv",
    "ray": "gram.executor ray (inline does without)",
    "scikit-learn": "the source digits and kernel PCA",
    "zarr": "every run",
}
#: Why a limit is there, where that is worth knowing.
_REASONS = {
    "jax": "neural-tangents cannot be imported with jax 0.6 and later",
    "numpy": "numba-cuda asks for names that numpy 2.5 has dropped",
}


def installed(package: str) -> str | None:
    """Return the version of a package, or None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_packages(names: tuple[str, ...] = PACKAGES) -> Iterator[Finding]:
    """Yield Python, the packages that matter most, and every version that does not fit."""
    yield _python()
    shown = (f"{name} {installed(name) or 'not installed'}" for name in names)
    yield Finding("packages", ", ".join(shown))
    wrong, absent = [], []
    for requirement, extra in _requirements():
        found = installed(requirement.name)
        if found is None and extra:
            absent.append(requirement.name)
        elif found is None or not requirement.specifier.contains(found, prereleases=True):
            wrong.append(_misfit(requirement, found, extra))
    yield from wrong
    if not wrong:
        yield Finding("versions", "all that ntkdist needs are installed, in versions that fit")
    for extra in EXTRAS:
        missing = [one.name for one, of in _requirements() if of == extra and one.name in absent]
        if missing:
            features = dict.fromkeys(_FEATURES.get(name, "every command") for name in missing)
            text = f"{', '.join(missing)} not installed: no {'; no '.join(features)}"
            yield Finding("extra", text, remedy=f"if wanted: {_pip(f'ntkdist[{extra}]')}")


def _python() -> Finding:
    version = platform.python_version()
    text = f"{version} on {platform.platform()}"
    try:
        wanted = metadata.metadata("ntkdist")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        wanted = ""
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding("python", text)
    return Finding(
        "python", f"{text}: ntkdist needs {wanted}", "problem", "make an environment with that"
    )


def _requirements() -> list[tuple[Requirement, str]]:
    """Return what the package asks for, with the extra that asks; empty for always."""
    try:
        lines = metadata.requires("ntkdist") or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        one = Requirement(line)
        for extra in ("", *EXTRAS):
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                found.append((one, extra))
                break
    return found


def _misfit(requirement: Requirement, found: str | None, extra: str) -> Finding:
    wanted = f"{requirement.name}{requirement.specifier}"
    feature = _FEATURES.get(requirement.name, "every command")
    if requirement.name == "numpy" and extra:
        feature = "backend cuda"
    reason = _REASONS.get(requirement.name)
    text = f"{requirement.name} {found or 'is not installed'}, {wanted} is needed for {feature}"
    return Finding(
        "versions",
        text + (f" ({reason})" if reason and found else ""),
        "warning" if extra else "problem",
        _pip(wanted),
    )


def _pip(what: str) -> str:
    return f"pip install '{what}'"
