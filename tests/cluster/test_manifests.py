"""Files of cluster/: their schemas, and what all must have: a token, loopback, groups that scale from nothing."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from distrl.runtime.backends.cluster import RUN_KEY
from tests.cluster.kuberay_schema import RAY_CLUSTER, RAY_JOB
from tests.helpers import REPOSITORY

CLUSTER = REPOSITORY / "cluster"
LAUNCHER = sorted(CLUSTER.glob("*.yaml"))
KUBERAY = sorted((CLUSTER / "kuberay").glob("*.yaml"))
SCHEMAS = {"RayCluster": RAY_CLUSTER, "RayJob": RAY_JOB}


def read(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def start_words(text: str) -> list[list[str]]:
    """The words of every `ray start` in a shell text."""
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [shlex.split(line[line.index("ray start") :]) for line in code.splitlines() if "ray start" in line]


def ray_start_options() -> set[str]:
    from ray.scripts.scripts import start

    return {name for option in start.params for name in option.opts}


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
def test_launcher_files_fit_rays_schema(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    [config] = read(path)
    whole = prepare_config(config)  # fills in the provider's defaults
    validate_config(whole)
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert any(target.endswith("auth_token") for target in config["file_mounts"])
    for words in [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]:
        for start in start_words(words):
            assert {word.split("=")[0] for word in start if word.startswith("--")} <= ray_start_options()
    [head] = [words for words in config["head_start_ray_commands"] if "--head" in words]
    assert "--dashboard-host=127.0.0.1" in head
    if config["provider"]["type"] != "local":
        groups = config["available_node_types"]
        assert (groups["samplers"]["min_workers"], "GPU" in groups["samplers"]["resources"]) == (0, False)
        assert (groups["learner"]["min_workers"], groups["learner"]["resources"]["GPU"]) == (0, 1)
        assert groups["samplers"]["max_workers"] + groups["learner"]["max_workers"] == config["max_workers"]


def test_rays_schema_would_find_a_mistake() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    [config] = read(CLUSTER / "aws.yaml")
    config["idle_minutes"] = 5
    with pytest.raises(jsonschema.ValidationError, match="idle_minutes"):
        validate_config(prepare_config(config))


def ray_objects() -> list[tuple[str, dict[str, Any]]]:
    return [(path.name, found) for path in KUBERAY for found in read(path) if found["apiVersion"].startswith("ray.io")]


@pytest.mark.parametrize(("name", "found"), ray_objects(), ids=lambda value: value if isinstance(value, str) else "")
def test_kuberay_files_fit_the_schema(name: str, found: dict[str, Any]) -> None:
    jsonschema.validate(found, SCHEMAS[found["kind"]])
    spec = found["spec"].get("rayClusterSpec", found["spec"])
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"]
    assert "redisAddress" in spec["gcsFaultToleranceOptions"]
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert {name: group["minReplicas"] for name, group in groups.items()} == {"samplers": 0, "learner": 0}
    [learner] = groups["learner"]["template"]["spec"]["containers"]
    assert learner["resources"]["limits"]["nvidia.com/gpu"] == "1"
    loopback = spec["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    assert loopback == (found["kind"] == "RayCluster")  # a RayJob's operator submits from another pod
    for pod in [spec["headGroupSpec"]["template"], *(group["template"] for group in groups.values())]:
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    if found["kind"] == "RayJob":
        assert RUN_KEY in found["spec"]["metadata"]
        assert "distrl train /config/run.yaml --address auto" in found["spec"]["entrypoint"]


def test_the_schema_would_find_a_mistake() -> None:
    [found] = [found for _, found in ray_objects() if found["kind"] == "RayCluster"]
    found["spec"]["authOptions"] = {"mode": "tokens"}
    with pytest.raises(jsonschema.ValidationError, match="tokens"):
        jsonschema.validate(found, RAY_CLUSTER)


@pytest.mark.parametrize("path", [*LAUNCHER, *KUBERAY, CLUSTER / "slurm.sh"], ids=lambda path: path.name)
def test_files_say_that_they_were_not_run_and_hold_no_secret(path: Path) -> None:
    text = path.read_text()
    assert "NOT RUN HERE" in text
    assert not re.search(r"[0-9a-f]{32}", text)
    assert "0.0.0.0" not in text or path.name == "rayjob.yaml"


def test_the_ray_version_is_the_one_that_is_tested() -> None:
    [pinned] = re.findall(r"^ray==(.*)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    for _, found in ray_objects():
        assert found["spec"].get("rayClusterSpec", found["spec"])["rayVersion"] == pinned


def test_slurm_script_is_shell_and_its_options_are_rays() -> None:
    path = CLUSTER / "slurm.sh"
    subprocess.run(["bash", "-n", path], check=True)
    starts = start_words(path.read_text())
    assert len(starts) == 2
    for words in starts:
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= ray_start_options()
    assert "RAY_AUTH_MODE=token" in path.read_text()
    assert "--dashboard-host=127.0.0.1" in path.read_text()


def test_the_local_cluster_is_python_with_rays_options() -> None:
    text = (CLUSTER / "local_cluster.py").read_text()
    ast.parse(text)
    words = {word.split("=")[0] for word in re.findall(r'"(--[a-z-]+=?[^"]*)"', text)}
    own = {"--nodes", "--cpus", "--dashboard-port", "--client-port", "--object-store-mb", "--generate"}
    assert words - own <= ray_start_options()


def test_the_image_copies_what_is_there_and_installs_known_extras() -> None:
    text = (CLUSTER / "Containerfile").read_text()
    for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (REPOSITORY / name).exists(), name
    extras = set(re.findall(r"'\.\[(.*)\]'", text)[0].split(","))
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert extras <= set(project["optional-dependencies"])
    assert "RAY_AUTH_MODE=token" in text
