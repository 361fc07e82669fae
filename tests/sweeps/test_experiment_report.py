"""A report of an experiment says what its runs hold, and nothing as certain that they do not tell apart."""

import dataclasses
import io
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from rich.console import Console

from easrec.errors import InputError
from easrec.models.architecture import Architecture
from sweeps.confidence import Confidence
from sweeps.configurations import ConfigurationRecord
from sweeps.experiment_report import run_report
from sweeps.findings import find
from sweeps.kept_ranks import RecordedFiles, kept_gains, ranked_again
from sweeps.mlflow_store import create_store
from sweeps.page import report_page
from sweeps.recorded import Recorded, read_experiment
from sweeps.report_config import ReportConfig
from sweeps.results import FailedTrial, TrialRecord
from sweeps.tracking import SweepRecorder
from sweeps.user_ranks import RANKS, write_ranks
from tests.sweeps.finished_sweep import FinishedSweep

VALID = "valid/unseen/ndcg_at_10"
SCRIPT = Path(__file__).parents[2] / "pipelines" / "pareto_report.py"


def report(**options: Any) -> tuple[int, str]:
    """The exit status and what was printed."""
    console = Console(file=io.StringIO(), width=200)
    status = run_report(ReportConfig(**options), console=console)
    assert isinstance(console.file, io.StringIO)
    return status, console.file.getvalue()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database for all tests; each records into an experiment of its own."""
    return create_store(tmp_path_factory.mktemp("store"))


@dataclasses.dataclass
class Experiment:
    """An experiment that a test fills by hand."""

    store: str
    name: str
    folder: Path
    num_trials: int = 0

    def sweep(self, name: str = "by hand") -> SweepRecorder:
        return SweepRecorder(self.store, uuid.uuid4().hex, start_ms=500, experiment=self.name, run_name=name)

    def trial(
        self,
        recorder: SweepRecorder,
        tradeoff: float,
        hidden_size: int,
        accuracy: float,
        *,
        seed: int = 0,
        ranks: "np.ndarray | None" = None,
        params: "dict[str, Any] | None" = None,
        tags: "dict[str, str] | None" = None,
        latency_ms: "float | None" = None,
    ) -> str:
        """Record a trial and return the id of its run."""
        self.num_trials += 1
        architecture = Architecture(hidden_size, 4 * hidden_size, 1, 4)
        metrics = {VALID: accuracy, "test/unseen/ndcg_at_10": accuracy - 0.01, "flops": 1e4 * hidden_size}
        artifacts = {}
        if latency_ms is not None:
            metrics["latency_ms_p50"] = latency_ms
        if ranks is not None:
            table = pd.DataFrame({"split": "valid", "user": range(len(ranks)), "unseen": ranks})
            artifacts[RANKS] = self.folder / f"{uuid.uuid4().hex}.parquet"
            write_ranks(table, artifacts[RANKS])
        return recorder.record_trial(
            TrialRecord(
                trial_id=uuid.uuid4().hex[:16],
                tradeoff=tradeoff,
                seed=seed,
                architecture=architecture,
                params={
                    "tradeoff": tradeoff,
                    "seed": seed,
                    "search.max_length": 50,
                    "transfer_from": "warm",
                    "retrain.max_epochs": 100,
                    "architecture_id": architecture.architecture_id,
                    **{f"architecture.{key}": value for key, value in architecture.to_dict().items()},
                    **(params or {}),
                },
                metrics=metrics,
                curves={"retrain/loss": [(1, 1000, 3.0), (2, 1001, 2.0)]},
                tags={"data": "ml-100k", "data_checksum": "abc", **(tags or {})},
                artifacts=artifacts,
                start_ms=1000 + self.num_trials,
                end_ms=2000 + self.num_trials,
            )
        )

    def read(self, **options: Any) -> Recorded:
        return read_experiment(MlflowClient(self.store), self.name, **options)


@pytest.fixture
def experiment(store: str, tmp_path: Path) -> Experiment:
    return Experiment(store, uuid.uuid4().hex, tmp_path)


@pytest.fixture
def client(sweep: FinishedSweep) -> MlflowClient:
    return MlflowClient(sweep.tracking_uri)


@pytest.fixture
def files(client: MlflowClient, tmp_path: Path) -> Iterator[RecordedFiles]:
    yield RecordedFiles(client, tmp_path)


def test_trials_are_read_back_as_they_were_recorded(sweep: FinishedSweep, client: MlflowClient) -> None:
    recorded = read_experiment(client, "easrec")
    stored = pd.read_parquet(sweep.directory / "results.parquet")
    stored = stored[stored["status"] == "finished"]
    trial_ids = {
        run_id: client.get_run(run_id).data.tags["easrec.trial_id"] for run_id in recorded.frame["trial_id"]
    }
    frame = recorded.frame.assign(trial_id=recorded.frame["trial_id"].map(trial_ids)).set_index("trial_id")
    stored = stored.set_index("trial_id").loc[frame.index]
    for name in stored.columns.drop(["pareto", "pareto_latency", "status", "error"]):
        assert frame[name].tolist() == stored[name].tolist(), name
    assert recorded.num_failed == 1 and recorded.num_unfinished == 0
    assert recorded.accuracy == VALID and recorded.max_length == 10
    assert [found.run_id for found in recorded.sweeps] == [sweep.run_id]
    assert not recorded.ways and not recorded.notes


def test_ranks_that_were_kept_are_those_that_the_networks_give(
    sweep: FinishedSweep, client: MlflowClient, files: RecordedFiles
) -> None:
    recorded = read_experiment(client, "easrec")
    kept = kept_gains(recorded, files)
    assert set(kept) == set(recorded.frame["trial_id"])
    for output in (sweep.directory, None):  # its directory, or its run's artifacts
        again = ranked_again(client, recorded, {}, files, output=output, log=None, say=lambda text: None)
        assert set(again) == set(kept)
        for name, gains in kept.items():
            assert gains.same_questions(again[name])
            assert gains.earned.tolist() == again[name].earned.tolist()
    some = {name: kept[name] for name in list(kept)[:1]}
    rest = ranked_again(client, recorded, some, files, output=None, log=None, say=lambda text: None)
    assert not set(rest) & set(some)


def test_ranks_of_other_weights_are_refused(
    sweep: FinishedSweep, client: MlflowClient, files: RecordedFiles
) -> None:
    recorded = read_experiment(client, "easrec")
    recorded.frame[VALID] += 0.1
    with pytest.raises(InputError, match=r"its weights are not the recorded ones; leave out --rank-again"):
        ranked_again(client, recorded, {}, files, output=None, log=None, say=lambda text: None)


def test_the_page_says_what_the_table_holds_and_needs_no_network(
    sweep: FinishedSweep, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    status, printed = report(output=sweep.directory, max_flops=1e12, to=page)
    text = page.read_text(encoding="utf-8")
    assert status == 0 and f"page: {page}" in printed
    assert re.findall(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?http""", text) == []
    table = pd.read_parquet(sweep.directory / "configurations.parquet").set_index("architecture_id")
    best = table[VALID].idxmax()
    assert f"the best network known is {int(table.loc[best, 'num_layers'])} x" in printed and best in printed
    for name, row in table.iterrows():
        assert f"<td>{row[VALID]:.4f}</td>" in text, name
        assert f"<td>{row['flops'] / 1e6:.2f}</td>" in text, name
    frame = pd.read_parquet(sweep.directory / "results.parquet")
    best_row = frame[frame["architecture_id"] == best].sort_values(VALID).iloc[-1]
    (run_id,) = re.findall(r"Its run: (\w+)", printed)
    tags = MlflowClient(sweep.tracking_uri).get_run(run_id).data.tags
    assert tags["architecture_id"] == best and int(tags["seed"]) == best_row["seed"]
    assert "1 trial failed" in printed


