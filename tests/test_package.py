"""The package from outside: its names, its types, what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import pytest

import ntkdist


@pytest.mark.parametrize("name", ntkdist.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(ntkdist, name) is not None
    assert name in dir(ntkdist)


def test_an_unknown_name_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'comput'"):
        ntkdist.comput  # noqa: B018


def test_importing_it_loads_nothing_heavy() -> None:
    heavy = ("numpy", "zarr", "ray", "dask", "pandas", "jax", "numba")
    code = f"import sys, ntkdist; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_type_checkers_are_told_that_it_has_types() -> None:
    assert files("ntkdist").joinpath("py.typed").is_file()
