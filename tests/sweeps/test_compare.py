"""Comparisons and ablations from end to end, on a tiny log with features."""

import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from easrec.data.synthetic import synthetic_interactions
from sweeps.compare_config import LABELS

ROOT = Path(__file__).parents[2]
SPACE = [
    "--preset", "smoke", "--hidden-size", "16", "--inner-size", "16", "--max-length", "10",
    "--hidden-intensities", "0", "0.5", "--inner-intensities", "0", "0.5",
    "--search-epochs", "1", "--retrain-epochs", "1", "--seeds", "2", "--timings", "2",
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
    path = tmp_path_factory.mktemp("compare") / "log.csv"
    data = synthetic_interactions(60, 30, 9, seed=0)
    pd.DataFrame({"user_id": data.users, "item_id": data.items, "timestamp": range(len(data.items))}).to_csv(
        path, index=False
    )
    genres = pd.DataFrame({"item_id": range(1, 31), "genres": [[f"g{item % 4}"] for item in range(30)]})
    genres.to_parquet(path.with_name("items.parquet"))
    return path


@pytest.mark.slow
def test_a_comparison_of_all_methods_with_its_files_its_runs_and_its_resumption(log: Path) -> None:
    output = log.parent / "comparison"
    words = ["--data", log, *SPACE, "--features", log.with_name("items.parquet"), "--output", output]
    done = run("compare.py", *words, "--methods", "easrec", "darts", "sasrec", "fdsa", "random")
    assert done.returncode == 0, done.stdout + done.stderr
    trials = pd.read_parquet(output / "comparison.parquet")
    assert len(trials) == 5 * 2
    summary = pd.read_csv(output / "comparison.csv").set_index("method")
    assert list(summary["num_seeds"]) == [2] * 5
    for name in ("test/pop100/ndcg_at_10", "inference_s", "flops", "total_s", "test/coverage_at_10"):
        assert summary[name].notna().all(), name
    own = trials[trials["method"] == "fdsa"]["test/unseen/ndcg_at_10"]
    assert summary["test/unseen/ndcg_at_10"]["fdsa"] == pytest.approx(own.mean())
    differences = pd.read_csv(output / "differences.csv")
    assert set(differences["method"]) == {"darts", "sasrec", "fdsa", "random"}
    assert set(differences["table"]) == {"unseen", "full", "pop100", "costs"}
    timings = pd.read_parquet(output / "timings.parquet")
    assert len(timings) == 5 * 2 * 2
    for name in ("comparison.md", "comparison.tex"):
        text = (output / name).read_text()
        assert all(LABELS[method] in text for method in summary.index)
    assert (output / "comparison.png").stat().st_size > 10_000

    client = mlflow.MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    kinds = {
        kind: client.search_runs([experiment.experiment_id], f"tags.`easrec.kind` = '{kind}'")
        for kind in ("comparison", "contestant", "method", "trial")
    }
    assert [len(kinds[kind]) for kind in kinds] == [1, 10, 5, 0]
    assert {one.info.status for runs in kinds.values() for one in runs} == {"FINISHED"}
    assert {one.info.run_name for one in kinds["contestant"]} >= {"EASRec, seed 1", "DARTS + SASRec, seed 0"}
    fdsa = next(one for one in kinds["method"] if one.data.tags["method"] == "fdsa")
    assert fdsa.data.metrics["test/unseen/ndcg_at_10"] == pytest.approx(own.mean())
    assert "EASRec" in kinds["comparison"][0].data.tags["mlflow.note.content"]

    # Another method later: the rest is not trained again.
    before = {path: path.stat().st_mtime_ns for path in (output / "store").rglob("result.json")}
    again = run("compare.py", *words, "--methods", "easrec", "sasrec", "sasrec-linrec", "--resume")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "4 of 6 are known already; they are not repeated" in again.stdout
    after = {path: path.stat().st_mtime_ns for path in (output / "store").rglob("result.json")}
    assert before.items() <= after.items()
    new = pd.read_parquet(output / "comparison.parquet")
    assert set(new["method"]) == {"easrec", "sasrec", "sasrec-linrec"}
    both = trials.merge(new, on=["method", "seed"], suffixes=("", "_again"))
    assert (both["test/unseen/ndcg_at_10"] == both["test/unseen/ndcg_at_10_again"]).all()

    other = run("compare.py", *words, "--tradeoff", "1", "--resume")
    assert other.returncode == 2
    assert "--tradeoff was 0.1 and is now 1.0" in other.stderr


@pytest.mark.slow
def test_ablations_have_a_table_for_each_setting(log: Path) -> None:
    output = log.parent / "ablation"
    words = ["--data", log, *SPACE, "--output", output, "--groups", "gates", "key-norm"]
    done = run("ablate.py", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = pd.read_parquet(output / "comparison.parquet")
    # The preset is run once, though it is part of both groups.
    assert trials.groupby("method").size().to_dict() == {
        "default": 2, "gates-1": 2, "gates-0": 2, "key-norm-row": 2,
    }  # fmt: skip
    flops = trials.groupby("method")["params"].max()
    assert flops["gates-0"] < flops["gates-1"]
    text = (output / "comparison.md").read_text()
    assert "### layers of the gates: accuracy (unseen)" in text
    assert "### norm of the keys: accuracy (unseen)" in text
    assert "gates of 2 layers (the preset)" in text


def test_a_log_without_features_is_compared_without_those_who_read_them_if_the_user_says_so(
    log: Path, tmp_path: Path
) -> None:
    words = ["--data", log, *SPACE, "--output", tmp_path / "none"]
    done = run("compare.py", *words)
    assert done.returncode == 2
    assert "names no format of items" in done.stderr
    assert "leave the two out by --without-features" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_features_of_another_name_are_refused(log: Path, tmp_path: Path) -> None:
    features = ["--features", log.with_name("items.parquet"), "--feature-names", "colours"]
    done = run("compare.py", "--data", log, *SPACE, "--output", tmp_path / "none", *features)
    assert done.returncode == 2
    assert "items have no feature 'colours'; they have genres" in done.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_the_papers_figures_stand_beside_those_of_a_data_set_that_it_has(tmp_path: Path) -> None:
    data = synthetic_interactions(60, 30, 9, seed=0)
    raw = tmp_path / "ml-1m"
    raw.mkdir()
    rows = [
        f"{user + 1}::{item}::5::{at}"
        for at, (user, item) in enumerate(zip(data.users, data.items, strict=True))
    ]
    (raw / "ratings.dat").write_text("\n".join(rows) + "\n", encoding="latin-1")
    movies = [f"{item}::Film {item} (1999)::{'Drama' if item % 2 else 'Comedy|War'}" for item in range(1, 31)]
    (raw / "movies.dat").write_text("\n".join(movies) + "\n", encoding="latin-1")
    output = tmp_path / "beside"
    words = [
        "--dataset",
        "ml-1m",
        "--data",
        raw,
        *SPACE,
        "--seeds",
        "1",
        "--timings",
        "1",
        "--output",
        output,
    ]
    done = run("compare.py", *words, "--methods", "sasrec", "fdsa", "--beside-paper")
    assert done.returncode == 0, done.stdout + done.stderr
    text = (output / "comparison.md").read_text()
    assert "### beside the paper's Table III (ML-1M), ours / paper" in text
    assert "/ 0.4447" in text and "/ 92.8" in text  # FDSA's NDCG@10 and seconds there
    assert "Ours: 60 users and 30 items" in text
    assert "a deviation needs two or more" in done.stdout
