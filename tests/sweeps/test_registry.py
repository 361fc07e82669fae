"""An exported network in MLflow: one version for one content, nothing pickled, and it answers over HTTP."""

import contextlib
import importlib.metadata
import json
import os
import pickle
import pickletools
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from easrec.data.items import Items
from easrec.models.saving import load_network
from easrec.serving import save_bundle
from sweeps.registry import (
    CONTENT,
    Registered,
    content_digest,
    mlflow_at,
    network_run,
    register,
    requirements,
    signature_of,
    signature_text,
)
from sweeps.source import SweepDirectory, Trained
from tests.sweeps.finished_sweep import FinishedSweep

pytestmark = [
    # MLflow's own: when mlflow.pyfunc is imported, and where it meets pandas 3.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
]

NAME = "a network"


@pytest.fixture(scope="module")
def source(sweep: FinishedSweep) -> SweepDirectory:
    return SweepDirectory(sweep.directory)


@pytest.fixture(scope="module")
def trained(source: SweepDirectory, sweep: FinishedSweep) -> Trained:
    return source.trained(sweep.records[0].trial_id)


@pytest.fixture(scope="module")
def bundle(source: SweepDirectory, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(
        tmp_path_factory.mktemp("bundles") / "one é",
        load_network(trained.network),
        source.items,
        files={"README.md": "a card", "signature.json": signature_text(source.items)},
    )


@pytest.fixture(scope="module")
def client(sweep: FinishedSweep) -> Iterator[mlflow.MlflowClient]:
    with mlflow_at(sweep.tracking_uri):
        yield mlflow.MlflowClient(sweep.tracking_uri)


@pytest.fixture(scope="module")
def run_id(client: mlflow.MlflowClient, source: SweepDirectory, trained: Trained) -> str:
    return network_run(client, source.facts, trained)


@pytest.fixture(scope="module")
def registered(client: mlflow.MlflowClient, bundle: Path, source: SweepDirectory, run_id: str) -> Registered:
    return registered_as(NAME, client, bundle, source.items, run_id)


def registered_as(
    name: str,
    client: mlflow.MlflowClient,
    bundle: Path,
    items: Items,
    run_id: str,
    alias: str | None = None,
) -> Registered:
    return register(
        client,
        bundle,
        items,
        run_id=run_id,
        name=name,
        description="what it is",
        tags={"seed": "0"},
        alias=alias,
    )


def model_files(client: mlflow.MlflowClient, registered: Registered) -> Path:
    """The artifacts of a version, as files."""
    version = client.get_model_version(registered.name, registered.version)
    location = client.get_logged_model(version.source.removeprefix("models:/")).artifact_location
    return Path(urllib.request.url2pathname(location.removeprefix("file://")))


def is_pickle(content: bytes) -> bool:
    """Whether bytes are a pickle, or an archive as torch pickles into."""
    if content.startswith(b"PK"):
        return True
    try:
        operations = list(pickletools.genops(content))
    except (ValueError, UnicodeDecodeError, IndexError):
        return False
    return operations[-1][2] == len(content) - 1


def test_no_file_of_the_model_is_a_pickle(
    client: mlflow.MlflowClient, registered: Registered, tmp_path: Path
) -> None:
    folder = model_files(client, registered)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "MLmodel",
        "conda.yaml",
        "input_example.json",
        "pyfunc_model.py",
        "python_env.yaml",
        "requirements.txt",
        "serving_input_example.json",
        "artifacts/bundle/README.md",
        "artifacts/bundle/architecture.json",
        "artifacts/bundle/items.parquet",
        "artifacts/bundle/manifest.json",
        "artifacts/bundle/model.onnx",
        "artifacts/bundle/signature.json",
        "artifacts/bundle/weights.safetensors",
    }
    assert not [name for name in files if is_pickle((folder / name).read_bytes())]
    # What the check is worth.
    torch.save({"weight": torch.ones(2)}, tmp_path / "new.pt")
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert is_pickle((tmp_path / "new.pt").read_bytes())
    assert is_pickle(pickle.dumps({"a": np.ones(3)}))
    assert is_pickle(pickle.dumps([1, "b"], protocol=0))


def test_the_same_content_is_registered_once(
    client: mlflow.MlflowClient,
    bundle: Path,
    source: SweepDirectory,
    run_id: str,
    registered: Registered,
    tmp_path: Path,
) -> None:
    assert (registered.version, registered.is_new) == ("1", True)
    models = client.get_run(run_id).outputs.model_outputs
    again = registered_as(NAME, client, bundle, source.items, run_id)
    assert (again.version, again.is_new) == ("1", False)
    # Another card is no other network.
    copy = save_bundle(
        tmp_path / "copy",
        load_network(source.trained(source.frame["trial_id"][0]).network),
        source.items,
        files={"README.md": "another card", "signature.json": signature_text(source.items)},
    )
    assert registered_as(NAME, client, copy, source.items, run_id).version == "1"
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 1
    assert client.get_run(run_id).outputs.model_outputs == models


