"""The program on a Ray cluster of two nodes: where trials run, what they see, and what a lost node costs."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from easrec.data.synthetic import synthetic_interactions
from sweeps.records import MEASURED
from tests.cluster.two_nodes import TwoNodes, two_nodes

pytestmark = pytest.mark.slow

HEAD = ("--num-cpus=2", "--num-gpus=1")
OTHER = ("--num-cpus=4", "--num-gpus=2", '--resources={"latency": 1}')
TRADEOFFS = (0.0, 0.001, 0.1, 100.0)
EPOCHS = 100
"""Of a search: more than pass while processes start one after the other on a busy machine."""
_TIMED = ("_s", *MEASURED, "pareto_latency")
"""Endings of the columns that hold what a stopwatch or a measurement of memory says."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "log.parquet"
    interactions = synthetic_interactions(150, 60, 12, seed=0)
    columns = {"user_id": "users", "item_id": "items", "timestamp": "timestamps"}
    pd.DataFrame({name: getattr(interactions, of) for name, of in columns.items()}).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with two_nodes(HEAD, OTHER) as nodes:
        yield nodes


def options(log: Path, output: Path) -> list[object]:
    """Of a sweep whose searches do not end before their last epoch."""
    return [
        "--data", log, "--output", output, "--preset", "smoke", "--tradeoffs", *TRADEOFFS, "--device", "cpu",
        "--hidden-size", 16, "--inner-size", 32, "--max-length", 10, "--search-epochs", EPOCHS,
        "--stable-epochs", EPOCHS, "--retrain-epochs", 2, "--search-weights", "train",
    ]  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """A sweep that nothing disturbed."""

    output: Path
    said: str
    tasks: list[tuple[str, str, float, float]]
    """What ran, on which node, from when until when."""

    def ran(self, name: str) -> list[tuple[str, float, float]]:
        return [tuple(task[1:]) for task in self.tasks if task[0].endswith(name)]  # type: ignore[misc]


