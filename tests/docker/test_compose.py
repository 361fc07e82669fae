"""The Compose file, as Docker Compose itself reads it: no engine is needed for that."""

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docker.hardening import SECRETS, violations

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
TOOLS = Path(sys.executable).parent


def compose_config(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        # The file of variables of a user who has one is not this test's.
        [TOOLS / "docker-compose", "--env-file", os.devnull, "-f", DOCKER / "compose.yaml", *words],
        capture_output=True,
        text=True,
        check=False,
        env=inherited | variables,
    )


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    done = compose_config("--profile", "*", "config", "--format", "json", **SECRETS)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower(), done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def image_user() -> str:
    """The user of the image's last stage."""
    users = re.findall(r"^(?:FROM .*|USER (.+))$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    return str(users[-1]) or "root"


def test_services_are_closed(compose: dict[str, Any], image_user: str) -> None:
    assert len(compose["services"]) == 6
    assert violations(compose, image_user=image_user) == []


def service(name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(compose: dict[str, Any]) -> None:
        compose["services"][name].update(changes)

    return change


def variable(name: str, variable: str, value: str | None) -> Callable[[dict[str, Any]], None]:
    def change(compose: dict[str, Any]) -> None:
        compose["services"][name]["environment"][variable] = value

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (service("mlflow", ports=[{"target": 5000, "published": "5000"}]), "mlflow: port 5000 is published"),
        (service("ray-head", ports=[{"target": 8265, "host_ip": "0.0.0.0"}]), "ray-head: port 8265"),
        (service("postgres", user="0:0"), "postgres: runs as 0:0"),
        (service("sweep", user="root"), "sweep: runs as root"),
        (service("mlflow", read_only=False), "mlflow: its root file system"),
        (service("ray-worker", cap_drop=[]), "ray-worker: has capabilities"),
        (service("ray-worker", cap_add=["SYS_ADMIN"]), "ray-worker: has capabilities"),
        (service("ray-worker", security_opt=[]), "ray-worker: can gain privileges"),
        (service("ray-worker", privileged=True), "ray-worker: shares namespaces"),
        (service("ray-head", network_mode="host"), "ray-head: shares namespaces"),
        (
            service("sweep", volumes=[{"type": "bind", "source": "/var/run/docker.sock"}]),
            "sweep: sees /var/run/docker.sock",
        ),
        (service("sweep", depends_on={"mlflow": {"condition": "service_started"}}), "sweep: does not wait"),
        (variable("ray-worker", "RAY_AUTH_MODE", None), "ray-worker: its Ray asks for no token"),
        (variable("sweep", "RAY_AUTH_MODE", "disabled"), "sweep: its Ray asks for no token"),
        (variable("ray-head", "RAY_AUTH_TOKEN", "abc"), "ray-head: RAY_AUTH_TOKEN is written down"),
        (variable("postgres", "POSTGRES_PASSWORD", "mlflow"), "postgres: POSTGRES_PASSWORD is written down"),
        (
            variable("mlflow", "MLFLOW_BACKEND_STORE_URI", SECRETS["POSTGRES_PASSWORD"]),
            "mlflow: MLFLOW_BACKEND_STORE_URI gives a secret away",
        ),
        (service("mlflow", command=[SECRETS["POSTGRES_PASSWORD"]]), "mlflow: a secret stands outside"),
        (service("ray-worker", shm_size="67108864"), "ray-worker: has too little shared memory"),
        (service("ray-head", command=["ray", "start"]), "ray-head: has too little shared memory"),
        (lambda compose: compose["services"]["mlflow"].pop("healthcheck"), "mlflow: nobody asks"),
        (lambda compose: compose["networks"]["database"].pop("internal"), "the database's network"),
    ],
)
def test_each_opening_is_found(
    change: Callable[[dict[str, Any]], None], sentence: str, compose: dict[str, Any], image_user: str
) -> None:
    changed = copy.deepcopy(compose)
    change(changed)
    assert any(found.startswith(sentence) for found in violations(changed, image_user=image_user))


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_must_be_given(name: str) -> None:
    others = {other: value for other, value in SECRETS.items() if other != name}
    for given in (others, others | {name: ""}):
        done = compose_config("config", **given)
        assert done.returncode != 0
        assert f"fill in {name} in docker/.env" in done.stderr


def test_the_example_of_variables_names_the_secrets_and_gives_none() -> None:
    lines = (DOCKER / ".env.example").read_text().splitlines()
    given = [line for line in lines if line and not line.startswith("#")]
    assert given == [f"{name}=" for name in (*SECRETS, "EASREC_CPU_INDEX")]


def test_mlflow_answers_to_the_names_that_it_is_called_by(compose: dict[str, Any]) -> None:
    words = compose["services"]["mlflow"]["command"]
    allowed = words[words.index("--allowed-hosts") + 1].split(",")
    script = compose["services"]["sweep"]["entrypoint"][2]
    tracking = re.search(r"--tracking-uri http://(\S+)", script)
    assert tracking is not None
    published = [port["published"] for port in compose["services"]["mlflow"]["ports"]]
    assert allowed == [tracking[1], *(f"{host}:{published[0]}" for host in ("localhost", "127.0.0.1"))]
    assert compose["services"]["mlflow"]["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_only_mlflow_reaches_the_database(compose: dict[str, Any]) -> None:
    reach = [name for name, service in compose["services"].items() if "database" in service["networks"]]
    assert sorted(reach) == ["mlflow", "postgres"]
    assert list(compose["services"]["postgres"]["networks"]) == ["database"]


def test_ray_nodes_and_the_sweep_see_the_results_at_one_path(compose: dict[str, Any]) -> None:
    for name in ("ray-head", "ray-worker", "ray-gpu-worker", "sweep"):
        mounts = {volume["source"]: volume["target"] for volume in compose["services"][name]["volumes"]}
        assert mounts["runs"] == "/runs", name
    output = compose["services"]["sweep"]["command"]
    assert output[0] == "--output"
    assert Path(output[1]).is_relative_to("/runs")


def test_services_call_each_other_by_names_that_exist(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name in ("ray-worker", "ray-gpu-worker", "sweep"):
        words = shlex.split(" ".join([*(services[name].get("entrypoint") or ()), *services[name]["command"]]))
        address = next(word for word in words if word.startswith("--address="))
        host, port = address.removeprefix("--address=").split(":")
        assert f"--port={port}" in services[host]["command"]
        assert set(services[name]["networks"]) & set(services[host]["networks"])
