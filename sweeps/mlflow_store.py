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
from sweeps.addresses import masked

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Read by MLflow when it is imported, which happens inside functions: a sweep reports to nobody unasked.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# MLflow's own seven attempts at a server that is away take minutes each time; what it does not take is
# written again at the end of a sweep.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

EXPERIMENT = "easrec"
"""The experiment of sweeps: those that share it compare in one chart."""

SQLITE = "sqlite:///"
"""How the address of a database file begins."""


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
    make_database(path)
    return f"{SQLITE}{path}"


def make_database(path: Path) -> None:
    """Make an MLflow database in a file, unless it is there; whole or not at all."""
    if not path.exists():
        write_atomically(path, lambda temporary: _migrate(temporary, path.parent / "artifacts"))


def _migrate(database: Path, artifacts: Path) -> None:
    with quiet("mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store", "alembic"):
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = SqlAlchemyStore(f"{SQLITE}{database}", artifacts.as_uri())
    store.engine.dispose()


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Keep the progress notes of some loggers off the user's screen."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, logging.WARNING))
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}
"""Tags that let the UI open an experiment as training runs; otherwise it guesses, and shows traces."""


def ui_command(tracking_uri: str, *, port: int = 5000) -> str:
    """The shell command that opens the MLflow UI on a store, passwords hidden; a database's at 127.0.0.1."""
    shown = shlex.quote(masked(tracking_uri))
    if tracking_uri.startswith(("http://", "https://")):
        return f"{shlex.quote(sys.executable)} -m webbrowser {shown}"
    # One worker and no job runner: MLflow's default of both needs over a gigabyte and a minute.
    return (
        f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {shlex.quote(sys.executable)} -m mlflow server "
        f"--backend-store-uri {shown} --host 127.0.0.1 --port {port} --workers 1"
    )


def open_experiment(
    client: "MlflowClient", name: str, tracking_uri: str, artifacts: Path | None = None
) -> str:
    """The id of an experiment, made if missing.

    Args:
        client: of the store.
        name: of the experiment.
        tracking_uri: of the store; artifacts lie beside a sqlite store, and where a server keeps them.
        artifacts: where they lie if the experiment has to be made in another database.
    """
    from mlflow.exceptions import MlflowException

    location = None
    if tracking_uri.startswith(SQLITE):
        # Explicit and absolute: MLflow's default follows the working directory of whoever comes first.
        location = (Path(tracking_uri.removeprefix(SQLITE)).parent / "artifacts").as_uri()
    made_in = location
    if location is None and artifacts is not None and not tracking_uri.startswith("http"):
        made_in = artifacts.as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=made_in, tags=_TRAINING_VIEW))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another sweep on the server was faster
            assert found is not None
    if found.lifecycle_stage != "active":
        raise InputError(
            f"the MLflow experiment {name!r} in {masked(tracking_uri)} has been deleted; restore it with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}` or choose another name"
        )
    if location is not None and found.artifact_location != location:
        raise InputError(
            f"the MLflow store {tracking_uri} was made with its artifacts in {found.artifact_location}: "
            "the directory has been moved; move it back or start in a new one"
        )
    return str(found.experiment_id)
