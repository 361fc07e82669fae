"""Exports from a directory and from MLflow alone, other sizes, interruptions, mistakes; parity of all."""

import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from rich.console import Console

from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from easrec.evaluation.profile import Profile
from easrec.evaluation.protocols import evaluate
from easrec.models.architecture import Architecture
from easrec.models.saving import load_network
from easrec.retrain import RetrainConfig, retrain
from easrec.serving import Recommender, load_bundle, save_bundle
from easrec.training import EpochReport
from sweeps import export as export_module
from sweeps import resize
from sweeps import source as source_module
from sweeps import trial as trial_module
from sweeps.addresses import TRACKING_VARIABLE
from sweeps.config import SweepConfig
from sweeps.data import SweepData, load_data
from sweeps.export import run_export
from sweeps.export_config import ExportConfig
from sweeps.output import note_tracking_uri
from sweeps.plan import preset_of
from sweeps.records import MEASURED
from sweeps.registry import content_digest, save_pyfunc
from sweeps.source import SweepDirectory, SweepFacts, SweepRun
from sweeps.store import Entry, Store, code_version
from tests.sweeps.finished_sweep import FinishedSweep, finish_sweep
from tests.sweeps.mlflow_server import free_port, mlflow_server

pytestmark = [
    # MLflow's own: when mlflow.pyfunc is imported, and where it meets pandas 3.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
]

SCRIPT = Path(__file__).parents[2] / "pipelines" / "export.py"
ACCURACY = "valid/unseen/ndcg_at_10"


