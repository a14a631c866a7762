"""The RayJob, against the schemas of Kubernetes and of KubeRay."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource

from ntkdist.config import RunConfig
from tests.deploy.conftest import DEPLOY

KUBERNETES = "v1.34.0-local-strict"


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    text = (DEPLOY / "kuberay" / "rayjob.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / KUBERNETES
    definitions = json.loads((folder / "_definitions.json").read_text())
    registry: Registry[Any] = Registry().with_resource(
        "https://kubernetes.io/api/_definitions.json", Resource.from_contents(definitions)
    )
    rayjob = json.loads((Path(__file__).parent / "schemas" / "rayjob.json").read_text())
    return jsonschema.Draft202012Validator(rayjob, registry=registry)


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [job["spec"]["submitterPodTemplate"], *(group["template"] for group in groups)]


def mappings(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        yield path, value
        for key, item in value.items():
            yield from mappings(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from mappings(item, f"{path}.{index}")


# mappings whose keys are names that no schema can know
FREE = ("rayStartParams", "annotations", "requests", "limits")


def test_the_job_is_one_that_kuberay_knows(
    documents: dict[str, Any], schema: jsonschema.Draft202012Validator
) -> None:
    errors = [
        f"{error.json_path}: {error.message}" for error in schema.iter_errors(documents["RayJob"])
    ]
    assert not errors


def test_every_misspelt_key_is_found(
    documents: dict[str, Any], schema: jsonschema.Draft202012Validator
) -> None:
    tried = 0
    for path, _ in list(mappings(documents["RayJob"])):
        if path.split(".")[-1] in FREE:
            continue
        for key in dict(_at(documents["RayJob"], path)):
            job = copy.deepcopy(documents["RayJob"])
            mapping = _at(job, path)
            mapping[f"{key}x"] = mapping.pop(key)
            assert not schema.is_valid(job), f"{path}.{key}x"
            tried += 1
    assert tried > 100


def _at(value: Any, path: str) -> Any:
    for part in path.split(".")[1:]:
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def test_the_run_file_is_one_that_ntkdist_reads(documents: dict[str, Any]) -> None:
    text = documents["ConfigMap"]["data"]["run.yaml"]
    config = RunConfig.from_dict(yaml.safe_load(text))
    # the driver's pod has no GPU, and the autoscaler brings as many nodes as actors ask for
    assert config.gram.backend == "cuda"
    group = documents["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    gpus = group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert config.gram.workers == gpus * group["maxReplicas"]


def test_volumes_name_what_the_file_defines(documents: dict[str, Any]) -> None:
    head = documents["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in head["volumes"]}
    assert volumes["run-file"]["configMap"]["name"] == documents["ConfigMap"]["metadata"]["name"]
    mounts = {mount["name"]: mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    assert set(mounts) == set(volumes)
    [file] = documents["ConfigMap"]["data"]
    assert documents["RayJob"]["spec"]["entrypoint"] == f"ntkdist run {mounts['run-file']}/{file}"


def test_ray_is_the_tested_one_and_asks_for_a_token(documents: dict[str, Any]) -> None:
    cluster = documents["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"] == {"mode": "token"}


def test_workers_come_and_go_and_a_lost_head_is_tried_again(documents: dict[str, Any]) -> None:
    spec = documents["RayJob"]["spec"]
    [group] = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"]
    assert group["minReplicas"] == 0 < group["maxReplicas"]
    assert any(
        "spot" in toleration["key"] for toleration in group["template"]["spec"]["tolerations"]
    )
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"]


def test_no_pod_is_root_and_every_one_has_resources(documents: dict[str, Any]) -> None:
    for pod in pods(documents["RayJob"]):
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert pod["spec"]["securityContext"]["runAsUser"] > 0
        [container] = pod["spec"]["containers"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_both_sides_of_the_store_get_credentials_from_a_secret(documents: dict[str, Any]) -> None:
    for pod in pods(documents["RayJob"])[1:]:
        [container] = pod["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "ntkdist-store", "optional": True}}]
        assert pod["spec"]["terminationGracePeriodSeconds"] > 30  # Ray's drain
