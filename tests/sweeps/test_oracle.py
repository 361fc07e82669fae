"""The oracle from end to end, beside a sweep of the same space."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from sweeps.command_line import parse
from sweeps.oracle_config import ELSEWHERE, OracleConfig
from sweeps.oracle_tables import COST, SUPERNET

ROOT = Path(__file__).parents[2]
SPACE = [
    "--preset", "smoke", "--hidden-size", "16", "--inner-size", "32", "--max-length", "10",
    "--hidden-intensities", "0", "0.5", "--inner-intensities", "0", "0.5",
    "--search-epochs", "2", "--retrain-epochs", "2", "--seeds", "2",
]  # fmt: skip


def run(pipeline: str, *words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "pipelines" / pipeline), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("oracle") / "log.csv"
    data = synthetic_interactions(80, 40, 10, seed=0)
    pd.DataFrame({"user_id": data.users, "item_id": data.items, "timestamp": range(len(data.items))}).to_csv(
        path, index=False
    )
    return path


@pytest.mark.slow
def test_the_oracle_knows_what_a_sweep_found_and_all_else(log: Path) -> None:
    sweep, oracle = log.parent / "sweep", log.parent / "oracle"
    done = run("lambda_sweep.py", "--data", log, *SPACE, "--tradeoffs", "0", "100", "--output", sweep)
    assert done.returncode == 0, done.stderr
    words = ["--data", log, *SPACE, "--output", oracle, "--sweeps", sweep]
    done = run("oracle.py", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    found = pd.read_parquet(oracle / "oracle.parquet")
    trials = pd.read_parquet(sweep / "results.parquet")
    assert len(found) == 2 * 2 * 2  # candidates, depths, seeds
    # What the sweep retrained, the oracle retrained to the same digits, and for the same FLOPs.
    both = trials.merge(found, on=["architecture_id", "seed"], suffixes=("", "_oracle"))
    assert len(both) == len(trials) == 4
    for name in ("valid/unseen/ndcg_at_10", "test/full/recall_at_10", COST):
        assert (both[name] == both[f"{name}_oracle"]).all()
    # Scores of untrained weights differ from those after retraining.
    assert (found[SUPERNET] != found["valid/unseen/ndcg_at_10"]).all()
    report = json.loads((oracle / "oracle.json").read_text())
    assert set(report["front"]) == set(found.loc[found["pareto"], "architecture_id"])
    (judged,) = report["sweeps"].values()
    for seed, own in trials.groupby("seed"):
        (entry,) = [one for one in judged["seeds"] if one["seed"] == seed]
        assert set(entry["architectures"]) == set(own["architecture_id"])
        assert entry["search_flops"] == own["search_flops"].sum()
    assert (oracle / "oracle.png").stat().st_size > 10_000
    assert "Kendall's tau" in done.stdout

    before = (oracle / "store").stat().st_mtime_ns, sorted((oracle / "store").rglob("result.json"))
    again = run("oracle.py", *words, "--resume")
    assert again.returncode == 0, again.stderr
    assert "8 of 8 are known already" in again.stdout
    assert before[1] == sorted((oracle / "store").rglob("result.json"))
    pd.testing.assert_frame_equal(found, pd.read_parquet(oracle / "oracle.parquet"))

    wider = [*SPACE, "--hidden-size", "32", "--output", oracle.parent / "wider"]
    other = run("oracle.py", "--data", log, *wider, "--sweeps", sweep)
    assert other.returncode == 2
    assert "which is not in the space; give the oracle the options of that sweep" in other.stderr
    assert not (oracle.parent / "wider").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, "--draws must be at least 1, got 0"),
        ({"sweeps": (Path("nowhere"),)}, "--sweeps nowhere is not the directory of a finished sweep"),
        ({"seeds": 0}, "--seeds must be at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OracleConfig(**settings).check()  # type: ignore[arg-type]


@pytest.mark.parametrize("option", sorted(ELSEWHERE))
def test_options_of_a_sweep_that_would_change_nothing_are_told_apart(option: str) -> None:
    words = [option] if option in ("--plan", "--independent") else [option, "1"]
    with pytest.raises(InputError, match=f"{option} is an option of lambda_sweep.py"):
        parse(OracleConfig, "oracle.py", words, elsewhere=ELSEWHERE)


def test_sweeps_to_be_judged_may_change_when_an_oracle_is_resumed() -> None:
    plain, judging = OracleConfig(), OracleConfig(sweeps=(Path("a"),), draws=5)
    assert plain.result_settings() == judging.result_settings()
