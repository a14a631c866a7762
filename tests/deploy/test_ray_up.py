"""The cluster files, against Ray's own schema and checks."""

from __future__ import annotations

import copy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.conftest import DEPLOY, ROOT

FILES = sorted((DEPLOY / "ray-up").glob("*.yaml"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load(request.param.read_text())


def check(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_ray_takes_it(config: dict[str, Any]) -> None:
    prepared = check(config)
    assert prepared["provider"]["type"] in ("aws", "gcp")
    # nothing is left to the defaults, which install another Ray
    assert not any("ray-wheels" in command for command in prepared["setup_commands"])


@pytest.mark.parametrize("key", ["max_workers", "idle_timeout_minutes", "head_start_ray_commands"])
def test_a_misspelt_key_is_found(config: dict[str, Any], key: str) -> None:
    config[f"{key}x"] = config.pop(key)
    with pytest.raises(jsonschema.ValidationError):
        check(config)


def test_a_misspelt_key_of_a_node_type_is_found(config: dict[str, Any]) -> None:
    config["available_node_types"]["gpu"]["min_worker"] = 0
    with pytest.raises(jsonschema.ValidationError):
        check(config)


def test_the_image_has_the_pinned_ray_and_pythons_tested_version(config: dict[str, Any]) -> None:
    assert config["docker"]["image"] == f"rayproject/ray:{version('ray')}-py311-gpu"


def test_workers_are_spot_and_the_head_is_not(config: dict[str, Any]) -> None:
    head, gpu = (config["available_node_types"][name] for name in ("head", "gpu"))
    assert config["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0}  # no tiles on the driver's node
    assert gpu["min_workers"] == 0 < gpu["max_workers"] == config["max_workers"]
    assert gpu["resources"]["GPU"] > 0
    assert "spot" in str(gpu["node_config"]).lower()
    assert "spot" not in str(head["node_config"]).lower()


def test_nodes_have_a_role_and_no_key(config: dict[str, Any]) -> None:
    for node in config["available_node_types"].values():
        assert {"IamInstanceProfile", "serviceAccounts"} & node["node_config"].keys()
    assert "ACCESS_KEY" not in str(config).upper()


def test_every_node_has_the_token_and_asks_for_it(config: dict[str, Any]) -> None:
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    exports = config["setup_commands"][0]
    assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token" in exports
    assert exports.endswith(">> ~/.bashrc")  # which Ray's commands and "ray exec" read


def test_nodes_install_the_pinned_versions(config: dict[str, Any]) -> None:
    commands = " ".join(config["setup_commands"]).split()
    mounted = [Path(word.removeprefix("~/ntkdist/")) for word in commands if "constraints" in word]
    assert len(mounted) == 3
    assert all((ROOT / path).is_file() for path in mounted)
    assert config["file_mounts"]["~/ntkdist"] == "."
