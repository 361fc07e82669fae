"""What runs in Ray's processes, called here: threads, statuses, and what measurements depend on."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from easrec.evaluation.profile import ProfileConfig
from easrec.models.architecture import Architecture
from sweeps import trainable
from sweeps.presets import quick
from sweeps.store import EntryBusyError, Store, StoredFailureError
from sweeps.trainable import SharedData, measure_key
from sweeps.trial import TrialConfig

ARCHITECTURE = Architecture(32, 128, 1, 4)


class NoData(SharedData):
    """Data that nobody looks at."""

    def get(self) -> Any:
        return None


def a_trial() -> TrialConfig:
    preset = quick()
    return TrialConfig(
        space=preset.space,
        search=preset.search,
        retrain=preset.retrain,
        transfer_from="warm",
        data_checksum="data",
        code_version="code",
        device="cpu",
        threads=2,
        warmup_threads=3,
    )


@pytest.fixture
def other_threads() -> Iterator[None]:
    """A process that another trial has left with its threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    yield
    torch.set_num_threads(before)


def test_trials_and_warm_ups_have_their_own_threads(
    tmp_path: Path, other_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def record(*arguments: object, **options: object) -> None:
        threads.append(torch.get_num_threads())

    monkeypatch.setattr(trainable, "run_trial", record)
    monkeypatch.setattr(trainable, "warm_stage", record)
    monkeypatch.setattr(trainable.tune, "report", lambda metrics: None)
    trial = a_trial()
    trainable.train(
        {"trial": "t"},
        trials={"t": trial},
        data=NoData(None),
        store=Store(tmp_path),
        on_busy="wait",
        share=None,
    )
    trainable.warm(trial, NoData(None), Store(tmp_path), None)
    assert threads == [2, 3]


@pytest.mark.parametrize(
    ("raised", "status"),
    [(None, "finished"), (EntryBusyError("busy"), "deferred"), (StoredFailureError("NaN"), "failed")],
)
def test_ray_is_told_a_status_alone(
    tmp_path: Path,
    other_threads: None,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception | None,
    status: str,
) -> None:
    told: list[dict[str, str]] = []

    def run_trial(*arguments: object, **options: object) -> None:
        if raised is not None:
            raise raised

    monkeypatch.setattr(trainable, "run_trial", run_trial)
    monkeypatch.setattr(trainable.tune, "report", told.append)
    trainable.train(
        {"trial": "t"},
        trials={"t": a_trial()},
        data=NoData(None),
        store=Store(tmp_path),
        on_busy="defer",
        share=None,
    )
    assert told == [{"status": status}]


def test_a_measurement_depends_on_what_is_measured_and_where_and_on_no_seed() -> None:
    trial, settings = a_trial(), ProfileConfig()
    key = measure_key(trial, ARCHITECTURE, settings)
    search = dataclasses.replace(trial.search, seed=3, tradeoff=7.0)
    same = dataclasses.replace(trial, search=search, retrain=dataclasses.replace(trial.retrain, seed=3))
    assert measure_key(same, ARCHITECTURE, settings) == key
    longer = dataclasses.replace(trial, search=dataclasses.replace(trial.search, max_length=99))
    larger_batch = dataclasses.replace(trial, retrain=dataclasses.replace(trial.retrain, batch_size=99))
    others = {
        measure_key(longer, ARCHITECTURE, settings),
        measure_key(larger_batch, ARCHITECTURE, settings),
        measure_key(dataclasses.replace(trial, device="cuda"), ARCHITECTURE, settings),
        measure_key(dataclasses.replace(trial, data_checksum="else"), ARCHITECTURE, settings),
        measure_key(dataclasses.replace(trial, code_version="else"), ARCHITECTURE, settings),
        measure_key(trial, dataclasses.replace(ARCHITECTURE, num_layers=2), settings),
        measure_key(trial, ARCHITECTURE, ProfileConfig(threads=2)),
    }
    assert len(others | {key}) == 8