def export(**options: Any) -> str:
    """Run an export and return what it printed."""
    console = Console(file=io.StringIO(), width=200)
    assert run_export(ExportConfig(**options), console=console) == 0
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency and memory as if measured: doing so takes seconds in processes of its own."""
    profile = Profile(
        latency_ms_p50=1.5,
        latency_ms_p95=2.5,
        served_ms_p50=0.5,
        served_ms_p95=0.75,
        served_history_ms_p50=0.625,
        update_ms_p50=0.25,
        inference_s=1.0,
        peak_memory_mib=3.0,
        train_peak_memory_mib=4.0,
        threads=1,
        device="cpu",
    )
    monkeypatch.setattr(resize, "profile_network", lambda *args, **options: profile)


@pytest.fixture(scope="module")
def best(sweep: FinishedSweep) -> Any:
    """The record that `--pick best` should name."""
    by_id: dict[str, list[Any]] = {}
    for record in sweep.records:
        by_id.setdefault(record.architecture.architecture_id, []).append(record)
    means = {name: np.mean([r.metrics[ACCURACY] for r in records]) for name, records in by_id.items()}
    return max(by_id[max(means, key=lambda name: means[name])], key=lambda r: r.metrics[ACCURACY])


def test_a_directory_and_its_runs_in_mlflow_give_the_same_bundle(
    sweep: FinishedSweep, best: Any, tmp_path: Path
) -> None:
    printed = export(output=sweep.directory, pick="best", to=tmp_path / "a")
    assert f"{best.architecture.architecture_id}, seed {best.seed}: the most accurate of" in printed
    assert "registered as version 1 of easrec-first-sweep-log" in printed
    from_run = export(run=sweep.run_id, tracking_uri=sweep.tracking_uri, pick="best", to=tmp_path / "b")
    assert "has the content of version 1 of easrec-first-sweep-log" in from_run
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == files
    bundle = load_bundle(tmp_path / "a")
    assert bundle.model.architecture == best.architecture
    # Weights are those of the trial's run.
    weights = load_network(best.artifacts["network.json"].parent).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in bundle.model.state_dict().items())
    assert list(bundle.items.own_ids) == list(SweepDirectory(sweep.directory).items.own_ids)
    assert set(json.loads(files["signature.json"])) == {"inputs", "outputs", "params"}
    assert b"MovieLens" not in files["README.md"] and b"no terms are recorded" in files["README.md"]


def test_a_sweep_whose_results_lie_in_a_storage_is_exported_from_there(
    tmp_path: Path, unmeasured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EASREC_CACHE_DIR", str(tmp_path / "cache"))
    storage = tmp_path / "storage"
    storage.mkdir()
    options: dict[str, Any] = {"seeds": 1, "retrain_epochs": 1}
    kept = finish_sweep(tmp_path / "kept", **options)
    stored = finish_sweep(tmp_path / "stored", storage=str(storage), **options)
    assert not (stored.directory / "store").exists()
    shutil.rmtree(tmp_path / "cache")
    size = another_size(kept).architecture_id
    for name, words in (("picked", {"pick": "best"}), ("retrained", {"architecture": size})):
        folders = [tmp_path / name / place for place in ("kept", "stored")]
        for sweep, folder in zip((kept, stored), folders, strict=True):
            export(output=sweep.directory, to=folder, no_register=True, **words)
        weights = [load_bundle(folder).model.state_dict() for folder in folders]
        assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert "has been retrained before" in export(
        output=stored.directory, to=tmp_path / "again", no_register=True, architecture=size
    )
    shutil.rmtree(storage)
    with pytest.raises(InputError, match=r"--storage .* cannot be used .*; check the directory"):
        export(output=stored.directory, to=tmp_path / "gone", no_register=True, pick="best")


def test_a_sweep_recorded_on_a_server_is_exported_and_registered_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with mlflow_server(tmp_path / "server", free_port()) as address:
        sweep = finish_sweep(tmp_path / "sweep", seeds=1, retrain_epochs=1, tracking_uri=address)
        printed = export(output=sweep.directory, to=tmp_path / "bundle")
        assert "registered as version 1 of easrec-sweep-log" in printed
        assert f"MLFLOW_TRACKING_URI={address} " in printed
        (version,) = mlflow.MlflowClient(address).search_model_versions("name = 'easrec-sweep-log'")
        assert version.version in ("1", 1)
        # The server asks for no password, and takes one.
        whole, hidden = (address.replace("//", f"//ann:{secret}@") for secret in ("s3cret", "***"))
        again = export(output=sweep.directory, to=tmp_path / "again", tracking_uri=whole)
        assert "has the content of version 1 of easrec-sweep-log" in again
        assert "to serve it, with what *** hides put in, at http" in again
        assert f"MLFLOW_TRACKING_URI='{hidden}' " in again
    said = [again]
    assert not (sweep.directory / "mlflow.db").exists()
    with pytest.raises(InputError, match=f"no MLflow answers at {address} "):
        export(output=sweep.directory, to=tmp_path / "bundle", overwrite=True)

    # It is gone only after it has been asked whether it is there.
    monkeypatch.setattr(export_module, "_check_reachable", lambda client, uri: None)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for options, sentence in (
        (
            {"output": sweep.directory},
            f"MLflow at {hidden} did not take the export (API request to {hidden}/",
        ),
        ({"run": sweep.run_id}, f"--run {sweep.run_id}: API request to {hidden}/"),
    ):
        with pytest.raises(InputError, match=re.escape(sentence)) as caught:
            export(tracking_uri=whole, to=tmp_path / "third", overwrite=True, **options)
        said.append(str(caught.value))
    captured = capfd.readouterr()
    assert "s3cret" not in "".join([*said, captured.out, captured.err, caplog.text])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"server.db", "MLmodel", "signature.json"} <= {path.name for path in files}
    assert [path for path in files if b"s3cret" in path.read_bytes()] == []


def test_the_command_to_go_on_with_hides_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--output", "a sweep", "--tracking-uri=http://ann:s3cret@mlflow:5000", "--pick", "best"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    hidden = [word.replace("s3cret", "***") for word in words]
    assert shlex.split(ExportConfig.command()) == [sys.executable, str(SCRIPT), *hidden]


def test_the_password_of_a_sweeps_store_comes_from_the_environment(
    sweep: FinishedSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "postgresql+psycopg://ann:s3cret@127.0.0.1:1/mlflow"
    directory = tmp_path / "sweep"
    shutil.copytree(sweep.directory, directory)
    note_tracking_uri(directory, address)
    assert not [path for path in directory.rglob("*.json") if "s3cret" in path.read_text()]
    monkeypatch.delenv(TRACKING_VARIABLE, raising=False)
    hidden = "postgresql\\+psycopg://ann:\\*\\*\\*@127.0.0.1:1/mlflow"
    with pytest.raises(InputError, match=f"the password of the MLflow store {hidden} is kept nowhere"):
        ExportConfig(output=directory).store_uri()
    monkeypatch.setenv(TRACKING_VARIABLE, address)
    assert ExportConfig(output=directory).store_uri() == address
    # That of another store is none of this sweep's.
    monkeypatch.setenv(TRACKING_VARIABLE, address.replace("ann", "bob"))
    with pytest.raises(InputError, match="is kept nowhere"):
        ExportConfig(output=directory).store_uri()
    note_tracking_uri(directory, None)
    assert ExportConfig(output=directory).store_uri() is None


def test_the_run_of_a_trial_names_its_network(sweep: FinishedSweep, best: Any, tmp_path: Path) -> None:
    client = mlflow.MlflowClient(sweep.tracking_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    other = next(record for record in sweep.records if record is not best)
    (run,) = client.search_runs(experiments, f"tags.`easrec.trial_id` = '{other.trial_id}'")
    named = {"run": run.info.run_id, "tracking_uri": sweep.tracking_uri}
    printed = export(**named, to=tmp_path / "a", no_register=True)
    assert "registered" not in printed
    assert load_bundle(tmp_path / "a").manifest.architecture_id == other.architecture.architecture_id
    assert f"seed {other.seed}" in printed
    with pytest.raises(InputError, match="the run of one trial, so there is nothing to --pick"):
        export(**named, pick="best", to=tmp_path / "b")
    (failed,) = client.search_runs(experiments, "tags.`easrec.error` != ''")
    with pytest.raises(InputError, match="has no network: the loss became NaN"):
        export(run=failed.info.run_id, tracking_uri=sweep.tracking_uri, to=tmp_path / "b")


def open_parent(sweep: FinishedSweep, scratch: Path) -> SweepRun:
    client = mlflow.MlflowClient(sweep.tracking_uri)
    return SweepRun(client, client.get_run(sweep.run_id), scratch)


@pytest.mark.usefixtures("unmeasured")
def test_a_network_retrained_from_mlflow_alone_is_the_one_that_the_sweep_trained(
    sweep: FinishedSweep, tmp_path: Path
) -> None:
    source = open_parent(sweep, tmp_path / "scratch")
    store = Store(tmp_path / "store")
    threads: list[int] = []
    assert {record.seed for record in sweep.records[:2]} == {0, 1}
    for record in sweep.records[:2]:
        torch.set_num_threads(2)
        again = resize.resize(
            source,
            record.architecture,
            record.seed,
            store,
            lambda line: threads.append(torch.get_num_threads()),
        )
        assert torch.get_num_threads() == 2
        assert threads[0] == source.facts.config.cpus_per_trial == 1
        costs = {f"{stage}_{unit}" for stage in ("warmup", "search", "retrain") for unit in ("s", "flops")}
        shared = record.metrics.keys() - {*costs, *MEASURED}
        assert {name: again.metrics[name] for name in shared} == {
            name: record.metrics[name] for name in shared
        }


@pytest.mark.usefixtures("unmeasured")
def test_another_version_retrains_on_its_own_account(sweep: FinishedSweep, tmp_path: Path) -> None:
    source = open_parent(sweep, tmp_path / "scratch")
    facts = json.loads(source.file("sweep.json").read_text())
    facts["settings"]["program"] = "0.0.9"
    source.file("sweep.json").write_text(json.dumps(facts))
    lines: list[str] = []
    record = sweep.records[0]
    again = resize.resize(source, record.architecture, record.seed, Store(tmp_path / "store"), lines.append)
    assert again.program == f"0.0.9, retrained by {code_version()}"
    assert lines[0].startswith("the sweep was made by easrec 0.0.9")
    assert again.metrics[ACCURACY] == record.metrics[ACCURACY]
    same = resize.resize(
        open_parent(sweep, tmp_path / "other scratch"),
        record.architecture,
        record.seed,
        Store(tmp_path / "store"),
        lines.append,
    )
    assert same.program == code_version()
    assert same.key != again.key


@pytest.mark.usefixtures("unmeasured")
def test_a_version_that_only_measures_otherwise_trains_the_same(sweep: FinishedSweep, tmp_path: Path) -> None:
    source = open_parent(sweep, tmp_path / "scratch")
    facts = json.loads(source.file("sweep.json").read_text())
    before = re.sub(r"\.[0-9a-f]{8}-torch", ".01234567-torch", code_version())
    assert before != code_version()
    facts["settings"]["program"] = before
    source.file("sweep.json").write_text(json.dumps(facts))
    lines: list[str] = []
    record = sweep.records[0]
    again = resize.resize(source, record.architecture, record.seed, Store(tmp_path / "store"), lines.append)
    assert again.program == code_version()
    assert not any("the sweep was made by" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset in full": "0" * 16}, "the preset 'smoke' has changed since the sweep was made"),
        ({"program": "0.0.9"}, "mean something else in this version of easrec; use 0.0.9, or name .* --run"),
        ({"--new-option": 3}, "has an option --new-option that this version of easrec does not know"),
        ({"data checksum": "0" * 64}, "is not what the sweep in .* was trained on .*, not 000000000000"),
    ],
)
def test_the_sweep_of_another_version_is_refused(
    sweep: FinishedSweep, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    copy = Path(shutil.copytree(sweep.directory, tmp_path / "copy"))
    facts = json.loads((copy / "sweep.json").read_text())
    facts["settings"] |= change
    (copy / "sweep.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=message):
        export(output=copy, no_register=True)
    del facts["licence"]
    (copy / "sweep.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"does not say what its sweep is|does not know"):
        export(output=copy, no_register=True)


def test_a_sweep_that_has_not_finished_says_how_to_go_on(sweep: FinishedSweep, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sweep.directory, tmp_path / "copy"))
    (copy / "results.parquet").unlink()
    with pytest.raises(InputError, match=r"has no results\.parquet: .* lambda_sweep\.py --resume"):
        export(output=copy, no_register=True)


def test_a_network_that_the_sweep_trained_is_named_by_its_size(sweep: FinishedSweep, tmp_path: Path) -> None:
    by_id: dict[str, dict[int, float]] = {}
    for record in sweep.records:
        by_id.setdefault(record.architecture.architecture_id, {})[record.seed] = record.metrics[ACCURACY]
    name, seeds = next((name, seeds) for name, seeds in by_id.items() if len(seeds) == 2)
    best, worst = sorted(seeds, key=lambda seed: -seeds[seed])
    named = {"output": sweep.directory, "architecture": name, "no_register": True}
    assert f"seed {best}: named by its architecture" in export(**named, to=tmp_path / "best")
    assert f"seed {worst}: named by its architecture" in export(**named, seed=worst, to=tmp_path / "worst")
    assert content_digest(tmp_path / "best") != content_digest(tmp_path / "worst")


def another_size(sweep: FinishedSweep) -> Architecture:
    """An architecture of the sweep's space that none of its trials derived."""
    space = preset_of(SweepDirectory(sweep.directory).facts.config).space
    derived = {record.architecture for record in sweep.records}
    return next(
        architecture
        for candidate in range(len(space))
        for architecture in [space.architecture(candidate, 2), space.architecture(candidate, 1)]
        if architecture not in derived
    )


