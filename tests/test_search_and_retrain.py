"""One search on the command line: every stage runs, and a second call repeats none of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from easrec.data.interactions import load_interactions
from easrec.data.splits import temporal_split
from easrec.evaluation.protocols import evaluate
from easrec.files import read_json
from easrec.models.architecture import Architecture
from easrec.models.saving import load_network

SCRIPT = Path(__file__).parent.parent / "pipelines" / "search_and_retrain.py"
TRAIN = SCRIPT.with_name("train_network.py")


def run(*words: object, script: Path = SCRIPT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200", "TERM": "dumb", "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.slow
def test_one_search_gives_a_network_and_its_figures_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    rows = [f"u{user},i{(user * 7 + step * step) % 50},{step}" for user in range(40) for step in range(12)]
    log.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    words = [
        "--data", log, "--output", tmp_path / "one",
        "--space.hidden-size", 16, "--space.inner-size", 32, "--space.num-layers", 2,
        "--space.pairing", "product", "--space.weights", "shared",
        "--search.max-length", 10, "--search.warmup-epochs", 1, "--search.search-epochs", 1,
        "--search.controller-data", "train_split", "--retrain.max-epochs", 1,
        "--init", "transfer", "--transfer-from", "searched",
    ]  # fmt: skip
    done = run(*words)
    assert done.returncode == 0, done.stderr
    for stage in ("warmup 1/1", "search 1/1", "retrain 1/1", "derived h"):
        assert stage in done.stdout
    saved = read_json(tmp_path / "one" / "figures.json")
    network = load_network(tmp_path / "one" / "network")
    assert network.architecture == Architecture.from_dict(saved["architecture"])
    assert saved["figures"]["params"] == sum(parameter.numel() for parameter in network.parameters())
    assert 0 <= saved["figures"]["test/full/ndcg_at_10"] <= 1
    again = run(*words)
    assert again.returncode == 0, again.stderr
    assert "1/1" not in again.stdout, "no epoch is trained twice"


@pytest.mark.slow
def test_a_temporal_split_of_raw_files_is_searched_and_trained_alone(tmp_path: Path) -> None:
    raw = tmp_path / "checkins.txt"
    rows = [
        f"{user}\t2010-10-{1 + step:02}T{user % 24:02}:00:00Z\t1\t1\t{(user * 7 + step * step) % 23}"
        for user in range(40)
        for step in range(12)
    ]
    raw.write_text("\n".join(rows) + "\n")
    data = ["--dataset", "gowalla", "--data", raw, "--split", "temporal", "--valid-share", 0.2]
    log = temporal_split(load_interactions("gowalla", raw=raw), valid_share=0.2)
    described = (
        f"gowalla: {log.num_users} users, {log.num_items} items, {len(log.items)} interactions\n"
        f"split at the times {log.statistics['valid_from']} and {log.statistics['test_from']}: "
        f"{len(log.valid.rows)} validation and {len(log.test.rows)} test questions"
    )
    sizes = ["--space.hidden-size", 16, "--space.inner-size", 32, "--space.num-layers", 2]
    epochs = ["--search.warmup-epochs", 1, "--search.search-epochs", 1, "--retrain.max-epochs", 1]
    done = run(*data, *sizes, *epochs, "--search.max-length", 10, "--output", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(described)
    sizes = ["--hidden-size", 16, "--inner-size", 32, "--num-layers", 1, "--max-length", 10]
    done = run(*data, *sizes, "--epochs", 1, "--output", tmp_path / "two", script=TRAIN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(described)
    network = load_network(tmp_path / "two" / "seed0" / "network")
    figures = evaluate(network.scores, log, "test", max_length=10)
    saved = read_json(tmp_path / "two" / "seed0" / "metrics.json")
    assert {name: saved[f"test/{name}"] for name in figures} == pytest.approx(figures)


def test_a_mistake_is_told_and_ends_with_status_2(tmp_path: Path) -> None:
    done = run("--output", tmp_path / "one", "--data", "nowhere.csv")
    assert (done.returncode, done.stderr) == (
        2,
        "search_and_retrain.py: nowhere.csv: there is no such file; check the path\n",
    )
    done = run("--output", tmp_path / "one", "--search.tradeoff", -1)
    assert done.returncode == 2
    assert "tradeoff must be a finite number of at least 0, got -1.0" in done.stderr
    assert not (tmp_path / "one").exists()


def small_log(tmp_path: Path) -> Path:
    log = tmp_path / "log.csv"
    rows = [f"u{user},i{(user * 7 + step * step) % 50},{step}" for user in range(40) for step in range(12)]
    log.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    return log


SEARCH_WORDS = ("--space.hidden-size", "16", "--space.inner-size", "32", "--search.max-length", "10")
TRAIN_WORDS = ("--hidden-size", "16", "--inner-size", "32", "--num-layers", "1", "--max-length", "10")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words", "sentence"),
    [
        (
            SCRIPT,
            (*SEARCH_WORDS, "--search.tradeoff", "1e39", "--search.warmup-epochs", "1"),
            "search_and_retrain.py: the loss is inf in step 2 of search epoch 1; the likely cause is "
            "tradeoff=1e+39, which is too high: lower it\n",
        ),
        (
            TRAIN,
            (*TRAIN_WORDS, "--learning-rate", "1e30"),
            "train_network.py: seed 0: scores are NaN or infinite after step 1 of retrain epoch 1; the "
            "likely cause is a learning rate that is too high (1e+30): lower it\n",
        ),
    ],
)
def test_a_loss_that_is_not_finite_is_told_and_ends_with_status_1(
    tmp_path: Path, script: Path, words: tuple[str, ...], sentence: str
) -> None:
    done = run("--data", small_log(tmp_path), "--output", tmp_path / "one", *words, script=script)
    assert done.returncode == 1, done.stderr
    warning, said = done.stderr.splitlines(keepends=True)
    assert "an epoch has only" in warning and said == sentence


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process allocates")
@pytest.mark.parametrize(
    ("script", "words", "what"),
    [
        (SCRIPT, (*SEARCH_WORDS[2:], "--space.hidden-size", "40000"), "the search, or the training of"),
        (TRAIN, (*TRAIN_WORDS[2:], "--hidden-size", "40000"), "seed 0: out of memory in the training"),
    ],
)
def test_memory_that_runs_out_is_told_and_ends_with_status_1(
    tmp_path: Path, script: Path, words: tuple[str, ...], what: str
) -> None:
    # One matrix of such a layer takes 6.4 GB.
    limited = [
        "import resource, runpy, sys",
        "resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))",
        "sys.argv = sys.argv[1:]",
        "runpy.run_path(sys.argv[0], run_name='__main__')",
    ]
    program = tmp_path / "limited.py"
    program.write_text("\n".join(limited))
    done = run(script, "--data", small_log(tmp_path), "--output", tmp_path / "one", *words, script=program)
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1 and what in done.stderr, done.stderr
    assert "40000 hidden dimensions" in done.stderr and "a machine with more memory" in done.stderr
