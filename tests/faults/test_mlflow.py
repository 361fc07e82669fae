"""An MLflow store that does not take records: results are on disk, and come in when it does."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from tests.faults.sweep_process import (
    as_user_without_privileges,
    assert_recorded_once,
    assert_same_results,
    command_to_go_on,
    finished,
    mlflow_runs,
    running,
    sweep_words,
)


@contextlib.contextmanager
def locked(database: Path) -> Iterator[sqlite3.Connection]:
    """A database that somebody else is writing to."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("begin immediate")
        yield other


def test_a_store_that_is_locked_is_asked_again_until_it_takes_the_results(
    trained: Path, undisturbed: Path, options: list[str]
) -> None:
    with (
        running(sweep_words(options, trained, resume=True), trained) as sweep,
        locked(trained / "mlflow.db") as other,
    ):
        sweep.until(
            lambda: "MLflow did not take the results" in sweep.said() or None, "word of the locked store"
        )
        said = sweep.said()
        assert "locked" in said and "trying again in 2 s" in said
        assert (trained / "results.parquet").exists(), "results are on disk before MLflow has them"
        assert mlflow_runs(trained) == []
        other.execute("rollback")
        status, said, errors = sweep.end()
    assert status == 0, said + errors
    assert "Traceback" not in said + errors
    assert_same_results(trained, undisturbed)
    assert_recorded_once(trained)


def test_what_a_read_only_store_did_not_take_comes_in_by_the_command_that_is_printed(
    trained: Path, undisturbed: Path, options: list[str]
) -> None:
    database = trained / "mlflow.db"
    database.chmod(0o444)
    said = finished(as_user_without_privileges(sweep_words(options, trained, resume=True)), trained, status=1)
    assert "readonly database" in said
    assert "what is finished is in" in said
    assert_same_results(trained, undisturbed)
    assert mlflow_runs(trained) == []
    database.chmod(0o644)
    finished(command_to_go_on(said), trained)
    assert_recorded_once(trained)
