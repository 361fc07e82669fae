"""Exported networks in MLflow: what a model takes and gives, and its versions in the registry.

A version stands for what a bundle serves. Exporting the same again finds the version that has it; anything
else makes a new one, and no version is ever changed. Runs get a model added and nothing taken away.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from easrec.data.items import Items
from easrec.files import read_json
from sweeps.addresses import TRACKING_VARIABLE
from sweeps.mlflow_store import EXPERIMENT, open_experiment
from sweeps.records import flatten
from sweeps.source import SweepFacts, Trained, find_trial
from sweeps.store import now_ms

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")
MODEL_TYPE = "sequential-recommender"
CARD = "README.md"
CONTENT = "easrec.content"
"""Tag of a version: `content_digest` of its bundle."""

# What `easrec.serving` and MLflow's scoring import: no Ray, no Optuna, no charts.
_REQUIRED = (
    "easrec",
    "mlflow",
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "safetensors",
    "onnx",
    "onnxruntime",
    "filelock",
    "platformdirs",
)


@dataclass(frozen=True, slots=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: str
    is_new: bool
    """Whether it was made just now; otherwise it had the same content already."""
    alias_from: str | None = None
    """The version that an alias was taken from."""

    @property
    def uri(self) -> str:
        """What MLflow's commands take."""
        return f"models:/{self.name}/{self.version}"


def signature_of(items: Items) -> "ModelSignature":
    """What the model takes and gives, as MLflow checks it."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    item = DataType.string if items.are_texts else DataType.long
    return ModelSignature(
        inputs=Schema([ColSpec(Array(item), "history")]),
        outputs=Schema(
            [
                ColSpec(Array(item), "items"),
                ColSpec(Array(DataType.double), "scores"),
                ColSpec(DataType.boolean, "by_popularity"),
            ]
        ),
        params=ParamSchema(
            [ParamSpec("k", DataType.long, 10), ParamSpec("exclude_seen", DataType.boolean, True)]
        ),
    )


def signature_text(items: Items) -> str:
    """The signature as JSON, for the bundle."""
    parts = {name: json.loads(text) for name, text in signature_of(items).to_dict().items() if text}
    return json.dumps(parts, indent=2) + "\n"


def example_input(items: Items) -> pd.DataFrame:
    """One request: the three most popular items of training as a history."""
    popular = (-items.training_counts[1:]).argsort(kind="stable")[:3] + 1
    history = [own_id if items.are_texts else int(own_id) for own_id in items.own_ids[popular]]
    return pd.DataFrame({"history": [history]})


def requirements() -> list[str]:
    """What serving needs, at the versions installed here; without the +cpu of torch, which no index knows."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in _REQUIRED]


def content_digest(bundle: Path) -> str:
    """sha256 of what a bundle serves: the names and checksums of its files but the model card.

    The card says why the network was picked, which may differ between two exports of one network.
    """
    manifest = read_json(bundle / "manifest.json")
    files = {name: entry["sha256"] for name, entry in manifest["files"].items() if name != CARD}
    text = json.dumps([manifest["format_version"], files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def network_run(client: "MlflowClient", facts: SweepFacts, trained: Trained) -> str:
    """The id of the run of a trained network: that of its trial, or one made for it.

    A network that was retrained on its own has no trial, and an MLflow store other than the sweep's has none
    of its runs; both get a run of kind `export`, below the sweep's if that is there.
    """
    experiment_id = open_experiment(client, EXPERIMENT, client.tracking_uri)
    sweep = f"tags.`easrec.sweep_id` = '{facts.sweep_id}'"
    if trained.trial_id is not None:
        trial = find_trial(client, experiment_id, facts.sweep_id, trained.trial_id)
        if trial is not None:
            return str(trial.info.run_id)
    key = trained.key or trained.trial_id
    found = client.search_runs([experiment_id], f"{sweep} and tags.`easrec.network` = '{key}'", max_results=1)
    if found and found[0].info.status == "FINISHED":
        return str(found[0].info.run_id)
    parents = client.search_runs([experiment_id], f"{sweep} and tags.`easrec.kind` = 'sweep'", max_results=1)
    architecture = trained.architecture
    run = (
        found[0]
        if found
        else client.create_run(
            experiment_id,
            run_name=f"{architecture.architecture_id}, seed {trained.seed}",
            tags={
                "easrec.kind": "export",
                "easrec.sweep_id": facts.sweep_id,
                "easrec.network": str(key),
                "architecture_id": architecture.architecture_id,
                "seed": str(trained.seed),
                **({"mlflow.parentRunId": parents[0].info.run_id} if parents else {}),
            },
        )
    )
    run_id: str = run.info.run_id
    _log_network(client, run_id, trained)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _log_network(client: "MlflowClient", run_id: str, trained: Trained) -> None:
    from mlflow.entities import Metric, Param

    params = flatten({"architecture": trained.architecture.to_dict()})
    params |= {"seed": trained.seed, "transfer_from": trained.transfer_from}
    stamp_ms = now_ms()
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, stamp_ms, 0) for name, value in trained.metrics.items()],
        params=[Param(name, str(value)) for name, value in params.items()],
    )
    client.log_artifacts(run_id, str(trained.network))


