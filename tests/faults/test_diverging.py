"""A loss that is not finite: its trial fails once and says why, and the others do not mind."""

import contextlib
import sqlite3
from pathlib import Path

import pandas as pd

from sweeps.store import ATTEMPTS, RESULT
from tests.faults.sweep_process import (
    assert_nothing_half_written,
    assert_recorded_once,
    entries,
    finished,
    read,
    smoke_options,
    sweep_words,
)

TOO_MUCH = 1e39
"""A lambda that no 32-bit number can hold."""


def test_a_trial_whose_loss_overflows_fails_once_and_the_sweep_goes_on(log: Path, tmp_path: Path) -> None:
    output = tmp_path / "sweep"
    said = finished(sweep_words(smoke_options(log, tradeoffs=(0.1, TOO_MUCH)), output), output, status=1)
    sentence = (
        "the loss is inf in step 2 of search epoch 1; the likely cause is tradeoff=1e+39, which is too high: "
        "lower it"
    )
    assert f"lambda 1e+39, seed 0 failed: {sentence}" in said
    assert "broke off" not in said

    (failed,) = (entry for entry in entries(output, "search") if read(entry / RESULT)["error"] is not None)
    first_ms, latest_ms = read(failed / ATTEMPTS)
    assert first_ms == latest_ms, "it would fail again, so it is not tried again"
    frame = pd.read_parquet(output / "results.parquet").set_index("tradeoff")
    assert frame["status"].to_dict() == {0.1: "finished", TOO_MUCH: "failed"}
    assert frame.loc[TOO_MUCH, "error"] == sentence
    assert frame["pareto"].to_dict() == {0.1: True, TOO_MUCH: False}
    assert frame["pareto_latency"].to_dict() == {0.1: True, TOO_MUCH: False}
    assert_recorded_once(output)
    with contextlib.closing(sqlite3.connect(output / "mlflow.db")) as database:
        tags = database.execute("select value from tags where key = 'easrec.error'").fetchall()
    assert tags == [(sentence,)]
    assert_nothing_half_written(output)
