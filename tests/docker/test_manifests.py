"""The files for KubeRay and for Ray's launcher, against the schemas of those who read them."""

import copy
import json
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

from sweeps.command_line import parse
from sweeps.config import SweepConfig
from tests.docker.kuberay import RAY_JOB

ROOT = Path(__file__).parents[2]
KUBERNETES = "1.34"


@pytest.fixture
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "docker" / "rayjob.yaml").read_text()))


@pytest.fixture
def job(documents: list[dict[str, Any]]) -> dict[str, Any]:
    return documents[1]


def groups(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Ray's nodes by their group."""
    cluster = job["spec"]["rayClusterSpec"]
    workers = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"], **workers}


def pods(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The specification of each kind of pod."""
    templates = {name: group["template"] for name, group in groups(job).items()}
    templates["submitter"] = job["spec"]["submitterPodTemplate"]
    return {name: template["spec"] for name, template in templates.items()}


def check_pod(spec: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_the_ray_job_has_fields_that_kuberay_and_kubernetes_know(documents: list[dict[str, Any]]) -> None:
    claim, job = documents
    jsonschema.validate(job, RAY_JOB)
    for spec in pods(job).values():
        check_pod(spec)
    kubernetes_validate.validate(claim, KUBERNETES, strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_misspelt_field_is_found(job: dict[str, Any]) -> None:
    wrong = copy.deepcopy(job)
    wrong["spec"]["rayClusterSpec"]["authOption"] = {}
    with pytest.raises(jsonschema.ValidationError, match="authOption"):
        jsonschema.validate(wrong, RAY_JOB)
    wrong = copy.deepcopy(job)
    wrong["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    with pytest.raises(jsonschema.ValidationError, match="0 is not of type 'string'"):
        jsonschema.validate(wrong, RAY_JOB)
    spec = copy.deepcopy(pods(job)["gpu"])
    spec["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="readOnlyRootFileSystem"):
        check_pod(spec)


def test_pods_meet_the_restricted_standard(job: dict[str, Any]) -> None:
    """Kubernetes' restricted Pod Security Standard, and a root file system that is read-only."""
    assert len(pods(job)) == 4
    for spec in pods(job).values():
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001  # the image's
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(spec)
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {"/tmp", "/home/easrec"} <= mounted  # what the program writes
            names = {mount["name"] for mount in container["volumeMounts"]}
            assert names <= {volume["name"] for volume in spec["volumes"]}
        assert not any("hostPath" in volume for volume in spec["volumes"])


def test_the_cluster_asks_for_a_token_that_lies_in_a_secret(job: dict[str, Any]) -> None:
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "easrec-ray"}
    assert "auth_token:" not in (ROOT / "docker" / "rayjob.yaml").read_text()


def test_the_cluster_ends_with_the_job(job: dict[str, Any]) -> None:
    spec = job["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] > 0


def test_ray_has_the_version_that_the_image_has(job: dict[str, Any]) -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned["ray"] == version("ray")


def test_nodes_see_the_results_and_have_shared_memory(job: dict[str, Any]) -> None:
    for name, group in groups(job).items():
        spec = group["template"]["spec"]
        mounts = {mount["mountPath"]: mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert volumes[mounts["/runs"]]["persistentVolumeClaim"] == {"claimName": "easrec-runs"}, name
        assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}, name
        assert int(group["rayStartParams"]["object-store-memory"]) < 2 * 2**30, name


def test_gpus_train_and_one_node_measures_latency(job: dict[str, Any]) -> None:
    gpu, latency = groups(job)["gpu"], groups(job)["latency"]
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    # As the operator's shell reads it, and then Ray.
    (resources,) = shlex.split(latency["rayStartParams"]["resources"])
    assert json.loads(resources) == {"latency": 1}
    size = latency["template"]["spec"]["containers"][0]["resources"]
    assert size["requests"] == size["limits"]
    # It has no GPU, so it is CPUs that the job measures on.
    assert "nvidia.com/gpu" not in size["limits"]
    assert "--device cuda --measure-on cpu" in job["spec"]["entrypoint"]


def test_the_entrypoint_is_a_sweep_that_goes_on_where_there_is_one(job: dict[str, Any]) -> None:
    shell, flag, script, name = shlex.split(job["spec"]["entrypoint"])
    assert (shell, flag, name) == ("sh", "-c", "sh")
    test, command = script.split(";")
    words = shlex.split(command)
    assert words[:3] == ["exec", "python", "/app/pipelines/lambda_sweep.py"]
    assert words[-1] == "$@"
    for more in ([], ["--resume"]):
        config = parse(SweepConfig, "lambda_sweep.py", words[3:-1] + more)
        config.check()
        assert config.ray_address == "auto"
        assert test == f"test -f {config.output}/sweep.json && set -- --resume"
        assert config.output is not None
        assert config.output.is_relative_to("/runs")


@pytest.fixture
def launcher() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "ray-cluster.yaml").read_text())
    return config


def test_the_launcher_knows_the_fields(launcher: dict[str, Any]) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(launcher, schema)
    with pytest.raises(jsonschema.ValidationError, match="worker_ip"):
        jsonschema.validate(launcher | {"worker_ip": []}, schema)


def test_the_launchers_containers_are_closed(launcher: dict[str, Any]) -> None:
    options = launcher["docker"]["run_options"]
    assert {"--cap-drop=ALL", "--security-opt=no-new-privileges", "--env=RAY_AUTH_MODE=token"} < set(options)
    assert not any(option.startswith("--env=RAY_AUTH_TOKEN=") for option in options)
    (token,) = (option for option in options if option.startswith("--env=RAY_AUTH_TOKEN_PATH="))
    path = token.split("=")[-1]
    assert f"--volume={path}:{path}:ro" in options
    assert any(option.startswith("--shm-size=") for option in options)
    assert launcher["docker"]["disable_shm_size_detection"] is True
    (head,) = (command for command in launcher["head_start_ray_commands"] if "start" in command)
    assert "--dashboard-host=127.0.0.1" in head
    assert launcher["max_workers"] == len(launcher["provider"]["worker_ips"])