def register(
    client: "MlflowClient",
    bundle: Path,
    items: Items,
    *,
    run_id: str,
    name: str,
    description: str,
    tags: Mapping[str, str],
    alias: str | None = None,
) -> Registered:
    """Add a bundle to a run as a model and register it, unless a version has its content already.

    Args:
        client: of the store that has the run.
        bundle: what `easrec.serving.save_bundle` wrote.
        items: those of the bundle.
        run_id: the run that trained the network.
        name: of the registered model, made if missing.
        description: of a new version.
        tags: of a new version.
        alias: to be put on the version; None leaves all aliases where they are.
    """
    digest = content_digest(bundle)
    found = _version_of(client, name, digest)
    model_version = found or _new_version(
        client,
        bundle,
        items,
        run_id=run_id,
        name=name,
        description=description,
        tags={**tags, CONTENT: digest},
    )
    alias_from = None
    if alias is not None:
        aliases: dict[str, str] = client.get_registered_model(name).aliases
        before = aliases.get(alias)
        if before is None or str(before) != str(model_version.version):
            client.set_registered_model_alias(name, alias, str(model_version.version))
            alias_from = None if before is None else str(before)
    return Registered(name, str(model_version.version), found is None, alias_from)


def _version_of(client: "MlflowClient", name: str, digest: str) -> "ModelVersion | None":
    """The newest version that has a content, or None."""
    quoted = name.replace("'", "''")
    for model_version in client.search_model_versions(f"name = '{quoted}' and tags.`{CONTENT}` = '{digest}'"):
        if model_version.status == "READY":
            return model_version
    return None


def _new_version(
    client: "MlflowClient",
    bundle: Path,
    items: Items,
    *,
    run_id: str,
    name: str,
    description: str,
    tags: Mapping[str, str],
) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    model_id = log_model(client, bundle, items, run_id=run_id, name=name, tags=tags)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=run_id,
        tags=dict(tags),
        description=description,
        model_id=model_id,
    )


def log_model(
    client: "MlflowClient",
    bundle: Path,
    items: Items,
    *,
    run_id: str,
    name: str,
    tags: Mapping[str, str],
) -> str:
    """Add a bundle to a run as a model with a signature, which MLflow can load; returns the model's id.

    Args:
        client: of the store that has the run.
        bundle: what `easrec.serving.save_bundle` wrote.
        items: those of the bundle.
        run_id: the run that trained the network.
        name: of the model.
        tags: of the model.
    """
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    # Not mlflow.pyfunc.log_model: it wants an active run, and to make one of a run that has ended would
    # change that run's status and times.
    model = client.create_logged_model(
        run.info.experiment_id,
        name=name,
        source_run_id=run_id,
        tags=dict(tags),
        model_type=MODEL_TYPE,
    )
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "model")
            # MLflow names what it copies after the source: the same name whatever the folder is called.
            named = shutil.copytree(bundle, Path(scratch, "bundle"))
            save_pyfunc(named, items, folder, run_id=run_id, model=model)
            client.log_model_artifacts(model.model_id, str(folder))
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def save_pyfunc(
    bundle: Path, items: Items, folder: Path, *, run_id: str | None = None, model: "LoggedModel | None" = None
) -> None:
    """Write an MLflow model, from code and the bundle, into a folder that does not exist yet.

    Args:
        bundle: what becomes its artifact.
        items: those of the bundle.
        folder: where.
        run_id: the run that it will belong to, if any.
        model: what it will be in an MLflow store, if it goes there.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    place: dict[str, Any] = {}
    if model is not None:
        place = {
            "artifact_path": model.artifact_location,
            "model_uuid": model.model_id,
            "model_id": model.model_id,
            "run_id": run_id,
        }
    mlflow.pyfunc.save_model(
        folder,
        mlflow_model=Model(**place),
        python_model=str(MODEL_CODE),
        artifacts={"bundle": str(bundle)},
        signature=signature_of(items),
        input_example=example_input(items),
        pip_requirements=requirements(),
    )


_ENVIRONMENT = {
    # A uv project that the user happens to stand in has nothing to do with the model.
    "MLFLOW_UV_AUTO_DETECT": "false",
}
_TALKATIVE = ("mlflow.pyfunc", "mlflow.store.model_registry.abstract_store")


@contextlib.contextmanager
def mlflow_at(tracking_uri: str) -> Iterator[None]:
    """MLflow as an export needs it, for the length of a `with`; what the user has set by hand stays.

    Registering a version asks the store that the process has chosen, whatever the client's own is, so that is
    chosen here too.
    """
    import mlflow

    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    uri_variable = os.environ.get(TRACKING_VARIABLE)
    uri_before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    loggers = {name: logging.getLogger(name) for name in _TALKATIVE}
    levels = {name: logger.level for name, logger in loggers.items()}
    os.environ.update(added)
    for logger in loggers.values():
        logger.setLevel(logging.WARNING)
    mlflow.set_tracking_uri(tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(uri_before)
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
        for name in added:
            del os.environ[name]
        # MLflow writes the variable when a store is chosen.
        os.environ.pop(TRACKING_VARIABLE, None)
        if uri_variable is not None:
            os.environ[TRACKING_VARIABLE] = uri_variable
