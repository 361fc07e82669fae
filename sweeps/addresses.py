"""Addresses of servers that users name: their forms, and how they are shown without their passwords."""

import os
import re
from urllib.parse import unquote

from easrec.errors import InputError
from easrec.files import what_is_at

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
"""MLflow's own variable of the environment for the address of a store."""

STUDY_VARIABLE = "EASREC_STUDY"
"""Variable of the environment for the address of a store of studies."""

_HIDDEN = "***"
_USER_INFO = re.compile(r"(?<=://)([^/?#\s]*)@")
# A password may stand in the query of a database's address.
_SECRET_QUERY = re.compile(r"([?&][^=&#]*(?:pass|token|secret|key)[^=&#]*=)([^&#\s]*)", re.IGNORECASE)

_DATABASES = ("postgresql", "mysql", "mssql", "sqlite")


def masked(address: str) -> str:
    """An address as it may be shown: without its password, or without its user if there is no password.

    >>> masked("postgresql://ann:secret@db:5432/mlflow"), masked("http://mlflow:5000")
    ('postgresql://ann:***@db:5432/mlflow', 'http://mlflow:5000')
    """

    def user(found: re.Match[str]) -> str:
        name, colon, _ = found[1].partition(":")
        return f"{name}:{_HIDDEN}@" if colon else f"{_HIDDEN}@"

    return _SECRET_QUERY.sub(rf"\1{_HIDDEN}", _USER_INFO.sub(user, address))


def without_credentials(text: str, address: str) -> str:
    """A message in which an address, or its password alone, may stand, as it may be shown.

    >>> without_credentials("no route to http://a:b%21c@host (b!c)", "http://a:b%21c@host")
    'no route to http://a:***@host (***)'
    """
    text = text.replace(address, masked(address))
    found = _USER_INFO.search(address)
    written = [found[1].partition(":")[2] or found[1]] if found else []
    written += [match[2] for match in _SECRET_QUERY.finditer(address)]
    for secret in {*written, *map(unquote, written)} - {""}:
        text = text.replace(secret, _HIDDEN)
    return text


def with_password(address: str, variable: str = TRACKING_VARIABLE) -> str:
    """An address whose password is hidden, with the password if a variable of the environment is the same.

    So a password is in no file, no log and no list of processes. Other addresses come back as they are.
    """
    whole = os.environ.get(variable, "")
    return whole if is_masked(address) and masked(whole) == address else address


def is_masked(address: str) -> bool:
    """Whether an address has lost its password to `masked`."""
    return _HIDDEN in address


def check_ray_address(address: str) -> None:
    """Refuse what can be no Ray cluster for a sweep.

    Raises:
        InputError: says which forms there are.
    """
    if address in ("local", "auto"):
        return
    if address.startswith("ray://"):
        raise InputError(
            f"--ray-address {address}: a sweep cannot run through a Ray client; start it on a node of the "
            "cluster with --ray-address auto, or send it there by `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"--ray-address must be local, auto or HOST:PORT, got {address}")


def existing_store(address: str) -> str:
    """The whole address of an MLflow store that must be there already.

    Raises:
        InputError: it has no such form, lacks its password, or is a database file that does not exist.
    """
    address = with_password(address)
    if is_masked(address):
        raise InputError(
            f"the password of the MLflow store {address} is kept nowhere; give the whole address in "
            f"{TRACKING_VARIABLE}"
        )
    scheme, _, rest = address.partition("://")
    if not rest or scheme == "file":
        raise InputError(
            f"{masked(address)!r} is no address of an MLflow store; write sqlite:////PATH/mlflow.db or "
            "http://HOST:PORT"
        )
    # SQLAlchemy would make an empty database of a mistyped path.
    if scheme == "sqlite" and what_is_at(rest.removeprefix("/")) != "file":
        raise InputError(f"there is no MLflow database {rest.removeprefix('/')}, named by {address!r}")
    return address


def check_tracking_uri(address: str) -> None:
    """Refuse what can be no MLflow store for a sweep.

    Raises:
        InputError: says which forms there are.
    """
    scheme, _, rest = address.partition("://")
    dialect = scheme.partition("+")[0]
    if not rest.strip("/") or dialect not in ("http", "https", *_DATABASES):
        raise InputError(
            "--tracking-uri must be http://HOST:PORT of an MLflow server, or a database's address such as "
            f"postgresql+psycopg://USER@HOST/NAME, got {masked(address)}"
        )
    if dialect == "sqlite" and not rest.startswith("//"):
        raise InputError(
            f"--tracking-uri must name an absolute path, sqlite:////PATH/mlflow.db, got {address}"
        )
    if is_masked(address):
        raise InputError(
            f"--tracking-uri {address} has {_HIDDEN} in place of its password; put the password in, or the "
            f"whole address into {TRACKING_VARIABLE}"
        )


def check_study_address(address: str) -> None:
    """Refuse what can be no store of studies.

    Raises:
        InputError: says which forms there are.
    """
    scheme, _, rest = address.partition("://")
    dialect = scheme.partition("+")[0]
    if not rest.strip("/") or dialect not in ("postgresql", "mysql", "sqlite"):
        raise InputError(
            "--study must be a database's address such as sqlite:////PATH/study.db or "
            f"postgresql+psycopg://USER@HOST/NAME, got {masked(address)}"
        )
    if dialect == "sqlite" and not rest.startswith("//"):
        raise InputError(f"--study must name an absolute path, sqlite:////PATH/study.db, got {address}")
    if is_masked(address):
        raise InputError(
            f"--study {address} has {_HIDDEN} in place of its password; put the password in, or the whole "
            f"address into {STUDY_VARIABLE}"
        )