@pytest.fixture(scope="module")
def undisturbed(cluster: TwoNodes, log: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    output = tmp_path_factory.mktemp("sweeps") / "undisturbed"
    process = cluster.sweep(*options(log, output), "--measure-on", "cpu")
    said, errors = process.communicate(timeout=600)
    assert (process.returncode, errors) == (0, ""), said + errors
    time.sleep(2)  # workers tell of their tasks every second
    return Finished(output, said, cluster.run("timeline"))


def test_trials_run_on_both_nodes(undisturbed: Finished, cluster: TwoNodes) -> None:
    # Each reports to Ray once, at its end, and then returns: only the first call of a trial takes long.
    trials = [node for node, start_s, end_s in undisturbed.ran("train") if end_s - start_s > 0.2]
    assert len(trials) == len(TRADEOFFS)
    assert set(trials) == {cluster.head.address, cluster.other.address}
    assert f"{len(TRADEOFFS)} trials, 6 at once" in undisturbed.said


def test_latency_is_measured_on_the_node_kept_for_it_while_no_trial_runs(
    undisturbed: Finished, cluster: TwoNodes
) -> None:
    frame = pd.read_parquet(undisturbed.output / "results.parquet")
    measured = undisturbed.ran(".measure")
    assert len(measured) == frame["architecture_id"].nunique()
    assert {node for node, _, _ in measured} == {cluster.other.address}
    for _, start_s, end_s in measured:
        assert not [task for task in undisturbed.ran("train") if task[1] < end_s and start_s < task[2]]
    assert f"on cpu of {cluster.other.address}, one at a time" in undisturbed.said
    assert frame["latency_ms_p50"].gt(0).all()


def test_half_a_gpu_each_puts_two_trials_on_one_gpu_which_is_all_they_see(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    found = cluster.run("scheduling", tmp_path, 0.5)
    assert (found["slots"], found["ended"], found["crashed"]) == (6, 12, {})
    for trial in found["trials"]:
        assert trial["visible"] in ("0", "1"), "one GPU by its number"
        assert trial["share"] == 0.45
    at_once = [trial for trial in found["trials"] if trial["start_s"] < _moment(found["trials"])]
    assert Counter((trial["node"], trial["visible"]) for trial in at_once) == {
        (cluster.head.address, "0"): 2,
        (cluster.other.address, "0"): 2,
        (cluster.other.address, "1"): 2,
    }
    # The data came to each node once, for twelve trials in six processes.
    assert len({trial["process"] for trial in found["trials"]}) == 6
    assert {trial["checksum"] for trial in found["trials"]} == {found["checksum"]}
    assert set(found["held_bytes"]) == {cluster.head.address, cluster.other.address}
    for held in found["held_bytes"].values():
        assert 0.9 * found["data_bytes"] < held < 1.5 * found["data_bytes"]


def test_a_gpu_each_is_seen_by_one_trial_at_a_time(cluster: TwoNodes, tmp_path: Path) -> None:
    found = cluster.run("scheduling", tmp_path, 1.0)
    assert (found["slots"], found["ended"], found["crashed"]) == (3, 6, {})
    by_gpu: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for trial in found["trials"]:
        assert trial["visible"] in ("0", "1") and trial["share"] is None
        by_gpu.setdefault((trial["node"], trial["visible"]), []).append((trial["start_s"], trial["end_s"]))
    assert len(by_gpu) == 3
    for times in by_gpu.values():
        ends = [0.0, *(end_s for _, end_s in sorted(times))]
        assert all(start_s >= end_s for (start_s, _), end_s in zip(sorted(times), ends, strict=False))
    # They did use all three at once.
    assert sum(trial["start_s"] < _moment(found["trials"]) for trial in found["trials"]) == 3


def _moment(trials: list[dict[str, Any]]) -> float:
    """When the first trial ended: all of the first round had begun, and none of the second."""
    return float(min(trial["end_s"] for trial in trials))


def test_more_than_a_node_has_is_refused_in_one_sentence(
    cluster: TwoNodes, log: Path, tmp_path: Path
) -> None:
    output = tmp_path / "sweep"
    process = cluster.sweep(*options(log, output), "--cpus-per-trial", 5)  # both together have six
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors == (
        "lambda_sweep.py: --cpus-per-trial 5 is more than the 4 CPUs that Ray has on a node; ask for fewer\n"
    )
    assert not output.exists() and "Traceback" not in said


@dataclass(frozen=True)
class Place:
    """Where a sweep keeps its results, and how to look there."""

    words: list[object]
    entries: Path

    def checkpoints(self) -> dict[str, dict[str, Any]]:
        """Search -> the report of its last epoch whose checkpoint is kept, while it has no result."""
        found = {}
        for pattern in ("*/progress.json", "*/checkpoint.json"):
            for path in (self.entries / "search").glob(pattern):
                report = json.loads(path.read_text())
                found[path.parent.name] = report.get("report", report)
        return {key: report for key, report in found.items() if self.result(key) is None}

    def result(self, key: str) -> dict[str, Any] | None:
        for path in (self.entries / "search" / key / "result.json", self.entries / "search" / f"{key}.json"):
            if path.exists():
                result: dict[str, Any] = json.loads(path.read_text())
                return result
        return None


@pytest.mark.faults
@pytest.mark.parametrize("kept_in", ["output", "storage"])
def test_a_node_that_dies_costs_nothing_that_was_computed(
    kept_in: str, undisturbed: Finished, log: Path, tmp_path: Path
) -> None:
    output, storage = tmp_path / "sweep", tmp_path / "storage"
    place = Place([], output / "store") if kept_in == "output" else Place(["--storage", storage], storage)
    with two_nodes(HEAD, ("--num-cpus=4",)) as cluster:
        process = cluster.sweep(*options(log, output), *place.words, EASREC_CACHE_DIR=str(cluster.head.cache))
        try:
            deadline_s = time.monotonic() + 900
            while True:
                assert process.poll() is None and time.monotonic() < deadline_s, process.communicate()
                before = place.checkpoints()
                running = [report["epoch"] for report in before.values()]
                # All but one: the last may still be starting.
                if len(running) >= len(TRADEOFFS) - 1 and min(running) >= 2 and cluster.other.trials():
                    break
                time.sleep(0.02)
            lost = len(cluster.other.trials())
            cluster.other.kill()
            killed_ms = time.time() * 1000
            said, errors = process.communicate(timeout=900)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, said + errors
    assert 0 < lost < len(TRADEOFFS), "some trials ran on each node"
    assert same(output, undisturbed.output)
    again = re.findall(
        r"^lambda (\S+), seed 0 broke off; it is started again from its last checkpoint$", errors, re.M
    )
    assert len(again) == lost == len(set(again)) == len(errors.splitlines()), errors

    # What was searched before is part of the result, to the digit: it was not searched again.
    for key, report in before.items():
        result = place.result(key)
        assert result is not None
        epochs = result["value"]["epochs"]
        assert [epoch["epoch"] for epoch in epochs] == list(range(1, EPOCHS + 1))
        assert epochs[report["epoch"] - 1] == report, "with the time at which it ended"
        assert result["start_ms"] < killed_ms < epochs[-1]["timestamp_ms"]
    if kept_in == "storage":
        # The driver keeps no results of trials, and the nodes share nothing but the storage.
        assert not (output / "store").exists()
        assert {path.name for path in storage.iterdir()} == {"warm", "search", "retrain", "measure"}
        assert not list(storage.rglob("checkpoint*"))


def same(output: Path, other: Path) -> bool:
    """Whether two tables of results agree in every digit of what is not timed."""
    first, second = (_untimed(pd.read_parquet(each / "results.parquet")) for each in (output, other))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    return True


def _untimed(frame: pd.DataFrame) -> pd.DataFrame:
    kept = [name for name in frame.columns if not name.endswith(_TIMED)]
    assert {"architecture_id", "valid/unseen/ndcg_at_10", "test/full/ndcg_at_10", "flops"} <= set(kept)
    return frame[kept]