@pytest.mark.usefixtures("unmeasured")
def test_another_size_is_retrained_once_and_gets_a_run_below_the_sweep(
    sweep: FinishedSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TRACKING_VARIABLE, sweep.tracking_uri)
    architecture = another_size(sweep)
    text = f"{architecture.num_layers}x{architecture.hidden_size}/{architecture.inner_size}"
    printed = export(run=sweep.run_id, architecture=text, seed=1, name="resized")
    assert re.search(r"epoch 2/2: loss \d.*ndcg_at_10 0\.\d+; at most 0 s left", printed)
    folder = tmp_path / "runs" / "exports" / sweep.run_id / f"{architecture.architecture_id}-seed1"
    assert load_bundle(folder).model.architecture == architecture
    again = export(run=sweep.run_id, architecture=architecture.architecture_id, seed=1, name="resized")
    assert "has been retrained before" in again
    assert "epoch 2/2" not in again
    assert "has the content of version 1 of resized" in again
    client = mlflow.MlflowClient(sweep.tracking_uri)
    version = client.get_model_version("resized", "1")
    run = client.get_run(version.run_id)
    assert run.data.tags["mlflow.parentRunId"] == sweep.run_id
    assert run.data.tags["architecture_id"] == architecture.architecture_id
    assert run.data.metrics["latency_ms_p50"] == 1.5
    card = (folder / "README.md").read_text()
    assert f"| {run.data.metrics['flops']:,.0f} |" in card
    assert f"{run.data.metrics['test/unseen/ndcg_at_10']:.4f} (" in card
    assert "No search of the sweep derived it" in card


