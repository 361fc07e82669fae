"""A finished sweep in seconds: every stage and file of a real one, without Ray."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from easrec.data.synthetic import synthetic_interactions
from easrec.evaluation.profile import ProfileConfig
from sweeps.confidence import Confidence
from sweeps.config import SweepConfig
from sweeps.data import ITEMS, load_data
from sweeps.mlflow_store import create_store
from sweeps.output import SWEEP, identify, note_tracking_uri
from sweeps.panels import ChartLabels
from sweeps.plan import build_trials, preset_of
from sweeps.records import MEASURED, flatten, trial_architecture, trial_record
from sweeps.report import record_results, write_results
from sweeps.results import FailedTrial, TrialRecord, results_frame
from sweeps.source import SweepDirectory
from sweeps.store import code_version, content_key
from sweeps.tracking import SweepRecorder
from sweeps.trial import SUPERNET, run_trial, warm_stage

ACCURACY = "valid/unseen/ndcg_at_10"


@dataclass(frozen=True)
class FinishedSweep:
    """Where a sweep lies and what it found."""

    directory: Path
    tracking_uri: str
    run_id: str
    """Of its parent run."""
    records: list[TrialRecord]
    """Of its trials that finished."""


def write_log(path: Path, *, texts: bool = True) -> None:
    """A log of 70 users and 40 items, with ids that are texts or whole numbers."""
    log = synthetic_interactions(70, 40, 12, seed=4)
    names = [f"film {7 * item:03d}" if texts else 7 * item for item in range(log.num_items + 1)]
    frame = pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in log.users] if texts else log.users,
            "item_id": [names[item] for item in log.items],
            "timestamp": range(len(log.items)),
        }
    )
    frame.to_csv(path, index=False)


def finish_sweep(directory: Path, *, texts: bool = True, **options: Any) -> FinishedSweep:
    """Run a small sweep of two tradeoffs and two seeds on one thread, with one more trial that failed."""
    directory.mkdir(parents=True)
    log = directory.parent / f"{directory.name} log.csv"
    write_log(log, texts=texts)
    config = SweepConfig(
        data=log,
        preset="smoke",
        tradeoffs=(0.0, 100.0),
        seeds=2,
        hidden_size=16,
        inner_size=32,
        num_heads=2,
        max_length=10,
        batch_size=16,
        warmup_epochs=1,
        search_epochs=1,
        retrain_epochs=2,
        output=directory,
    )
    config = dataclasses.replace(config, **options)
    preset = preset_of(config)
    data = load_data(config, preset)
    facts = {
        "data checksum": data.split.checksum,
        "program": code_version(),
        "device": "cpu",
        "preset in full": content_key(dataclasses.asdict(preset)),
    }
    identity = identify(directory, config, facts, licence=data.licence)
    data.items.save(directory / ITEMS)
    store = SweepDirectory(directory).store
    settings = flatten({"preset": config.preset, "profile": dataclasses.asdict(ProfileConfig())})
    records, supernets = [], {}
    for trial in build_trials(config, preset, data.split, device="cpu", code_version=code_version()):
        warm_stage(trial, data.split, store)
        run_trial(trial, data.split, store)
        architecture = trial_architecture(trial, store)
        assert architecture is not None
        # Nothing is timed here: a larger network simply counts as slower.
        profile = dict.fromkeys(MEASURED, architecture.hidden_size * architecture.num_layers / 10)
        record = trial_record(
            trial, data.split, store, settings=settings, tags={"data": data.split.name}, profile=profile
        )
        assert record is not None
        records.append(record)
        supernets[f"supernet-seed{trial.seed}.safetensors"] = store.entry("warm", trial.warm_key).path(
            SUPERNET
        )
    failed = FailedTrial(
        trial_id="f" * 16,
        tradeoff=1.0,
        seed=0,
        params={"tradeoff": 1.0},
        error="the loss became NaN",
        start_ms=identity.start_ms,
        end_ms=identity.start_ms + 1,
    )
    note_tracking_uri(directory, config.tracking_uri)
    uri = config.tracking_uri or create_store(directory)
    recorder = SweepRecorder(uri, identity.sweep_id, start_ms=identity.start_ms, run_name=directory.name)
    frame = results_frame(records, accuracy=ACCURACY)
    labels = ChartLabels(dataset=data.split.name, max_length=10, threads=1, accuracy=ACCURACY)
    confidence = Confidence.of_records(frame, records, accuracy=ACCURACY)
    recorder.record_failure(failed)
    record_results(
        recorder,
        records,
        frame,
        labels,
        params=settings,
        tags={"data": data.split.name},
        metrics={"num_trials": 5},
        artifacts=write_results(frame, [failed], directory, labels, confidence)
        | {name: directory / name for name in (SWEEP, ITEMS)}
        | supernets,
        confidence=confidence,
    )
    return FinishedSweep(directory, uri, recorder.parent_run_id, records)
