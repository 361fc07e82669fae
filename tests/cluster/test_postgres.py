"""Sweeps that record at once on an MLflow server with PostgreSQL: all arrives, and once."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from tests.cluster import writer
from tests.cluster.postgres_server import binaries, postgres_server
from tests.sweeps.mlflow_server import free_port, mlflow_server

ROOT = Path(__file__).parents[2]
WRITERS = 8
TRIALS = 3


@pytest.mark.slow
@pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed (Debian's package: postgresql)")
def test_eight_sweeps_that_record_at_once_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    with (
        postgres_server() as database,
        mlflow_server(tmp_path / "mlflow", free_port(), backend=database) as address,
    ):
        # The experiment is not there yet: all of them want to make it.
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.writer", address, str(number), str(TRIALS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            )
            for number in range(WRITERS)
        ]
        try:
            for process in processes:
                assert process.stdout is not None and process.stdin is not None
                assert process.stdout.readline() == "ready\n", process.communicate()
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            for process in processes:
                said, errors = process.communicate(timeout=600)
                assert process.returncode == 0, said + errors
        finally:
            for process in processes:
                process.kill()
        with psycopg.connect(database.replace("+psycopg", "")) as connection:
            check(connection)
    for number in range(WRITERS):
        files = [path for path in (tmp_path / "mlflow" / "files").rglob("*") if path.is_file()]
        weights = [path for path in files if path.read_bytes() == f"weights of {number}".encode()]
        assert len(weights) == TRIALS


def check(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Compare every row of the database with what was recorded."""

    def rows(query: str) -> list[tuple[object, ...]]:
        return connection.execute(query).fetchall()  # type: ignore[call-overload, no-any-return]

    assert rows("select count(*) from experiments where name = 'easrec'") == [(1,)]
    runs = rows(
        "select r.run_uuid, r.status, k.value, t.value, w.value from runs r "
        "join tags k on k.run_uuid = r.run_uuid and k.key = 'easrec.kind' "
        "join tags w on w.run_uuid = r.run_uuid and w.key = 'writer' "
        "left join tags t on t.run_uuid = r.run_uuid and t.key = 'easrec.trial_id'"
    )
    assert rows("select count(*) from runs") == [(WRITERS * (TRIALS + 1),)]
    assert {status for _, status, *_ in runs} == {"FINISHED"}
    assert Counter(kind for _, _, kind, *_ in runs) == {"sweep": WRITERS, "trial": WRITERS * TRIALS}
    by_trial = {trial: run for run, _, _, trial, _ in runs if trial is not None}
    assert len(by_trial) == WRITERS * TRIALS
    by_writer = {number: run for run, _, kind, _, number in runs if kind == "sweep"}
    for number in range(WRITERS):
        for trial in range(TRIALS):
            wanted = writer.record(number, trial, Path())
            run = by_trial[wanted.trial_id]
            params = rows(f"select key, value from params where run_uuid = '{run}'")
            assert sorted(params) == sorted((name, str(value)) for name, value in wanted.params.items())  # type: ignore[type-var]
            points = {
                (name, value, 2000, 0) for name, value in {**wanted.metrics, **writer.MEASURED}.items()
            } | {("search/loss", value, at_ms, step) for step, at_ms, value in wanted.curves["search/loss"]}
            metrics = rows(
                f"select key, value, timestamp, step from metrics where run_uuid = '{run}' "
                "and key <> 'flops_log10'"
            )
            assert len(metrics) == len(points) and set(metrics) == points
            tags = dict(rows(f"select key, value from tags where run_uuid = '{run}'"))  # type: ignore[arg-type]
            assert tags["mlflow.parentRunId"] == by_writer[str(number)]
            assert (tags["writer"], tags["seed"]) == (str(number), str(number))
            assert tags["easrec.sweep_id"] == f"sweep-{number}"