@pytest.mark.usefixtures("unmeasured")
def test_an_interrupted_retraining_goes_on_where_it_was(
    sweep: FinishedSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = another_size(sweep)
    options = {"architecture": architecture.architecture_id, "seed": 0, "no_register": True}
    copies = [Path(shutil.copytree(sweep.directory, tmp_path / name)) for name in ("whole", "stopped")]
    export(output=copies[0], **options)
    recording: Callable[[Entry], Callable[[EpochReport], None]] = trial_module.recording

    def interrupting(entry: Entry) -> Callable[[EpochReport], None]:
        record = recording(entry)

        def interrupt(report: EpochReport) -> None:
            record(report)
            raise KeyboardInterrupt

        return interrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(trial_module, "recording", interrupting)
        export(output=copies[1], **options)
    assert not (copies[1] / "export").exists()
    epochs: list[int] = []

    def counting(entry: Entry) -> Callable[[EpochReport], None]:
        record = recording(entry)

        def count(report: EpochReport) -> None:
            epochs.append(report.epoch)
            record(report)

        return count

    monkeypatch.setattr(trial_module, "recording", counting)
    export(output=copies[1], **options)
    assert epochs == [2]
    name = f"{architecture.architecture_id}-seed0"
    digests = [content_digest(copy / "export" / name) for copy in copies]
    assert digests[0] == digests[1]


def test_ctrl_c_says_how_to_go_on(
    sweep: FinishedSweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("export_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def interrupt(config: ExportConfig) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("sweeps.export.run_export", interrupt)
    words = ["--output", str(sweep.directory), "--architecture", "1x8/16"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    assert script.main() == 130
    said = capsys.readouterr().err
    assert shlex.split(said.split("go on with:\n")[1]) == [sys.executable, str(SCRIPT), *words]


def test_a_moved_directory_is_exported_without_mlflow_and_not_registered_in_the_old_place(
    sweep: FinishedSweep, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(sweep.directory, tmp_path / "moved"))
    export(output=moved, no_register=True)
    with pytest.raises(InputError, match="the directory has been moved"):
        export(output=moved)


def test_a_log_that_has_moved_is_named_by_data(sweep: FinishedSweep, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sweep.directory, tmp_path / "copy"))
    facts = json.loads((copy / "sweep.json").read_text())
    log = Path(facts["settings"]["--data"])
    facts["settings"]["--data"] = str(tmp_path / "gone.csv")
    (copy / "sweep.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"no longer at .*gone\.csv; say by --data"):
        export(output=copy, no_register=True)
    other = tmp_path / "other.csv"
    lines = log.read_text().splitlines()
    other.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match=r"not what the sweep in .* was trained on"):
        export(output=copy, no_register=True, data=other)
    (tmp_path / "elsewhere").mkdir()
    kept = Path(shutil.copy(log, tmp_path / "elsewhere"))
    assert "folder: " in export(output=copy, no_register=True, data=kept)


@pytest.mark.slow
def test_a_temporal_sweep_is_exported_on_the_split_that_it_was_made_on(
    tmp_path: Path, unmeasured: None
) -> None:
    """Its data are a known set's raw files, which move afterwards."""
    raw = tmp_path / "raw" / "checkins.txt"
    raw.parent.mkdir()
    log = synthetic_interactions(70, 40, 12, seed=4)
    # Users come one after the other, and overlap in time.
    times = pd.to_datetime(1_300_000_000 + 500 * log.users + 1000 * np.arange(len(log.items)), unit="s")
    lines = zip(log.users, times.strftime("%Y-%m-%dT%H:%M:%SZ"), log.items, strict=True)
    raw.write_text("".join(f"{user}\t{time}\t1.5\t2.5\t{item}\n" for user, time, item in lines))
    temporal = {"split": "temporal", "valid_share": 0.15, "test_share": 0.2, "asked": "first"}
    sweep = finish_sweep(tmp_path / "sweep", dataset="gowalla", data=raw, **temporal)
    said = export(output=sweep.directory, no_register=True, architecture="1x8/16", to=tmp_path / "one")
    assert "folder: " in said
    moved = raw.rename(tmp_path / "moved.txt")
    with pytest.raises(InputError, match=r"no longer at .*checkins\.txt; say by --data"):
        export(output=sweep.directory, no_register=True)
    export(output=sweep.directory, no_register=True, data=moved, to=tmp_path / "two")
    card = (tmp_path / "two" / "README.md").read_text()
    split = SweepDirectory(sweep.directory, log=moved).data.split
    statistics = split.statistics
    assert f"before {statistics['valid_from']} is for training" in card
    assert "Each user's last item" not in card and "by their own order" not in card
    assert "--dataset gowalla --data checkins.txt --split temporal --valid-share 0.15" in card
    assert "Cho, Myers and Leskovec" in card
    # What is in the card is what the bundle's network does on those questions.
    model = load_network(sweep.records[0].artifacts["weights.safetensors"].parent)
    figures = evaluate(model.scores, split, "test", max_length=10)
    for name, value in figures.items():
        assert sweep.records[0].metrics[f"test/{name}"] == pytest.approx(value)
    assert len(split.test.rows) < split.num_users


@pytest.mark.parametrize(
    ("dataset", "data", "reads"),
    [
        (None, "/then/log.csv", None),
        (None, None, "ml-100k"),
        ("gowalla", None, "gowalla"),
        ("gowalla", "/then/checkins.txt", "gowalla"),
        ("/then/log.csv", None, None),
    ],
)
def test_data_names_what_the_sweep_was_made_on_wherever_it_lies_now(
    sweep: FinishedSweep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dataset: str | None,
    data: str | None,
    reads: str | None,
) -> None:
    values = json.loads((sweep.directory / "sweep.json").read_text())
    values["settings"] |= {"--dataset": dataset, "--data": data}
    (tmp_path / "sweep.json").write_text(json.dumps(values))
    asked: list[tuple[str | None, Path | None]] = []
    whole = SweepDirectory(sweep.directory).data

    def read(config: SweepConfig, preset: Any) -> SweepData:
        asked.append((config.dataset, config.data))
        return whole

    monkeypatch.setattr(source_module, "load_data", read)
    assert SweepDirectory(tmp_path, log=Path("now")).data is whole
    assert asked == [(reads, Path("now"))]


def test_a_sweep_from_before_there_were_splits_is_read(sweep: FinishedSweep) -> None:
    values = json.loads((sweep.directory / "sweep.json").read_text())
    config = SweepDirectory(sweep.directory).facts.config
    options_then = {
        name: value for name, value in values["settings"].items() if name not in ("--split", "--asked")
    }
    values["settings"] = options_then | {"--dataset": "ml-100k"}
    assert SweepFacts.parse(json.dumps(values), "sweep.json").config == config


def test_weights_that_are_not_the_recorded_ones_are_refused(sweep: FinishedSweep, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sweep.directory, tmp_path / "copy"))
    networks = list((copy / "store" / "retrain").glob("*/network"))
    by_shape: dict[str, list[Path]] = {}
    for network in networks:
        by_shape.setdefault((network / "network.json").read_text(), []).append(network)
    one, other = next(paths for paths in by_shape.values() if len(paths) > 1)[:2]
    swapped = (one / "weights.safetensors").read_bytes(), (other / "weights.safetensors").read_bytes()
    (one / "weights.safetensors").write_bytes(swapped[1])
    (other / "weights.safetensors").write_bytes(swapped[0])
    architecture = load_network(one).architecture
    with pytest.raises(InputError, match="its weights are not the recorded ones"):
        export(output=copy, architecture=architecture.architecture_id, no_register=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pick": "max-latency-ms=0.0001"}, "the fastest, .* takes 0.4"),
        ({"pick": "smallest"}, "--pick must be knee, best or max-latency-ms=X, got 'smallest'"),
        ({"architecture": "9x9/9"}, "1 to 2 layers and HIDDEN/INNER out of 16/32, 8/16, 4/8"),
        ({"architecture": "2x8/16", "seed": 7}, "--seed 7 is none of the sweep, whose seeds are 0, 1"),
        ({"data": "elsewhere.csv"}, "elsewhere.csv"),
    ],
)
def test_a_mistake_is_said_and_nothing_is_written(
    sweep: FinishedSweep, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    if "data" in options:
        options = {"data": tmp_path / options["data"]}
    with pytest.raises(InputError, match=message):
        export(output=sweep.directory, no_register=True, to=tmp_path / "folder", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "name a sweep by --output DIR, or a run by --run RUN_ID"),
        (["--output", "nowhere"], "--output nowhere holds no sweep"),
        (["--output", "."], "--output . holds no sweep: sweep.json is missing"),
        (["--run", "abc"], f"give --tracking-uri, --output, or set {TRACKING_VARIABLE}"),
        (["--run", "abc", "--tracking-uri", "sqlite:///no.db"], "there is no MLflow database no.db"),
        (["--run", "abc", "--tracking-uri", "./mlruns"], "is no address of an MLflow store"),
        (
            ["--output", "a sweep", "--pick", "best", "--architecture", "1x8/16"],
            "either --pick or --architecture",
        ),
        (["--output", "a sweep", "--seed", "1"], "--seed goes with --architecture"),
        (["--output", "a sweep", "--name", "a/b"], "without the characters / and :"),
        (["--output", "a sweep", "--no-register", "--alias", "champion"], "--alias is of the registry"),
        (["--output", "a sweep", "--to", "full"], "--to full is there already"),
    ],
)
def test_a_mistake_on_the_command_line_gets_one_sentence_and_exit_status_2(
    words: list[str], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "a sweep").mkdir()
    (tmp_path / "a sweep" / "sweep.json").write_text("{}")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    environment = {name: value for name, value in os.environ.items() if name != TRACKING_VARIABLE}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("export.py: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a sweep", "full"}


