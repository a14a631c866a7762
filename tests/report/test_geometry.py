from __future__ import annotations

import numpy as np
import pytest

from ntkdist.report.findings import (
    Spectrum,
    colored_classes,
    entangled_pairs,
    read_geometry,
)

from .conftest import MakeRun, N, add_geometry


def test_equal_eigenvalues_have_full_rank_and_condition_one() -> None:
    spectrum = Spectrum.of(np.ones(7), ridge=1.0)
    assert spectrum.effective_rank == pytest.approx(7)
    assert (spectrum.condition, spectrum.condition_alone) == (1, 1)
    assert spectrum.fitted == pytest.approx(3.5)


def test_an_eigenvalue_below_rounding_has_no_condition_number_but_with_the_ridge() -> None:
    spectrum = Spectrum.of(np.array([10.0, 1e-9]), ridge=0.1)
    assert spectrum.condition_alone is None
    assert spectrum.condition == pytest.approx(10.1 / 0.1)


def test_without_a_ridge_all_directions_are_free() -> None:
    spectrum = Spectrum.of(np.array([2.0, 0.0]), ridge=0.0)
    assert spectrum.fitted == 2
    assert spectrum.condition is None


def test_the_most_negative_pair_by_class_sizes_comes_first() -> None:
    Z = np.array([[9.0, -4.0, 1.0], [-4.0, 9.0, -3.0], [1.0, -3.0, 9.0]])
    assert entangled_pairs(Z, np.array([10, 10, 10])) == [(0, 1), (1, 2)]
    assert entangled_pairs(Z, np.array([10, 10, 2])) == [(1, 2), (0, 1)]
    assert entangled_pairs(Z, np.array([10, 10, 10]), most=1) == [(0, 1)]


def test_an_empty_class_entangles_with_none() -> None:
    Z = np.array([[9.0, -4.0], [-4.0, 9.0]])
    assert entangled_pairs(Z, np.array([10, 0])) == []


def test_of_many_classes_those_with_trouble_have_a_colour() -> None:
    given = np.repeat(np.arange(30), 4)
    suspicious = given >= 25
    colored = colored_classes(given, suspicious, 30)
    assert len(colored) == 10
    assert set(range(25, 30)) < set(colored)
    assert colored == sorted(colored)
    assert colored_classes(given[given < 3], suspicious[given < 3], 3) == [0, 1, 2]


def test_what_an_old_run_lacks_is_none(make_run: MakeRun) -> None:
    run = make_run()
    empty = read_geometry(run)
    assert empty.eigenvalues is None
    assert empty.points is None
    assert not empty.complete
    add_geometry(run)
    found = read_geometry(run)
    assert found.complete
    assert found.points is not None
    assert found.points.shape == (N, 4)
    assert found.explained == (0.3, 0.2, 0.1, 0.05)
