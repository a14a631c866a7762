import pytest

from ntkdist.config import RunConfig, differences, load_yaml
from ntkdist.errors import InputError


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
