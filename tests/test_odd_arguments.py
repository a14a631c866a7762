"""Every public function refuses odd arguments with an error of this package, or answers."""

from __future__ import annotations

import dataclasses
import inspect
import resource
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ntkdist
from ntkdist import data, labels, learning, linalg
from tests.odd import ODD, faults

PACKAGES = ("ntkdist", "ntkdist.labels", "ntkdist.learning", "ntkdist.linalg", "ntkdist.data")
#: Public names that are no functions, or that are made by this package and not by its users.
MADE_HERE = {
    "CholeskyFactor",
    "Evaluation",
    "FactorInverse",
    "InverseStore",
    "KernelRegression",
    "NoiseEstimate",
    "NotConvergedError",
    "NotPositiveDefiniteError",
    "POSTERIOR_RIDGE",
    "Preprocessor",
    "RIDGE_LADDER",
    "RefurbishResult",
    "Reliability",
    "RidgeSweep",
    "Run",
    "__version__",
    "first_passing",  # of a function
}
#: Arguments that are functions, or objects of another package.
NOT_FED = {"client", "estimate", "on_epoch", "on_event", "on_round", "on_step", "optimizer"} | {
    "hold", "passes", "prepared", "progress", "subscribers",
}  # fmt: skip
MOST_BYTES = 2 * 2**30

N = 12
rng = np.random.default_rng(0)
LABELS = np.arange(N) % 2
IMAGES = rng.integers(0, 200, (N, 3, 3, 1)).astype(np.uint8)
IMAGES[LABELS == 1] //= 2
FLAT = IMAGES.reshape(N, -1).astype(float) / 255
GRAM = FLAT @ FLAT.T + np.eye(N)
INVERSE = np.linalg.inv(GRAM)
ONE_HOT = np.eye(2)[LABELS]
G = INVERSE @ ONE_HOT
Z = ONE_HOT.T @ G
DIAGONAL = np.diagonal(INVERSE).copy()
PREDICTIONS = ONE_HOT - 0.4
COUNTS = np.array([6, 6])


