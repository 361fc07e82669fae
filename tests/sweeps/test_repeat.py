"""One recorded trial again: the same digits, or a list of those that differ."""

import dataclasses
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from rich.console import Console

import sweeps.cluster  # noqa: F401  before ray
from easrec.errors import InputError
from sweeps.config import SweepConfig
from sweeps.plan import preset_of
from sweeps.recorded_trial import differences, preset_from
from sweeps.records import MEASURED, flatten
from sweeps.repeat import run_repeat
from sweeps.sweep import run_sweep
from tests.sweeps.finished_sweep import FinishedSweep
from tests.sweeps.test_sweep import calls as calls
from tests.sweeps.test_sweep import config_of, run

pytestmark = pytest.mark.usefixtures("calls")
SCRIPT = Path(__file__).parents[2] / "pipelines" / "lambda_sweep.py"
ALONE = SCRIPT.with_name("search_and_retrain.py")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The directory of a finished sweep of two trials."""
    config = config_of(tmp_path)
    assert run(config)[0] == 0
    assert config.output is not None
    return config.output


def repeat(output: Path, run_id: str, **options: Any) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=200)
    config = SweepConfig(
        from_run=run_id,
        tracking_uri=f"sqlite:///{output}/mlflow.db",
        **({"output": output.parent / "again"} | options),
    )
    status = run_repeat(config, console=console)
    assert isinstance(console.file, io.StringIO)
    return status, console.file.getvalue()


def run_of(output: Path, kind: str = "trial", tradeoff: str = "100.0") -> str:
    client = MlflowClient(f"sqlite:///{output}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "easrec"]
    runs = client.search_runs([experiment.experiment_id], f"tags.`easrec.kind` = '{kind}'")
    return next(
        found.info.run_id for found in runs if kind != "trial" or found.data.params["tradeoff"] == tradeoff
    )


def test_a_trial_run_again_has_the_recorded_digits_and_stands_beside_them(finished: Path) -> None:
    run_id = run_of(finished)
    status, printed = repeat(finished, run_id)
    assert status == 0, printed
    assert f"equal to run {run_id} in every digit of all " in printed
    client = MlflowClient(f"sqlite:///{finished}/mlflow.db")
    recorded = client.get_run(run_id)
    runs = client.search_runs(
        [recorded.info.experiment_id], f"tags.`easrec.trial_id` = '{recorded.data.tags['easrec.trial_id']}'"
    )
    assert len(runs) == 2
    again = next(found for found in runs if found.info.run_id != run_id)
    assert again.data.params == recorded.data.params
    settings = json.loads((finished.parent / "again" / "sweep.json").read_text())["settings"]
    assert settings["--tradeoffs"] == [100.0] and settings["--seeds"] == 1


def test_a_figure_that_differs_is_named_with_both_values(finished: Path) -> None:
    run_id = run_of(finished)
    with sqlite3.connect(finished / "mlflow.db") as database:
        for table in ("metrics", "latest_metrics"):
            database.execute(
                f"update {table} set value = 0.5 where run_uuid = ? and key = 'test/full/ndcg_at_10'",
                (run_id,),
            )
    status, printed = repeat(finished, run_id)
    assert status == 1
    assert f"differ from run {run_id}:" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("  test/full/ndcg_at_10")]
    assert "recorded 0.5, now 0." in line
    assert "program and settings are the same" in printed


def test_what_is_timed_does_not_count() -> None:
    recorded = {"test/full/ndcg_at_10": 0.1, "search_s": 3.0, "latency_ms_p50": 1.0, "search/loss": 2.0}
    assert differences(recorded, {"test/full/ndcg_at_10": 0.1, "search_s": 4.0}) == []
    (lost,) = differences(recorded, {})
    assert lost.name == "test/full/ndcg_at_10" and lost.again != lost.again
    assert differences(dict.fromkeys(MEASURED, 1.0), dict.fromkeys(MEASURED, 2.0)) == []


def test_settings_come_from_the_run_whatever_the_preset_means_today(tmp_path: Path) -> None:
    preset = preset_of(config_of(tmp_path, temperature_kind="cosine", resource="params"))
    params = {
        **flatten(
            {
                "space": preset.space.to_dict(),
                "search": dataclasses.replace(preset.search, seed=7, tradeoff=0.3).to_dict(),
                "retrain": preset.retrain.to_dict(),
            }
        ),
        "transfer_from": "searched",
        "tradeoff": 0.3,
        "profile.repeats": 11,
    }
    found = preset_from(params, like=preset_of(config_of(tmp_path)), where="run x")
    assert (found.space, found.retrain) == (preset.space, preset.retrain)
    assert found.search == dataclasses.replace(preset.search, seed=7, tradeoff=0.3)
    assert (found.transfer_from, found.tradeoffs, found.latency_repeats) == ("searched", (0.3,), 11)


def test_settings_that_this_version_does_not_have_are_refused(tmp_path: Path) -> None:
    preset = preset_of(config_of(tmp_path))
    params: dict[str, Any] = {
        **flatten({"space": preset.space.to_dict(), "retrain": preset.retrain.to_dict()}),
        **flatten({"search": preset.search.to_dict()}),
        "transfer_from": "warm",
        "tradeoff": 0.1,
    }
    with pytest.raises(InputError, match="the settings of run x do not fit this version of easrec"):
        preset_from(params | {"search.of_tomorrow": 1}, like=preset, where="run x")
    del params["search.negligible_weight"]
    with pytest.raises(InputError, match=r"run x has search\.negligible_weight None, which this version"):
        preset_from(params, like=preset, where="run x")


def test_only_the_run_of_a_finished_trial_can_be_repeated(finished: Path) -> None:
    with pytest.raises(InputError, match="is the run of a whole sweep; name that of one of its trials"):
        repeat(finished, run_of(finished, "sweep"))
    with pytest.raises(InputError, match=r"--from-run x: .*; take an id from the MLflow UI"):
        repeat(finished, "x")


def test_a_run_of_means_says_that_it_is_none_of_a_trial(tmp_path: Path) -> None:
    config = config_of(tmp_path, seeds=2)
    assert run_sweep(config) == 0
    assert config.output is not None
    with pytest.raises(
        InputError, match="holds the means of several trials; name one of those by --from-run"
    ):
        repeat(config.output, run_of(config.output, "configuration"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--tradeoffs", "0.1"], "--tradeoffs has no place beside --from-run"),
        (["--retrain-epochs", "3"], "--retrain-epochs has no place beside --from-run"),
        ([], "--from-run needs the MLflow store that has the run"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], sentence: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--from-run", "x", *words],
        capture_output=True,
        text=True,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"},
    )
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_program_without_ray_makes_the_same_digits(sweep: FinishedSweep, tmp_path: Path) -> None:
    client = MlflowClient(sweep.tracking_uri)
    (experiment_id,) = {client.get_run(sweep.run_id).info.experiment_id}
    record = sweep.records[-1]
    (found,) = client.search_runs([experiment_id], f"tags.`easrec.trial_id` = '{record.trial_id}'")
    words = ["--from-run", found.info.run_id, "--tracking-uri", sweep.tracking_uri, "--output", str(tmp_path)]

    def program(*more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, str(ALONE), *words, *more], capture_output=True, text=True, check=False
        )

    done = program()
    assert done.returncode == 0, done.stderr + done.stdout
    (number,) = re.findall(r"in every digit of all (\d+) computed figures", done.stdout)
    # Every metric of both splits under every protocol, FLOPs, parameters and the best epoch.
    assert int(number) == 2 * 4 * 3 + 3
    refused = program("--search.seed", "5")
    assert refused.returncode == 2 and "--search has no place beside --from-run" in refused.stderr
