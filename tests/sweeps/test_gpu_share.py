"""Trials that share a GPU share its memory; torch.cuda is a fake that records what it is told."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from easrec.evaluation.profile import ProfileConfig
from easrec.models.architecture import Architecture
from sweeps import layer_table, trainable
from sweeps.cluster import check_cluster
from sweeps.config import SweepConfig
from sweeps.gpu_share import RESERVE, limit_memory, memory_share
from sweeps.store import Store
from tests.sweeps.test_trainable import NoData, a_trial


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The fractions of memory that torch.cuda was told."""
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    threads = torch.get_num_threads()
    yield fractions
    torch.set_num_threads(threads)


@pytest.mark.parametrize("gpus", [0.1, 0.25, 0.3, 0.5])
def test_all_that_ray_packs_on_a_gpu_fits_beside_the_reserve(gpus: float) -> None:
    share = memory_share(gpus)
    assert share is not None
    packed = int(1 / gpus)
    assert share == pytest.approx(gpus * (1 - RESERVE))
    assert packed * share <= 1 - RESERVE + 1e-9


def test_whole_gpus_and_no_gpu_are_not_limited() -> None:
    assert [memory_share(gpus) for gpus in (0.0, 1.0, 2.0)] == [None, None, None]


def test_a_cpu_is_never_limited_and_a_whole_gpu_is_freed_of_an_earlier_limit(told: list[float]) -> None:
    limit_memory("cpu", 0.45)
    assert told == []
    limit_memory("cuda", 0.45)
    limit_memory("cuda:0", None)
    assert told == [0.45, 1.0]


def test_the_cluster_gives_warm_ups_and_trials_their_share() -> None:
    nodes = [{"CPU": 8.0, "GPU": 1.0}]
    assert check_cluster(SweepConfig(gpus_per_trial=0.5), nodes).memory_share == pytest.approx(0.45)
    assert check_cluster(SweepConfig(), nodes).memory_share is None
    assert check_cluster(SweepConfig(device="cpu", gpus_per_trial=0.5), nodes).memory_share is None


def test_warm_ups_and_trials_are_limited_and_measurements_are_not(
    tmp_path: Path, told: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[float]]] = []

    def see(name: str, value: Any = None) -> Any:
        def stage(*arguments: Any, **options: Any) -> Any:
            seen.append((name, list(told)))
            return value

        return stage

    monkeypatch.setattr(trainable, "run_trial", see("trial"))
    monkeypatch.setattr(trainable, "warm_stage", see("warm-up"))
    monkeypatch.setattr(layer_table, "latency_stage", see("layers"))
    monkeypatch.setattr(trainable, "profile_network", see("network"))
    monkeypatch.setattr(trainable.tune, "report", lambda metrics: None)
    trial = dataclasses.replace(a_trial(), device="cuda")
    trainable.warm(trial, NoData(None), Store(tmp_path), 0.45)
    trainable.train(
        {"trial": "t"},
        trials={"t": trial},
        data=NoData(None),
        store=Store(tmp_path),
        on_busy="wait",
        share=0.45,
    )
    layer_table._measure(trial, Store(tmp_path))
    told.append(0.45)  # what another warm-up left in the process
    with pytest.raises(TypeError):  # the fake gives no figures, which is of no interest here
        trainable.measure(trial, Architecture(32, 128, 1, 4), ProfileConfig(), NoData(None), Store(tmp_path))
    limits = {name: fractions[-1] for name, fractions in seen}
    assert limits == {"warm-up": 0.45, "trial": 0.45, "layers": 1.0, "network": 1.0}