def test_help_imports_none_of_the_slow_libraries() -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{str(SCRIPT)!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'ray', 'mlflow', 'pandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture(scope="module")
def real_users() -> SweepData:
    """300 users of MovieLens-100K, as the smoke preset has them."""
    config = SweepConfig(preset="smoke")
    try:
        return load_data(config, preset_of(config))
    except InputError as error:
        pytest.skip(f"MovieLens-100K is not to be had here: {error}")


def test_every_way_of_serving_gives_the_same_top_10_to_real_users(
    real_users: SweepData, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    data, items = real_users.split, real_users.items
    settings = RetrainConfig(max_length=50, max_epochs=2, batch_size=32, learning_rate=2e-3)
    model = retrain(Architecture(32, 64, 2, 4), data, settings).model.eval()
    bundle = save_bundle(tmp_path / "bundle", model, items)
    item_ids, lengths = data.histories("test", np.arange(data.num_users), 50)
    histories = [
        [int(items.own_ids[item]) for item in row[:n]] for row, n in zip(item_ids, lengths, strict=True)
    ]

    def top_10(scores: "torch.Tensor") -> list[list[int]]:
        scores = scores.clone().scatter_(1, torch.from_numpy(item_ids), -torch.inf)
        scores[:, 0] = -torch.inf
        return [[int(items.own_ids[item]) for item in row] for row in scores.topk(10).indices.tolist()]

    with torch.no_grad():
        expected = top_10(model.scores(torch.from_numpy(item_ids), torch.from_numpy(lengths)))
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"item_ids": item_ids, "lengths": lengths})
    assert top_10(torch.from_numpy(scores)) == expected

    recommender = Recommender.load(bundle)
    assert recommender.recommend(histories, 10).items == expected
    assert recommender.recommend(recommender.start_many(histories), 10).items == expected
    # One interaction at a time, all users as one batch; who has met all of theirs waits for the others.
    states = recommender.start_many([[] for _ in histories])
    for step in range(max(map(len, histories))):
        events = [history[step] if step < len(history) else None for history in histories]
        states = recommender.update_many(states, events)
    assert recommender.recommend(states, 10).items == expected

    save_pyfunc(bundle, items, tmp_path / "model")
    served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    answer = served.predict(pd.DataFrame({"history": histories}), params={"k": 10})
    assert answer["items"].tolist() == expected
    assert not answer["by_popularity"].any()
    assert (
        len({tuple(row) for row in expected}) > 100
    )  # a network that gives everybody the same shows nothing


def test_a_folder_that_may_not_be_read_is_one_sentence(
    sweep: FinishedSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(InputError, match=r"--to \S+ cannot be read \(Permission denied\); choose another"):
        ExportConfig(output=sweep.directory, to=tmp_path, no_register=True).check()
    with pytest.raises(InputError, match=r"cannot be looked at \(File name too long\)"):
        ExportConfig(output=tmp_path / ("n" * 300), no_register=True).check()
