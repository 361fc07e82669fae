"""A real PostgreSQL server on this machine, for tests."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.sweeps.mlflow_server import free_port


def binaries() -> Path | None:
    """Where initdb and postgres are: on the path, or where Debian puts them; None if nowhere."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4].split(".")[0])
    )
    return installed[-1].parent if installed else None


@contextmanager
def postgres_server() -> Iterator[str]:
    """The address of an empty database, with its password, for the length of a `with`."""
    folder = binaries()
    assert folder is not None
    # PostgreSQL refuses to be run by root, and its user could not enter pytest's directories.
    root = os.geteuid() == 0
    as_user: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if root else {}
    directory = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    password = secrets.token_hex(16)
    (directory / "password").write_text(password)
    if root:
        for path in (directory, directory / "password"):
            shutil.chown(path, "postgres", "postgres")
    data, port = directory / "data", free_port()
    command: dict[str, Any] = {"cwd": directory, "check": True, "stdout": subprocess.DEVNULL, **as_user}
    control = [folder / "pg_ctl", "--pgdata", data, "--wait", "--timeout=300"]
    try:
        subprocess.run(
            [
                folder / "initdb", "--pgdata", data, "--username=easrec", "--auth=scram-sha-256",
                f"--pwfile={directory / 'password'}", "--encoding=UTF8", "--locale=C", "--no-sync",
            ],
            **command,
        )  # fmt: skip
        settings = f"-h 127.0.0.1 -p {port} -k {directory} -c fsync=off"
        subprocess.run([*control, "--log", directory / "log", "-o", settings, "start"], **command)
        try:
            yield f"postgresql+psycopg://easrec:{password}@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "--mode=fast", "stop"], **command)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
