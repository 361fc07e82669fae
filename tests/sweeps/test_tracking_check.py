"""An MLflow store that cannot take a sweep's records is refused in a sentence, within seconds."""

import http.server
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

import sweeps.sweep as sweep_module
from easrec.errors import InputError
from sweeps.config import SweepConfig
from sweeps.tracking_check import check_store
from tests.sweeps.mlflow_server import free_port, mlflow_server
from tests.sweeps.test_sweep import calls, config_of, run  # noqa: F401


@contextmanager
def listener() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield silent.getsockname()[1]


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A web server that answers everything with one status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *arguments: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refused(address: str, tmp_path: Path) -> str:
    start_s = time.monotonic()
    with pytest.raises(InputError) as error:
        check_store(address, tmp_path / "artifacts")
    assert time.monotonic() - start_s < 25, "the time limit is 5 s for each of a few attempts to connect"
    return str(error.value)


def test_a_server_that_is_away_or_silent_is_refused(tmp_path: Path) -> None:
    sentence = refused(f"http://ann:secret@127.0.0.1:{free_port()}", tmp_path)
    assert "no MLflow records can be written to --tracking-uri http://ann:***@127.0.0.1" in sentence
    assert "Connection refused" in sentence and "secret" not in sentence and "\n" not in sentence
    with listener() as port:
        assert "did not answer within 5 s" in refused(f"http://127.0.0.1:{port}", tmp_path)
        sentence = refused(f"postgresql+psycopg://ann:secret@127.0.0.1:{port}/mlflow", tmp_path)
        assert "did not answer within 5 s" in sentence and "secret" not in sentence


def test_a_server_that_wants_another_user_is_refused(tmp_path: Path) -> None:
    with answering(401) as port:
        assert "401" in refused(f"http://127.0.0.1:{port}", tmp_path)


def test_a_database_without_its_driver_or_its_directory_is_refused(tmp_path: Path) -> None:
    with listener() as port:
        sentence = refused(f"mysql+nosuchdriver://127.0.0.1:{port}/mlflow", tmp_path)
        assert "nosuchdriver" in sentence
    assert "there is no directory" in refused(f"sqlite:///{tmp_path}/missing/mlflow.db", tmp_path)


def test_an_sqlite_file_of_the_users_choice_is_made_and_taken(tmp_path: Path) -> None:
    check_store(f"sqlite:///{tmp_path}/shared.db", tmp_path / "elsewhere")
    with sqlite3.connect(tmp_path / "shared.db") as database:
        ((location,),) = database.execute(
            "select artifact_location from experiments where name = 'easrec'"
        ).fetchall()
    assert location == (tmp_path / "artifacts").as_uri()


@pytest.mark.slow
@pytest.mark.faults
def test_results_outlive_a_server_that_goes_away_and_a_resumed_sweep_brings_them_in(
    tmp_path: Path,
    calls: list[str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    config = config_of(tmp_path, tracking_uri=address)
    with pytest.raises(InputError, match="no MLflow records can be written"):
        run(config)
    assert calls == [] and not (tmp_path / "sweep").exists(), "refused before anything started"

    write = sweep_module.write_results
    with ExitStack() as server, monkeypatch.context() as patches:
        server.enter_context(mlflow_server(tmp_path / "mlflow", port))

        def write_and_lose_the_server(*arguments: Any) -> dict[str, Path]:
            server.close()
            return write(*arguments)

        patches.setattr(sweep_module, "write_results", write_and_lose_the_server)
        patches.setattr(sweep_module, "RECORD_AGAIN_AFTER_S", (0.1,))
        status, text = run(config)
    assert status == 1
    assert "MLflow did not take the results" in text and "--resume" in text
    assert text.count("trying again in 0.1 s") == 1
    assert not (tmp_path / "sweep" / "mlflow.db").exists()
    frame = pd.read_parquet(tmp_path / "sweep" / "results.parquet")
    assert len(frame) == 2
    trained = list(calls)
    with mlflow_server(tmp_path / "mlflow", port):
        for _ in range(2):  # a second resume records nothing twice
            status, text = run(SweepConfig(**{**vars(config), "resume": True}))
            assert status == 0, text
            client = mlflow.MlflowClient(address)
            experiment = client.get_experiment_by_name("easrec")
            runs = client.search_runs([experiment.experiment_id])
            assert sorted(run.data.tags.get("easrec.trial_id", "") for run in runs) == sorted(
                ["", *frame["trial_id"]]
            )
            assert {run.info.status for run in runs} == {"FINISHED"}
            files = {file.path for run in runs for file in client.list_artifacts(run.info.run_id)}
            assert {"weights.safetensors", "results.parquet"} <= files
    assert calls.count("train") == trained.count("train"), "nothing is trained again"
