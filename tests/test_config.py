import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import yaml
from cyclopts import CycloptsError
from hypothesis import given, settings, strategies as st

from ntkdist.cli import main as cli
from ntkdist.cli.console import Terminal
from ntkdist.config import FactorConfig, GramConfig, RunConfig, differences, load_yaml
from ntkdist.errors import InputError
from ntkdist.kernels import registry
from tests.odd import ODD, TEXTS, faults


def keys(cls: Any = RunConfig, section: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield every section and every key of the configuration."""
    for name, hint in get_type_hints(cls).items():
        if name in {field.name for field in dataclasses.fields(cls)}:
            yield (*section, name)
            if dataclasses.is_dataclass(hint):
                yield from keys(hint, (*section, name))


KEYS = list(keys())


def nested(key: tuple[str, ...], value: Any) -> Any:
    for name in reversed(key):
        value = {name: value}
    return value


def not_stored(config: RunConfig) -> str:
    """Say why a configuration cannot be stored in a run and read back."""
    stored = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    json.dumps(stored, ensure_ascii=False).encode()
    return "" if RunConfig.from_dict(stored) == config else f"another than is stored: {stored}"


def test_plain_values_give_the_same_configuration_again():
    config = RunConfig.from_dict(
        {
            "architecture": ["Conv(5)", "Relu", "Flatten", "Dense"],
            "gram": {"kinds": "ntk, nngp", "tile": 64},
            "factor": {"ridge": "1e-6"},
        }
    )
    assert config.gram.kinds == ("ntk", "nngp")
    assert config.factor.ridge == 1e-6
    assert config.architecture.startswith("[Conv(size=5")
    assert RunConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gramm": {}}, "unknown key 'gramm'.*did you mean 'gram'"),
        ({"gram": {"exekutor": "ray"}}, "unknown key 'gram.exekutor'.*did you mean 'executor'"),
        (
            {"gram": {"executor": "rai"}},
            "gram.executor='rai' must be 'ray', 'inline'.*did you mean",
        ),
        ({"gram": {"tile": 0}}, "gram.tile=0 must be at least 1"),
        ({"gram": {"tile": True}}, "gram.tile=True must be a whole number"),
        ({"gram": {"kinds": ["nngp"]}}, "must hold ntk"),
        ({"gram": 3}, "gram is 3; key: value"),
        ({"factor": {"ridge": -1}}, "factor.ridge=-1.0 must be at least 0"),
        ({"factor": {"ridge": 1e300}}, "factor.ridge=1e\\+300 must be .* at most 1e\\+12.*or auto"),
        ({"predict": {"ridge": "inf"}}, "predict.ridge=inf must be"),
        ({"gram": {"time_limit": "nan"}}, "gram.time_limit=nan must be"),
        ({"data": {"seed": -1}}, "data.seed=-1 must be at least 0"),
        ({"factor": {"ridge": "much"}}, "factor.ridge='much' must be a number"),
        ({"factor": {"scheduler": "rey"}}, "factor.scheduler='rey' is not one of .*mean 'ray'"),
        ({"noise": {"rate": 1.5}}, "noise.rate=1.5 must be at least 0 and at most 1"),
        ({"labels": {"steps": -3}}, "labels.steps=-3"),
        ({"labels": {"method": "paper", "steps": "none"}}, "no end of its own"),
        ({"data": {"n": "many"}}, "data.n='many' must be a whole number or nothing"),
        ({"run": ""}, "run=''"),
        ({"architecture": "fc2"}, "unknown preset 'fc2'"),
    ],
    ids=str,
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(InputError, match=message) as caught:
        RunConfig.from_dict(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: [", "is not valid YAML"),
        ("- a\n- b\n", "holds a list"),
        ("data:\n  sorce: digits\n", "unknown key 'data.sorce'.*did you mean 'source'"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_yaml(path)
    assert str(path) in str(caught.value)


def test_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "mnist.yaml").write_text("")
    with pytest.raises(InputError, match=r"did you mean 'mnist\.yaml'"):
        load_yaml(tmp_path / "minst.yaml")
    assert load_yaml(tmp_path / "mnist.yaml") == {}


@pytest.mark.parametrize("name", ["demo", "mnist", "cifar10"])
def test_shipped_run_files_are_valid(name, request):
    values = load_yaml(request.config.rootpath / "jobs" / f"{name}.yaml")
    assert RunConfig.from_dict(values).run == f"runs/{name}"


def test_demo_file_is_the_demo_command(request):
    from ntkdist.cli.commands.start import DEMO

    assert RunConfig.from_dict(load_yaml(request.config.rootpath / "jobs" / "demo.yaml")) == DEMO


def test_differences_go_into_nested_values():
    old = {"a": 1, "b": {"c": 2, "d": 3}}
    new = {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}
    assert differences(old, new) == [("b.c", 2, 4), ("e", None, 5)]


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_odd_values_are_refused_or_kept(key):
    found = faults(lambda value: RunConfig.from_dict(nested(key, value)), wrong=not_stored)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_odd_values_of_a_constructor_are_refused_or_kept(key):
    def make(value: Any) -> RunConfig:
        if len(key) == 1:
            return RunConfig(**{key[0]: value})
        section = getattr(RunConfig(), key[0])
        return RunConfig(**{key[0]: dataclasses.replace(section, **{key[1]: value})})

    found = faults(make, wrong=not_stored)
    assert not found, "\n".join(found)


@settings(max_examples=150)
@given(
    st.sampled_from(KEYS),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
)
def test_drawn_values_are_refused_or_kept(key, value):
    found = faults(
        lambda value: RunConfig.from_dict(nested(key, value)), {"drawn": value}, wrong=not_stored
    )
    assert not found, found


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_odd_values_in_a_run_file_are_refused_or_kept(tmp_path, key):
    path = tmp_path / "run.yaml"

    def read(value: Any) -> RunConfig:
        path.write_text(yaml.safe_dump(nested(key, value)))
        return RunConfig.from_dict(load_yaml(path))

    known = {name: value for name, value in ODD.items() if type(value).__module__ == "builtins"}
    for name in ("object", "class", "function", "range", "ellipsis", "complex", "10**5000"):
        del known[name]  # of no form in YAML
    for name in ("half a character", "brackets", "long", "long number"):
        del known[name]  # slow, and the same as in the dictionaries
    found = faults(read, known, wrong=not_stored)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text", ["a: !!int x", "? [a]\n: 1", "a: &a [*a]", "1: 2", "\0", "\x85: 1", "- ", "x", "a: 1e"]
)
def test_odd_run_files_are_refused(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        RunConfig.from_dict(load_yaml(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [key for key in KEYS if len(key) > 1], ids=".".join)
def test_odd_texts_on_the_command_line_are_refused_or_kept(tmp_path, monkeypatch, key):
    (tmp_path / "run.yaml").write_text("")
    monkeypatch.chdir(tmp_path)

    def parse(text: str) -> bool:
        try:
            call = cli._parse(["plan", "run.yaml", f"--{'.'.join(key)}={text}"], Terminal())
        except CycloptsError as error:
            return len(str(error)) > 6000
        return call.run != "runs/digits"

    texts = ("half a character", "-1 in text")
    found = faults(parse, {name: TEXTS[name] for name in texts})
    assert not found, "\n".join(found)


def test_numbers_of_numpy_and_paths_are_converted():
    config = RunConfig(
        run=Path("runs/x"),
        gram=GramConfig(tile=np.int64(5), time_limit=np.float32(2)),
        factor=FactorConfig(ridge=np.float64(0.5)),
    )
    assert config == RunConfig(
        run="runs/x", gram=GramConfig(tile=5, time_limit=2.0), factor=FactorConfig(ridge=0.5)
    )
    assert type(config.gram.tile) is int
    assert type(config.factor.ridge) is float


def test_an_empty_text_stands_for_a_key_that_is_left_out():
    config = RunConfig.from_dict({"data": {"features": ""}, "gram": {"address": " "}})
    assert config == RunConfig()


def test_backends_and_dtypes_are_those_of_the_kernels():
    hints = get_type_hints(GramConfig)
    assert set(hints["backend"].__args__) == {"auto", *registry.NAMES}
    assert hints["dtype"].__args__ == registry.DTYPES
