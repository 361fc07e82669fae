"""Whether an MLflow store that the user names takes records: asked before a sweep starts."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from easrec.errors import InputError
from sweeps.addresses import masked, without_credentials
from sweeps.mlflow_store import EXPERIMENT, SQLITE, make_database, open_experiment, quiet

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ANSWER_S = 5
"""Seconds within which a store must answer."""
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_ATTEMPTS = 5
"""How often a database is opened that others, who make its tables at this moment, get in the way of."""


def check_store(tracking_uri: str, artifacts: Path) -> None:
    """See that a store takes a sweep's records, in some seconds, before anything is started.

    The experiment is made if it is missing. An empty database gets MLflow's tables, which takes longer.

    Args:
        tracking_uri: the address of an MLflow server or of a database.
        artifacts: see `open_experiment`.

    Raises:
        InputError: it does not answer, or does not let this user write.
    """
    shown = masked(tracking_uri)
    try:
        _check_answers(tracking_uri)
        with _impatient():
            _check_database(tracking_uri)
            from mlflow import MlflowClient

            _check_artifacts(_opened(lambda: MlflowClient(tracking_uri), tracking_uri, artifacts), shown)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"--tracking-uri {shown}: the driver of this database is not installed ({error}); install it "
            "(psycopg for postgresql+psycopg://), or give the address of an MLflow server"
        ) from error
    except Exception as error:  # MLflow, SQLAlchemy, the database's driver: each has classes of its own
        reason = without_credentials(" ".join(str(error).split()), tracking_uri)
        if "timed out" in reason or "timeout expired" in reason:
            reason = f"it did not answer within {_ANSWER_S} s"
        raise InputError(
            f"no MLflow records can be written to --tracking-uri {shown} ({reason[:300]}); check the "
            "address, that the server runs and that you may write there"
        ) from error


def _check_answers(tracking_uri: str) -> None:
    parts = urlsplit(tracking_uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        folder = Path(tracking_uri.removeprefix(SQLITE)).parent
        if not folder.is_dir():
            raise InputError(f"--tracking-uri {tracking_uri}: there is no directory {folder}; make it first")
        return
    if parts.hostname:  # a database may be reached through a socket of the file system
        port = parts.port or _PORTS[scheme]
        socket.create_connection((parts.hostname, port), timeout=_ANSWER_S).close()


def _check_database(tracking_uri: str) -> None:
    """Connect once: MLflow itself tries fifteen times, for the better part of an hour."""
    scheme = urlsplit(tracking_uri).scheme.partition("+")[0]
    if scheme in ("http", "https"):
        return
    if scheme == "sqlite":
        make_database(Path(tracking_uri.removeprefix(SQLITE)))
        return
    import sqlalchemy

    arguments = {"connect_timeout": _ANSWER_S} if scheme in ("postgresql", "mysql") else {}
    engine = sqlalchemy.create_engine(tracking_uri, connect_args=arguments)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Let MLflow ask a server once, and briefly, for the length of a `with`."""
    changes = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(_ANSWER_S)}
    before = {name: os.environ[name] for name in changes}
    os.environ.update(changes)
    try:
        with quiet("mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store", "alembic"):
            yield
    finally:
        os.environ.update(before)


def _opened(connect: Callable[[], "MlflowClient"], tracking_uri: str, artifacts: Path) -> str:
    """The artifacts' location of the experiment; see `open_experiment`."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            client = connect()
            experiment = client.get_experiment(open_experiment(client, EXPERIMENT, tracking_uri, artifacts))
            return str(experiment.artifact_location)
        except InputError:
            raise
        except Exception:
            if attempt == _ATTEMPTS or tracking_uri.startswith("http"):
                raise
            time.sleep(attempt)
    raise AssertionError("the last attempt returns or raises")


def _check_artifacts(location: str, shown: str) -> None:
    """Refuse an experiment of a database whose files are out of this process's reach."""
    parts = urlsplit(location)
    if shown.startswith("http") or parts.scheme not in ("", "file", "mlflow-artifacts"):
        return
    if parts.scheme == "mlflow-artifacts":
        raise InputError(
            f"the experiment {EXPERIMENT!r} in {shown} was made by an MLflow server, which keeps its files; "
            "give the address of that server as --tracking-uri"
        )
    folder = Path(url2pathname(parts.path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK)
    except OSError:
        usable = False
    if not usable:
        raise InputError(
            f"the experiment {EXPERIMENT!r} in {shown} keeps its files in {folder}, where this machine "
            "cannot write; use a machine that can, or an MLflow server"
        )