def test_other_content_is_a_new_version_and_the_old_one_stays(
    client: mlflow.MlflowClient, source: SweepDirectory, run_id: str, tmp_path: Path
) -> None:
    bundles = []
    for number in (0, 1):
        model = load_network(source.trained(source.frame["trial_id"][number]).network)
        bundles.append(save_bundle(tmp_path / str(number), model, source.items))
    first, second = (registered_as("two", client, folder, source.items, run_id) for folder in bundles)
    assert (first.version, second.version) == ("1", "2")
    assert registered_as("two", client, bundles[0], source.items, run_id).version == "1"
    versions = {version.version: version for version in client.search_model_versions("name = 'two'")}
    for number, folder in enumerate(bundles, start=1):
        version = versions[str(number)] if str(number) in versions else versions[number]
        assert version.tags == {"seed": "0", CONTENT: content_digest(folder)}
        assert version.description == "what it is"
        assert version.run_id == run_id


def test_an_alias_moves_only_when_it_is_named(
    client: mlflow.MlflowClient, source: SweepDirectory, run_id: str, tmp_path: Path
) -> None:
    bundles = []
    for number in (0, 1):
        model = load_network(source.trained(source.frame["trial_id"][number]).network)
        bundles.append(save_bundle(tmp_path / str(number), model, source.items))

    def export(bundle: Path, alias: str | None) -> Registered:
        return registered_as("aliased", client, bundle, source.items, run_id, alias)

    def champion() -> str:
        return str(client.get_model_version_by_alias("aliased", "champion").version)

    assert export(bundles[0], "champion").alias_from is None
    assert champion() == "1"
    assert export(bundles[1], None).version == "2"
    assert champion() == "1"
    moved = export(bundles[1], "champion")
    assert (moved.version, moved.is_new, moved.alias_from) == ("2", False, "1")
    assert champion() == "2"
    assert export(bundles[1], "champion").alias_from is None  # it is there already


def test_a_run_gets_a_model_added_and_is_otherwise_what_it_was(
    client: mlflow.MlflowClient, sweep: FinishedSweep, source: SweepDirectory, tmp_path: Path
) -> None:
    trained = source.trained(sweep.records[2].trial_id)
    run_id = network_run(client, source.facts, trained)

    def state() -> tuple[Any, ...]:
        run = client.get_run(run_id)
        folder = Path(urllib.request.url2pathname(run.info.artifact_uri.removeprefix("file://")))
        files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return dict(run.info), run.data.metrics, run.data.params, run.data.tags, files

    def models() -> set[str]:
        outputs = client.get_run(run_id).outputs
        return set() if outputs is None else {output.model_id for output in outputs.model_outputs}

    before, had = state(), models()
    assert before[3]["easrec.trial_id"] == trained.trial_id
    bundle = save_bundle(tmp_path / "bundle", load_network(trained.network), source.items)
    registered = registered_as("added", client, bundle, source.items, run_id)
    assert state() == before
    # Of a network on a front the run has a model already; MLflow gives them in no order.
    (added,) = models() - had
    version = client.get_model_version("added", registered.version)
    assert version.source == f"models:/{added}"


def test_a_network_without_a_run_gets_one_below_the_sweep(
    client: mlflow.MlflowClient, sweep: FinishedSweep, source: SweepDirectory, trained: Trained
) -> None:
    lone = {**trained.metrics, "valid/unseen/ndcg_at_10": 0.5}
    alone = Trained(
        trial_id=None,
        tradeoff=None,
        seed=9,
        architecture=trained.architecture,
        network=trained.network,
        metrics=lone,
        transfer_from="warm",
        program="p",
        key="k" * 16,
    )
    run_id = network_run(client, source.facts, alone)
    assert network_run(client, source.facts, alone) == run_id
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == sweep.run_id
    assert run.data.tags["easrec.kind"] == "export"
    assert run.data.metrics == lone
    assert run.data.params["architecture.hidden_size"] == str(trained.architecture.hidden_size)
    names = {file.path for file in client.list_artifacts(run_id)}
    assert names == {"network.json", "weights.safetensors"}


def test_requirements_are_what_serving_imports_at_the_versions_installed() -> None:
    pins = dict(line.split("==") for line in requirements())
    assert pins["torch"] == torch.__version__.split("+")[0]
    assert pins["easrec"] == importlib.metadata.version("easrec")
    program = "import sys, easrec.serving; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    distributions = importlib.metadata.packages_distributions()
    imported = {name for module in done.stdout.split() for name in distributions.get(module, [])}
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^\w-]", line)[0].lower() for line in project["dependencies"]}
    assert pins.keys() - {"easrec", "mlflow"} == {name.lower() for name in imported} & declared


