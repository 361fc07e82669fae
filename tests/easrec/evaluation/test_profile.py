import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from easrec.data.sequences import SplitData, leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.evaluation import measure
from easrec.evaluation.profile import ProfileConfig, profile_network
from easrec.models.architecture import Architecture
from easrec.models.features import FEATURE_NETWORKS, FeatureKind
from easrec.models.saving import save_network
from easrec.models.transformer import SequentialRecommender
from easrec.serving.request_server import RequestServer
from tests.randomise import randomise

QUICK = ProfileConfig(threads=1, warmup=2, repeats=5, passes=1, train_steps=2)
SMALL = Architecture(8, 16, 1, 2)
LARGE = Architecture(64, 256, 2, 2)


@pytest.fixture(scope="module")
def data() -> SplitData:
    return leave_one_out(synthetic_interactions(80, 100, 12, seed=1))


def a_task(data: SplitData, network_dir: Path) -> measure.Task:
    return measure.Task(
        network_dir=network_dir,
        architecture=SMALL,
        max_length=20,
        data=data,
        config=QUICK,
        device="cpu",
        train_batch_size=8,
    )


def saved(architecture: Architecture, folder: Path, num_items: int = 100) -> Path:
    save_network(SequentialRecommender(architecture, num_items, max_length=20), folder)
    return folder


def test_a_larger_network_costs_more_whatever_threads_the_caller_has(
    data: SplitData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    threads_before = torch.get_num_threads()
    two_threads = dataclasses.replace(QUICK, threads=2)
    small = profile_network(saved(SMALL, tmp_path / "small"), data, two_threads)
    large = profile_network(saved(LARGE, tmp_path / "large"), data, QUICK)
    assert (small.threads, large.threads) == (2, 1)
    assert torch.get_num_threads() == threads_before
    for profile in (small, large):
        assert profile.device == "cpu"
        assert 0 < profile.latency_ms_p50 <= profile.latency_ms_p95
        assert 0 < profile.served_ms_p50 <= profile.served_ms_p95
        assert profile.served_history_ms_p50 > 0 and profile.update_ms_p50 > 0
        assert profile.inference_s > 0
    # Of the large one alone the batch's feed-forward activations take 80 x 20 x 256 floats.
    assert 0 < small.peak_memory_mib < large.peak_memory_mib - 1.5
    assert 0 < small.train_peak_memory_mib < large.train_peak_memory_mib - 1.5


def test_a_failing_process_gives_its_message(data: SplitData, tmp_path: Path) -> None:
    network = saved(SMALL, tmp_path, num_items=99)
    with pytest.raises(RuntimeError, match=r"failed: .*ranks 99 items, but data set 'synthetic.*' has 100"):
        profile_network(network, data, QUICK)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_process_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(name: str, folder: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(measure, "measure", killed)
    with pytest.raises(SystemExit, match="inference: the process was ended by signal 9"):
        measure.main(tmp_path)


def test_wrong_settings_are_named(data: SplitData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        ProfileConfig(repeats=0)
    with pytest.raises(ValueError, match="warmup must be at least 0, got -1"):
        ProfileConfig(warmup=-1)
    with pytest.raises(ValueError, match="train_batch_size must be at least 1, got 0"):
        profile_network(tmp_path, data, QUICK, train_batch_size=0)


def test_latency_is_that_of_full_histories_after_the_first_requests(
    data: SplitData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[tuple[tuple[int, ...], list[int], int]] = []
    served: dict[str, list[Any]] = {"from_history": [], "from_state": [], "update": []}

    def seconds(task: measure.Task, work: Callable[..., object], *arguments: Any) -> float:
        if work is measure._answer_all_users:
            return 7.0
        if work is not measure._answer:  # a request as it is served: of the last kind ten times the first
            own = served[work.__name__]
            own.append(arguments[0])
            work(*arguments)
            unit = {"from_history": 0.01, "from_state": 0.02, "update": 0.1}[work.__name__]
            return 50.0 if len(own) <= QUICK.warmup else unit * (len(own) - QUICK.warmup)
        _, item_ids, lengths, _ = arguments
        requests.append((item_ids.shape, lengths.tolist(), int(item_ids.min())))
        work(*arguments)
        return 100.0 if len(requests) <= QUICK.warmup else 0.001 * (len(requests) - QUICK.warmup)

    monkeypatch.setattr(measure, "_seconds", seconds)
    monkeypatch.setattr(measure, "return_freed_memory", lambda at_once: None)
    saved(SMALL, tmp_path)
    task = a_task(data, tmp_path)
    figures = measure.measure_inference(task)
    assert len(requests) == QUICK.warmup + QUICK.repeats
    assert {(shape, tuple(lengths)) for shape, lengths, _ in requests} == {((1, 20), (20,))}
    assert min(smallest for _, _, smallest in requests) >= 1, "no padding"
    # The requests that count took 1 to 5 ms.
    assert figures["latency_ms_p50"] == pytest.approx(3.0)
    assert figures["latency_ms_p95"] == pytest.approx(4.8)
    assert figures["inference_s"] == 7.0
    assert {len(own) for own in served.values()} == {len(requests)}
    assert all(len(history) == 20 and min(history) >= 1 for history in served["from_history"])
    # From the state, since this network has one.
    assert figures["served_ms_p50"] == pytest.approx(60.0)
    assert figures["served_ms_p95"] == pytest.approx(96.0)
    assert figures["served_history_ms_p50"] == pytest.approx(30.0)
    assert figures["update_ms_p50"] == pytest.approx(300.0)


def test_a_network_without_states_is_served_from_histories(data: SplitData, tmp_path: Path) -> None:
    softmax = dataclasses.replace(SMALL, attention="softmax")
    task = dataclasses.replace(a_task(data, tmp_path), architecture=softmax)
    model = SequentialRecommender(softmax, data.num_items, max_length=20).eval()
    figures = measure._measure_served(task, model, np.ones((7, 20), dtype=np.int64))
    assert figures["served_ms_p50"] == figures["served_history_ms_p50"] > 0
    assert figures["update_ms_p50"] == 0


@pytest.mark.parametrize("kind", [None, "sasrecf", "fdsa"])
def test_a_request_gets_the_same_answer_by_torch_and_as_it_is_served(
    kind: FeatureKind | None, data: SplitData, tmp_path: Path
) -> None:
    model: SequentialRecommender
    if kind is None:
        model = SequentialRecommender(SMALL, data.num_items, max_length=20)
    else:
        values = torch.arange(data.num_items + 1).remainder(5).unsqueeze(1)
        model = FEATURE_NETWORKS[kind](SMALL, data.num_items, 20, item_values=values, num_values=4)
    randomise(model)
    task, server = a_task(data, tmp_path), RequestServer.of(model.eval())
    assert (server.streaming is None) == (kind is not None)
    for row in np.random.default_rng(0).integers(1, data.num_items + 1, (5, 20)):
        (by_torch,) = measure._answer(model, row[None], np.array([20]), task)
        history: list[int] = row.tolist()
        assert server.from_history(history, QUICK.top_k)[0] == by_torch
        if server.streaming is not None:
            assert server.from_state(server.state_after(history), QUICK.top_k)[0] == by_torch
            before = server.state_after(history[:-1])
            assert server.from_state(server.update(before, history[-1]), QUICK.top_k)[0] == by_torch