def cases(place: Path) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Return each function with arguments that are right; ``place`` has a run and a factor."""
    run, factor = str(place / "run"), str(place / "factor")
    network = learning.FiniteNetwork(ntkdist.Architecture.parse("fc-1"), 4, 2)
    params = network.init(0, (3, 3, 1))
    opened = linalg.CholeskyFactor.open(factor)
    preprocessor = data.Preprocessor.fit(IMAGES, "standardize")
    regression = learning.KernelRegression.fit(GRAM, LABELS, 2, ridge=0.1)
    result = labels.refurbish(INVERSE, LABELS, 2, method="exact", steps=1)
    inverse = opened.inverse()
    network_of = {"architecture": "fc-1"}
    labelled = {"labels": LABELS, "num_classes": 2}
    several: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "Architecture": (ntkdist.Architecture, {"layers": (ntkdist.Dense(),)}),
        "Architecture.parse": (ntkdist.Architecture.parse, {"spec": "fc-1"}),
        "Architecture.check_image": (
            ntkdist.Architecture.parse("cnn-1").check_image, {"height": 4, "width": 4},
        ),
        "AvgPool": (ntkdist.AvgPool, {}),
        "Conv": (ntkdist.Conv, {}),
        "Dense": (ntkdist.Dense, {}),
        "Erf": (ntkdist.Erf, {}),
        "Flatten": (ntkdist.Flatten, {}),
        "GlobalAvgPool": (ntkdist.GlobalAvgPool, {}),
        "Relu": (ntkdist.Relu, {}),
        "LeakyRelu": (ntkdist.LeakyRelu, {"alpha": 0.1}),
        "ABRelu": (ntkdist.ABRelu, {"a": 0.1, "b": 1.0}),
        "Gelu": (ntkdist.Gelu, {}),
        "Sin": (ntkdist.Sin, {"a": 1.0, "b": 1.0, "c": 0.0}),
        "Cos": (ntkdist.Cos, {"a": 1.0, "b": 1.0, "c": 0.0}),
        "Exp": (ntkdist.Exp, {"a": 1.0, "b": 1.0}),
        "Gaussian": (ntkdist.Gaussian, {"a": 1.0, "b": -1.0}),
        "ExpNormalized": (ntkdist.ExpNormalized, {"gamma": 1.0, "shift": -1.0}),
        "Identity": (ntkdist.Identity, {}),
        "LayerNorm": (ntkdist.LayerNorm, {"eps": 1e-12}),
        "Residual": (ntkdist.Residual, {"branch": (ntkdist.Conv(),)}),
        "RunConfig": (ntkdist.RunConfig, {}),
        "RunConfig.from_dict": (ntkdist.RunConfig.from_dict, {"values": {}}),
        "kernel_matrix": (
            ntkdist.kernel_matrix, {"arch": "fc-1", "x1": IMAGES, "x2": IMAGES[:2], "threads": 1},
        ),
        "compute": (ntkdist.compute, {"config": run, "stages": (), "progress": False}),
        "labels_table": (ntkdist.labels_table, {"run": run}),
        "open_gram": (ntkdist.open_gram, {"run": run}),
        "Run.open": (ntkdist.Run.open, {"url": run}),
        "Run.create": (ntkdist.Run.create, {"config": ntkdist.Run.open(run).config}),
        "find_label_issues": (
            labels.find_label_issues,
            {"images": FLAT, "labels": LABELS, "threads": 1, "ridge": 0.1, **network_of},
        ),
        "refurbish": (labels.refurbish, {"inverse": INVERSE, **labelled, "steps": 1}),
        "refurbish_gram": (labels.refurbish_gram, {"gram": GRAM, **labelled, "ridge": 0.1}),
        "MemoryFactor": (labels.MemoryFactor, {"gram": GRAM, "ridge": 0.1}),
        "MemoryFactor.columns": (labels.MemoryFactor(GRAM, 0.1).columns, {"indices": [1]}),
        "MemoryFactor.solve": (labels.MemoryFactor(GRAM, 0.1).solve, {"b": ONE_HOT}),
        "block_error": (labels.block_error, {"Z": Z, "counts": COUNTS}),
        "block_error_gradient": (labels.block_error_gradient, {"G": G, "Z": Z, "counts": COUNTS}),
        "block_error_terms": (labels.block_error_terms, {"Z": Z, "counts": COUNTS}),
        "centered_leave_one_out": (
            labels.centered_leave_one_out, {"G": G, "diagonal": DIAGONAL, "Y": ONE_HOT},
        ),
        "leave_one_out": (labels.leave_one_out, {"G": G, "diagonal": DIAGONAL, "Y": ONE_HOT}),
        "choose_ridge": (
            labels.choose_ridge, {"gram": GRAM, **labelled, "ridges": (0.1,), "noise": "symmetric"},
        ),
        "class_bias": (labels.class_bias, {"Z": Z, "counts": COUNTS}),
        "class_matrix": (labels.class_matrix, {"inverse": INVERSE, **labelled}),
        "class_separation": (labels.class_separation, {"gram": GRAM, **labelled, "components": 2}),
        "drop_checkpoint": (labels.drop_checkpoint, {"url": str(place / "none")}),
        "invert": (labels.invert, {"gram": GRAM, "ridge": 0.1}),
        "label_report": (labels.label_report, {"labels": LABELS, "result": result}),
        "one_hot": (labels.one_hot, labelled),
        "rank_biased_overlap": (labels.rank_biased_overlap, {"a": [1, 2], "b": [2, 1]}),
        "FiniteNetwork": (
            learning.FiniteNetwork,
            {"arch": ntkdist.Architecture.parse("fc-1"), "width": 4, "num_classes": 2},
        ),
        "FiniteNetwork.init": (network.init, {"seed": 0, "image_shape": (3, 3, 1)}),
        "FiniteNetwork.apply": (network.apply, {"params": params, "x": IMAGES}),
        "KernelRegression.fit": (
            learning.KernelRegression.fit, {"gram": GRAM, **labelled, "ridge": 0.1},
        ),
        "KernelRegression.from_factor": (
            learning.KernelRegression.from_factor, {"factor": opened, **labelled},
        ),
        "KernelRegression.predict": (regression.predict, {"cross": GRAM[:3]}),
        "accuracy": (learning.accuracy, {"predictions": PREDICTIONS, "labels": LABELS}),
        "empirical_kernel": (
            learning.empirical_kernel, {"network": network, "params": params, "x1": IMAGES[:2]},
        ),
        "evaluate": (
            learning.evaluate, {"predictions": PREDICTIONS, "labels": LABELS, "scale": 1.0},
        ),
        "standard_kernel_matrix": (
            learning.standard_kernel_matrix, {"arch": "fc-1", "x1": IMAGES, "width": 4},
        ),
        "sweep_ridge": (learning.sweep_ridge, {"gram": GRAM, **labelled, "ridges": (0.1,)}),
        "targets_of": (learning.targets_of, labelled),
        "train": (
            learning.train,
            {"images": IMAGES, **labelled, **network_of, "width": 4, "epochs": 1},
        ),
        "CholeskyFactor.open": (linalg.CholeskyFactor.open, {"url": factor}),
        "CholeskyFactor.solve": (opened.solve, {"b": ONE_HOT}),
        "CholeskyFactor.inverse_columns": (opened.inverse_columns, {"indices": [1]}),
        "CholeskyFactor.backward_error": (opened.backward_error, {"matrix": GRAM}),
        "InverseStore.open": (linalg.InverseStore.open, {"url": inverse.url}),
        "InverseStore.columns": (inverse.columns, {"indices": [1]}),
        "InverseStore.rows": (inverse.rows, {"start": 0, "stop": 2}),
        "bands": (lambda **given: next(linalg.bands(**given), None), {"rows": 5, "columns": 3}),
        "cg_solve": (linalg.cg_solve, {"a": GRAM, "b": ONE_HOT, "ridge": 0.1}),
        "check_ridge": (linalg.check_ridge, {"ridge": 0.1}),
        "factorize": (
            lambda a, url, **given: linalg.factorize(a, url, **given).n,
            {"a": GRAM, "url": str(place / "new"), "ridge": 0.1, "overwrite": True},
        ),
        "holds": (linalg.holds, {"url": factor, "part": "diagonal", "n": N}),
        "check_device": (linalg.check_device, {"device": "cpu", "scheduler": "threads"}),
        "parse_memory": (linalg.parse_memory, {"memory_limit": "1GiB"}),
        "plan_panels": (linalg.plan_panels, {"n": 100, "memory_limit": 2**30}),
        "submatrix": (linalg.submatrix, {"matrix": GRAM, "rows": [1], "columns": [1, 2]}),
        "top_eigenpairs": (linalg.top_eigenpairs, {"a": GRAM, "k": 2}),
        "ImageSet": (data.ImageSet, {"images": IMAGES, **labelled}),
        "ImageSet.take": (data.ImageSet(IMAGES, LABELS, 2).take, {"indices": [0, 1]}),
        "Preprocessor.fit": (data.Preprocessor.fit, {"images": IMAGES, "recipe": "center"}),
        "Preprocessor.apply": (preprocessor.apply, {"images": IMAGES}),
        "asymmetric": (data.asymmetric, {**labelled, "rate": 0.5, "mapping": {0: 1}}),
        "symmetric": (data.symmetric, {**labelled, "rate": 0.5}),
        "load": (data.load, {"source": f"npz:{place}/set.npz"}),
        "select": (data.select, {"labels": LABELS, "n": 4}),
    }  # fmt: skip
    return several


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    np.savez(folder / "set.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS)
    ntkdist.compute(
        {
            "run": str(folder / "run"),
            "architecture": "fc-1",
            "data": {"source": f"npz:{folder}/set.npz"},
            "gram": {"executor": "inline", "threads": 1},
        },
        stages=("gram", "factor", "labels"),
        progress=False,
    )
    linalg.factorize(GRAM, folder / "factor")
    return folder


@pytest.fixture
def little_memory() -> Iterator[None]:
    """No array of gigabytes can be made."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def not_valid(result: Any) -> str:
    """Say why what a function returns is no answer: nothing but NaN, or an empty text for none."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        members = [getattr(result, f.name, None) for f in dataclasses.fields(result)]
    else:
        members = [result, *(result if isinstance(result, tuple | list) else ())]
    for member in members:
        if isinstance(member, np.ndarray | np.floating | float):
            values = np.asarray(member)
            if values.dtype.kind == "f" and values.size and not np.isfinite(values).any():
                return f"{values.ravel()[:3]} alone"
            if values.dtype.kind == "O":
                return f"objects {values.ravel()[:3]}"
    return ""


def arguments(function: Callable[..., Any], given: dict[str, Any]) -> list[str]:
    known = inspect.signature(function).parameters.values()
    names = [one.name for one in known if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    return [name for name in dict.fromkeys([*names, *given]) if name not in NOT_FED]


NAMES = [
    name
    for name in inspect.getsource(cases).split('"')[1::2]
    if name.split(".")[0] in {one for package in PACKAGES for one in import_module(package).__all__}
]
FUNCTIONS = sorted(set(NAMES))


def test_every_public_function_is_fed() -> None:
    public = {name for package in PACKAGES for name in import_module(package).__all__}
    assert public <= set(FUNCTIONS) | MADE_HERE


def _called(function: Any, right: dict[str, Any], argument: str, value: Any) -> Any:
    return function(**{**right, argument: value})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_odd_arguments_are_refused_or_answered(
    place: Path, monkeypatch: pytest.MonkeyPatch, little_memory: None, name: str
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place / "home"))  # which ~ stands for
    function, right = cases(place)[name]
    function(**right)
    found = []
    for argument in arguments(function, right):
        values = ODD
        if argument == "scheduler":  # which may be a function
            values = {name: value for name, value in ODD.items() if not callable(value)}
        answers = faults(partial(_called, function, right, argument), values, not_valid)
        found += [f"{argument}={answer}" for answer in answers]
    assert not found, "\n".join(found)