def test_equal_runs_give_the_same_page(sweep: FinishedSweep, tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        report(tracking_uri=sweep.tracking_uri, to=tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_budget_that_nothing_keeps_is_exit_status_1(sweep: FinishedSweep, tmp_path: Path) -> None:
    status, printed = report(output=sweep.directory, max_latency_ms=1e-6, to=tmp_path / "page.html")
    assert status == 1 and "No network known takes at most 1e-06 ms" in printed
    assert "No network known takes" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_server_has_links_to_its_runs(experiment: Experiment) -> None:
    recorder = experiment.sweep()
    run_id = experiment.trial(recorder, 0.1, 16, 0.1)
    found = find(experiment.read(), {}, None)
    page = report_page(found, title="a & b", where=lambda name: f"http://host/#/runs/{name}")
    assert f'<a href="http://host/#/runs/{run_id}"><code>{run_id}</code></a>' in page
    assert "<h1>a &amp; b</h1>" in page


def test_failed_and_unfinished_trials_are_counted_and_nowhere_else(experiment: Experiment) -> None:
    recorder = experiment.sweep()
    good = experiment.trial(recorder, 0.1, 16, 0.1)
    stopped = experiment.trial(recorder, 0.2, 32, 0.9)
    client = MlflowClient(experiment.store)
    client.set_terminated(stopped, "KILLED")
    recorder.record_failure(
        FailedTrial(trial_id="f" * 16, tradeoff=1.0, seed=0, params={}, error="NaN", start_ms=1, end_ms=2)
    )
    why = "after epoch 4 of its retraining"
    halved = FailedTrial(
        trial_id="e" * 16, tradeoff=2.0, seed=0, params={}, error=why, start_ms=1, end_ms=2, status="stopped"
    )
    run = client.get_run(recorder.record_failure(halved))
    assert (run.info.status, run.data.tags["easrec.stopped"]) == ("KILLED", why)
    recorded = experiment.read()
    assert recorded.frame["trial_id"].tolist() == [good]
    assert (recorded.num_failed, recorded.num_unfinished, recorded.num_stopped) == (1, 1, 1)
    assert "retrain/loss" not in recorded.frame


def test_runs_of_configurations_do_not_count_as_trials(experiment: Experiment) -> None:
    recorder = experiment.sweep()
    experiment.trial(recorder, 0.1, 16, 0.1)
    before = experiment.read()
    recorder.record_configuration(
        ConfigurationRecord(
            architecture_id="h16",
            name="means",
            params={"tradeoff": 0.1},
            metrics={VALID: 0.5, "flops": 1.0},
            tags={},
            start_ms=1,
            end_ms=2,
        )
    )
    pd.testing.assert_frame_equal(experiment.read().frame, before.frame)


def test_trials_on_other_data_are_refused_until_one_is_named(experiment: Experiment) -> None:
    recorder = experiment.sweep("first")
    experiment.trial(recorder, 0.1, 16, 0.1)
    other = experiment.sweep("second")
    experiment.trial(other, 0.1, 16, 0.3, tags={"data": "ml-1m", "data_checksum": "xyz"})
    with pytest.raises(InputError, match=r"1 trial on ml-100k .* 1 trial on ml-1m .* name a data set by"):
        experiment.read()
    assert experiment.read(dataset="ml-1m").frame[VALID].tolist() == [0.3]
    assert experiment.read(sweeps=("first",)).frame[VALID].tolist() == [0.1]
    with pytest.raises(
        InputError, match=r"--dataset x: the experiment .* has finished trials on ml-100k, ml-1m"
    ):
        experiment.read(dataset="x")
    with pytest.raises(InputError, match="has no sweep 'third'; its sweeps are first, second"):
        experiment.read(sweeps=("third",))
    experiment.trial(other, 0.2, 16, 0.3, params={"search.max_length": 10})
    with pytest.raises(InputError, match="N = 10"):
        experiment.read(dataset="ml-100k")


def test_networks_trained_in_other_ways_are_not_averaged(experiment: Experiment) -> None:
    recorder = experiment.sweep()
    experiment.trial(recorder, 0.1, 16, 0.1)
    experiment.trial(recorder, 0.1, 16, 0.2, seed=1, params={"retrain.max_epochs": 5})
    recorded = experiment.read()
    assert sorted(recorded.frame["architecture_id"].str[-7:]) == ["(way 1)", "(way 2)"]
    assert recorded.ways == ["retrain.max_epochs 100", "retrain.max_epochs 5"]
    page = report_page(find(recorded, {}, None), title="t", where=lambda name: "")
    assert "retrain.max_epochs 5" in page


def test_latencies_of_another_machine_are_left_out_and_it_says_so(experiment: Experiment) -> None:
    recorder = experiment.sweep()
    for seed in range(2):
        experiment.trial(
            recorder, 0.1, 16, 0.1 + seed, seed=seed, latency_ms=1.0, tags={"measured.host": "a"}
        )
    experiment.trial(recorder, 0.2, 32, 0.3, latency_ms=0.1, tags={"measured.host": "b"})
    recorded = experiment.read()
    assert recorded.frame["latency_ms_p50"].isna().tolist() == [False, False, True]
    assert "Latency and memory of 1 trial were measured elsewhere than on a" in recorded.notes[0]


def test_a_front_that_the_data_do_not_show_is_called_so(experiment: Experiment) -> None:
    generator = np.random.default_rng(0)
    recorder = experiment.sweep()
    for hidden_size in (16, 32, 64):
        ranks = generator.geometric(0.1, 300)
        if hidden_size == 64:
            ranks = np.ones(300, dtype=int)  # better for every user
        value = float(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0).mean())
        # 32 is a little better than 16 by its mean alone.
        shift = 0.0005 * hidden_size if hidden_size < 64 else 0.0
        experiment.trial(recorder, 1 / hidden_size, hidden_size, value + shift, ranks=ranks)
    recorded = experiment.read()
    client = MlflowClient(experiment.store)
    gains = kept_gains(recorded, RecordedFiles(client, experiment.folder))
    findings = find(recorded, gains, None)
    front = findings.fronts["accuracy and FLOPs"]
    standings = findings.confidence.standings("flops")
    assert [standings[name].decided for name in front if name.startswith("h64")] == [True]
    assert findings.undecided == [name for name in front if name.startswith("h32")]
    page = report_page(findings, title="t", where=lambda name: "")
    if findings.undecided:
        assert "do not tell apart from the cheaper neighbour: 1 x 32/128." in page


def test_lambdas_are_compared_by_what_they_derived(experiment: Experiment) -> None:
    recorder = experiment.sweep()
    for seed in range(3):
        experiment.trial(recorder, 0.0, 64, 0.12 + seed / 1000, seed=seed)
        experiment.trial(recorder, 0.1, 64, 0.12 + seed / 1000, seed=seed)
        experiment.trial(recorder, 1.0, 16 if seed else 64, 0.10 + seed / 1000, seed=seed)
    zero, tenth, one = find(experiment.read(), {}, None).lambdas
    assert (zero.against_first, zero.flops, zero.spread.mean) == (None, 64e4, pytest.approx(0.121))
    assert tenth.against_first is not None and not tenth.against_first.separated
    assert one.against_first is not None and one.against_first.separated
    assert (one.flops_low, one.flops_high, one.flops) == (16e4, 64e4, pytest.approx(32e4))
    assert sorted(one.architectures.values()) == [1, 2]
    assert one.spread.method == "seeds"


def test_many_lambdas_are_points(experiment: Experiment) -> None:
    recorder = experiment.sweep()
    for step in range(21):
        experiment.trial(recorder, 0.01 * (step + 1), 16, 0.1 + step / 1000, seed=step)
    findings = find(experiment.read(), {}, None)
    assert findings.lambdas == []
    assert "21 values of λ, each trial a point." in report_page(findings, title="t", where=lambda name: "")


def test_one_trial_makes_a_page_that_claims_nothing(experiment: Experiment) -> None:
    experiment.trial(experiment.sweep(), 0.1, 16, 0.1)
    page = report_page(find(experiment.read(), {}, None), title="t", where=lambda name: "")
    for sentence in (
        "All trials had one λ, so nothing can be said of what it does.",
        "No latency was measured, so there are two objectives.",
        "of 1 seed and without an interval",
        "All trials had the same settings, so no setting can explain anything.",
        "All trials achieved the same, so there is no area to speak of.",
    ):
        assert sentence in page, sentence


def test_the_intervals_are_those_of_the_table(sweep: FinishedSweep, client: MlflowClient, files: Any) -> None:
    recorded = read_experiment(client, "easrec")
    confidence = Confidence(recorded.frame, kept_gains(recorded, files))
    table = pd.read_parquet(sweep.directory / "configurations.parquet").set_index("architecture_id")
    for name, row in table.iterrows():
        spread = confidence.spread(str(name))
        assert (spread.low, spread.high) == pytest.approx((row[f"{VALID}_low"], row[f"{VALID}_high"]))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--max-flops", "0"], "--max-flops must be above 0, got 0"),
        (["--max-latency-ms", "nan"], "--max-latency-ms must be above 0, got nan"),
        ([], "name the MLflow store by --tracking-uri or MLFLOW_TRACKING_URI, or a sweep by --output"),
        (["--output", "{tmp}"], "holds no sweep: sweep.json is missing"),
        (
            ["--tracking-uri", "sqlite:////nowhere/mlflow.db"],
            "there is no MLflow database /nowhere/mlflow.db",
        ),
        (["--tracking-uri", "file:///x"], "is no address of an MLflow store"),
        (["--data", "x.csv", "--tracking-uri", "http://x"], "--data goes with --rank-again"),
        (["--to", "{tmp}", "--tracking-uri", "http://x"], "is a directory; name the page to write"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], sentence: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *(word.format(tmp=tmp_path) for word in words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"},
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("pareto_report.py: ") and sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_experiment_that_is_missing_or_empty_is_said_in_one_sentence(
    sweep: FinishedSweep, experiment: Experiment
) -> None:
    with pytest.raises(InputError, match=r"there is no experiment 'x' at sqlite.*; there are .*easrec"):
        report(tracking_uri=sweep.tracking_uri, experiment="x")
    with pytest.raises(InputError, match="holds no sweep of easrec"):
        report(tracking_uri=sweep.tracking_uri, experiment="Default")
    experiment.sweep()
    with pytest.raises(InputError, match=r"no trial of the experiment .* has finished"):
        report(tracking_uri=experiment.store, experiment=experiment.name)


def test_help_imports_none_of_the_slow_libraries() -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{str(SCRIPT)!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'ray', 'mlflow', 'pandas', 'plotly') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_page_that_cannot_be_written_leaves_nothing(sweep: FinishedSweep, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        report(output=sweep.directory, to=tmp_path / "file" / "page.html")
