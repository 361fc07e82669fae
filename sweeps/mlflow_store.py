"""Where MLflow keeps a sweep: the database, the experiment, and the command that shows them."""

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from easrec.errors import InputError
from easrec.files import write_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Read by MLflow when it is imported, which happens inside functions: a sweep reports to nobody unasked.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

_SQLITE = "sqlite:///"


def create_store(output_dir: Path | str) -> str:
    """Make the MLflow database of an output directory, unless it is there, and return its URI.

    Takes about ten seconds the first time (MLflow runs all its migrations), so it may be called in a
    thread while other things start; nothing may open the URI before it returns. The database appears
    whole or not at all: a half-migrated one could never be opened again.
    """
    path = Path(output_dir).resolve() / "mlflow.db"
    if set("?#%") & set(str(path)):
        raise InputError(
            f"the output directory {path.parent} has one of the characters ? # % in its name, which "
            "a database address cannot hold; choose another directory"
        )
    if not path.exists():
        write_atomically(path, lambda temporary: _migrate(temporary, path.parent / "artifacts"))
    return f"{_SQLITE}{path}"


def _migrate(database: Path, artifacts: Path) -> None:
    with _quiet("mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store", "alembic"):
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = SqlAlchemyStore(f"{_SQLITE}{database}", artifacts.as_uri())
    store.engine.dispose()


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keep the progress notes of some loggers off the user's screen."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}
"""Tags that let the UI open an experiment as training runs; otherwise it guesses, and shows traces."""


def ui_command(tracking_uri: str, *, port: int = 5000) -> str:
    """The shell command that opens the MLflow UI on a store, at http://127.0.0.1:PORT."""
    if not tracking_uri.startswith(_SQLITE):
        return f"{shlex.quote(sys.executable)} -m webbrowser {shlex.quote(tracking_uri)}"
    # One worker and no job runner: MLflow's default of both needs over a gigabyte and a minute.
    return (
        f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {shlex.quote(sys.executable)} -m mlflow server "
        f"--backend-store-uri {shlex.quote(tracking_uri)} --host 127.0.0.1 --port {port} --workers 1"
    )


def open_experiment(client: "MlflowClient", name: str, tracking_uri: str) -> str:
    """The id of an experiment, made if missing; artifacts lie beside a sqlite store."""
    from mlflow.exceptions import MlflowException

    location = None
    if tracking_uri.startswith(_SQLITE):
        # Explicit and absolute: MLflow's default follows the working directory of whoever comes first.
        location = (Path(tracking_uri.removeprefix(_SQLITE)).parent / "artifacts").as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=_TRAINING_VIEW))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another sweep on the server was faster
            assert found is not None
    if found.lifecycle_stage != "active":
        raise InputError(
            f"the MLflow experiment {name!r} in {tracking_uri} has been deleted; restore it with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}` or choose another name"
        )
    if location is not None and found.artifact_location != location:
        raise InputError(
            f"the MLflow store {tracking_uri} was made with its artifacts in {found.artifact_location}: "
            "the directory has been moved; move it back or start in a new one"
        )
    return str(found.experiment_id)