def test_the_signature_follows_the_ids(source: SweepDirectory) -> None:
    numbers = Items(np.arange(-1, source.items.num_items), source.items.training_counts)
    assert source.items.are_texts
    for items, kind in ((source.items, "string"), (numbers, "long")):
        signature = json.loads(signature_text(items))
        assert [(column["name"], column["type"]) for column in signature["inputs"]] == [("history", "array")]
        assert signature["inputs"][0]["items"]["type"] == kind
        assert [column["name"] for column in signature["outputs"]] == ["items", "scores", "by_popularity"]
        assert {p["name"]: p["default"] for p in signature["params"]} == {"k": 10, "exclude_seen": True}
        assert signature_of(items).params is not None


def test_it_loads_in_a_fresh_process(sweep: FinishedSweep, registered: Registered, tmp_path: Path) -> None:
    program = (
        "import json, mlflow, pandas as pd\n"
        f"model = mlflow.pyfunc.load_model({registered.uri!r})\n"
        "histories = pd.DataFrame({'history': [['film 007', 'film 014'], [], ['nowhere']]})\n"
        "print(model.predict(histories, params={'k': 3}).to_json(orient='records'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"MLFLOW_TRACKING_URI": sweep.tracking_uri, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert [answer["by_popularity"] for answer in answers] == [False, True, True]
    for answer in answers:
        assert len(answer["items"]) == len(answer["scores"]) == 3
        assert answer["scores"] == sorted(answer["scores"], reverse=True)
        assert all(item.startswith("film ") for item in answer["items"])
    assert not {"film 007", "film 014"} & set(answers[0]["items"])


def test_mistakes_in_a_request_are_said(registered: Registered, client: mlflow.MlflowClient) -> None:
    model = mlflow.pyfunc.load_model(str(model_files(client, registered)))
    for frame, params, message in (
        ({"history": [["film 007"]]}, {"k": 0}, "k"),
        ({"history": [[7]]}, None, "history"),
        ({"histories": [["film 007"]]}, None, "missing inputs"),
    ):
        with pytest.raises(mlflow.MlflowException, match=message):
            model.predict(pd.DataFrame(frame), params=params)


@contextlib.contextmanager
def serving(uri: str, tracking_uri: str, folder: Path) -> Iterator[str]:
    """`mlflow models serve` for the length of a `with`; the address it answers at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "--model-uri",
        uri,
        "--env-manager",
        "local",
    ]
    bin_directory = str(Path(sys.executable).parent)
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ
            | {
                "MLFLOW_TRACKING_URI": tracking_uri,
                "OMP_NUM_THREADS": "1",
                # MLflow looks for uvicorn there.
                "PATH": os.pathsep.join([bin_directory, os.environ.get("PATH", "")]),
            },
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, (folder / "server.log").read_text()
            try:
                with urllib.request.urlopen(f"{address}/ping", timeout=5):
                    break
            except OSError:
                time.sleep(0.25)
        else:
            pytest.fail(f"no answer within a minute: {(folder / 'server.log').read_text()}")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def ask(address: str, request: dict[str, Any]) -> tuple[int, Any]:
    """The status and the answer of a request, as curl would send it."""
    asked = urllib.request.Request(
        f"{address}/invocations", json.dumps(request).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_mlflow_serves_it_over_http(
    sweep: FinishedSweep, source: SweepDirectory, registered: Registered, tmp_path: Path
) -> None:
    histories = [["film 007", "film 014"], [], ["nowhere", "film 021"]]
    with serving(registered.uri, sweep.tracking_uri, tmp_path) as address:
        status, answer = ask(
            address,
            {"dataframe_records": [{"history": history} for history in histories], "params": {"k": 4}},
        )
        assert status == 200
        _, seen = ask(
            address,
            {
                "dataframe_split": {"columns": ["history"], "data": [[histories[0]]]},
                "params": {"k": source.items.num_items, "exclude_seen": False},
            },
        )
        refused, why = ask(address, {"dataframe_records": [{"history": histories[0]}], "params": {"k": 0}})
    predictions = answer["predictions"]
    assert [prediction["by_popularity"] for prediction in predictions] == [False, True, False]
    assert {len(prediction["items"]) for prediction in predictions} == {4}
    counts = dict(zip(source.items.own_ids[1:], source.items.training_counts[1:], strict=True))
    popular = sorted(counts.values(), reverse=True)[:4]
    assert predictions[1]["scores"] == [float(count) for count in popular]
    assert [counts[item] for item in predictions[1]["items"]] == popular
    everything = seen["predictions"][0]
    assert sorted(everything["items"]) == sorted(counts)
    unseen = [item for item in everything["items"] if item not in histories[0]]
    assert predictions[0]["items"] == unseen[:4]
    assert refused == 400
    assert "k" in why["message"]
