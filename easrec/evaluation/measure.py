"""The processes in which `easrec.evaluation.profile` measures.

`python -m easrec.evaluation.measure FOLDER CALLER` is started by the process CALLER and ends with it. It
imports what is needed, which takes longer than most measurements, and forks for each of them: one for
inference and, after that has ended, one for training. Neither has the memory or the threads of the other, nor
of the caller.

Legend: B sequences, N positions (`max_length`).
"""

import ctypes
import dataclasses
import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVarTuple

import numpy as np
import torch

from easrec.allocator import return_freed_memory
from easrec.data.batches import Batch, training_batches
from easrec.data.sequences import Int64s, SplitData
from easrec.evaluation.memory import peak_mib, start_peak
from easrec.evaluation.profile import DATA, MEASUREMENTS, REQUEST, ProfileConfig
from easrec.files import read_json, write_json
from easrec.models.architecture import Architecture
from easrec.models.features import FDSA, FEATURE_NETWORKS, FeatureKind, SASRecF
from easrec.models.saving import load_network
from easrec.models.transformer import SequentialRecommender
from easrec.training import move, training_form

Arguments = TypeVarTuple("Arguments")

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is to be measured."""

    network_dir: Path
    architecture: Architecture
    max_length: int
    data: SplitData
    config: ProfileConfig
    device: str
    train_batch_size: int
    kind: FeatureKind | None = None
    """What the network is, if it reads features."""

    @classmethod
    def read(cls, folder: Path) -> "Task":
        """Read the request that `profile_network` left, and see that the network fits the data."""
        request = read_json(folder / REQUEST)
        with np.load(folder / DATA, allow_pickle=False) as arrays:
            data = SplitData.from_arrays(dict(arrays), request["data"])
        network_dir = Path(request["network_dir"])
        model = load_network(network_dir)
        if model.num_items != data.num_items:
            raise ValueError(
                f"the network in {network_dir} ranks {model.num_items} items, but data set {data.name!r} "
                f"has {data.num_items}"
            )
        return cls(
            network_dir=network_dir,
            architecture=model.architecture,
            kind=model.kind if isinstance(model, SASRecF | FDSA) else None,
            max_length=model.max_length,
            data=data,
            config=ProfileConfig(**request["config"]),
            device=request["device"],
            train_batch_size=request["train_batch_size"],
        )


def measure_inference(task: Task) -> dict[str, float]:
    """Latency of a request, time for all test users, and the peak memory of both."""
    _answer(_tiny_network(task), np.array([[1, 0], [1, 1]]), np.array([1, 2]), task)
    config = task.config
    generator = np.random.default_rng(config.seed)
    shape = (config.warmup + config.repeats, 1, task.max_length)
    requests = generator.integers(1, task.data.num_items + 1, size=shape)
    full = np.array([task.max_length])

    before = start_peak(task.device)
    model = load_network(task.network_dir, device=task.device)
    _answer(model, requests[0], full, task)
    _answer_users(model, np.arange(min(config.batch_size, len(task.data.test.rows))), task)
    peak_memory_mib = peak_mib(task.device, before)

    return_freed_memory(at_once=False)
    latencies_s = [_seconds(task, _answer, model, request, full, task) for request in requests]
    served = _measure_served(task, model, requests[:, 0])
    p50_s, p95_s = np.percentile(latencies_s[config.warmup :], [50, 95])
    passes_s = [_seconds(task, _answer_all_users, model, task) for _ in range(config.passes)]
    return {
        "latency_ms_p50": float(p50_s * 1000),
        "latency_ms_p95": float(p95_s * 1000),
        **served,
        "inference_s": float(np.median(passes_s)),
        "peak_memory_mib": peak_memory_mib,
        "threads": torch.get_num_threads(),
    }


def _measure_served(task: Task, model: SequentialRecommender, requests: Int64s) -> dict[str, float]:
    """Latencies of requests, int64 (R, N), as `easrec.serving` answers them."""
    # Not before: ONNX Runtime starts a thread on import, and its memory is not the network's.
    from easrec.serving.request_server import RequestServer

    config, server = task.config, RequestServer.of(model)
    histories: list[list[int]] = requests.tolist()
    from_history_s = [_seconds(task, server.from_history, history, config.top_k) for history in histories]
    from_state_s, update_s = from_history_s, [0.0] * len(histories)
    if server.streaming is not None:
        states = [server.state_after(history) for history in histories]
        from_state_s = [_seconds(task, server.from_state, state, config.top_k) for state in states]
        update_s = [
            _seconds(task, server.update, state, history[0])
            for state, history in zip(states, histories, strict=True)
        ]
    p50_s, p95_s = np.percentile(from_state_s[config.warmup :], [50, 95])
    return {
        "served_ms_p50": float(p50_s * 1000),
        "served_ms_p95": float(p95_s * 1000),
        "served_history_ms_p50": float(np.median(from_history_s[config.warmup :]) * 1000),
        "update_ms_p50": float(np.median(update_s[config.warmup :]) * 1000),
    }


def measure_training(task: Task) -> dict[str, float]:
    """The peak memory of a few training steps."""
    ones = torch.ones(2, 2, dtype=torch.int64)
    _train(_tiny_network(task), [Batch(item_ids=ones, targets=ones)], task)
    batches = _first_batches(task)

    before = start_peak(task.device)
    _train(load_network(task.network_dir, device=task.device), batches, task)
    return {"train_peak_memory_mib": peak_mib(task.device, before)}


def _tiny_network(task: Task) -> SequentialRecommender:
    """The smallest network of the same kind.

    Used once before the peak is counted, it brings in code and buffers of the libraries. These take more
    memory than a small network does, and would hide by how much one differs from another.
    """
    heads = task.architecture.num_heads
    tiny = dataclasses.replace(task.architecture, hidden_size=heads, inner_size=1, num_layers=1)
    model: SequentialRecommender
    if task.kind is None:
        model = SequentialRecommender(tiny, num_items=task.config.top_k, max_length=2)
    else:
        values = torch.zeros(task.config.top_k + 1, 1, dtype=torch.int64)
        model = FEATURE_NETWORKS[task.kind](tiny, len(values) - 1, 2, item_values=values, num_values=1)
    return model.to(task.device).eval()


def _answer(model: SequentialRecommender, item_ids: Int64s, lengths: Int64s, task: Task) -> list[list[int]]:
    """The best items after histories, int64 (B, N), of real lengths (B,)."""
    with torch.inference_mode():
        histories = torch.from_numpy(item_ids).to(task.device)
        scores = model.scores(histories, torch.from_numpy(lengths).to(task.device))
        best: list[list[int]] = scores.topk(min(task.config.top_k, model.num_items)).indices.tolist()
    return best


def _answer_users(model: SequentialRecommender, index: Int64s, task: Task) -> None:
    item_ids, lengths = task.data.histories("test", index, task.max_length)
    _answer(model, item_ids, lengths, task)


def _answer_all_users(model: SequentialRecommender, task: Task) -> None:
    num_questions = len(task.data.test.rows)
    for start in range(0, num_questions, task.config.batch_size):
        _answer_users(model, np.arange(start, min(start + task.config.batch_size, num_questions)), task)


def _seconds(task: Task, work: Callable[[*Arguments], object], *arguments: *Arguments) -> float:
    """How long `work` takes, the device's part included."""
    _synchronise(task)
    start = time.perf_counter()
    work(*arguments)
    _synchronise(task)
    return time.perf_counter() - start


def _synchronise(task: Task) -> None:
    if torch.device(task.device).type == "cuda":
        torch.cuda.synchronize(task.device)


def _first_batches(task: Task) -> list[Batch]:
    batches = training_batches(
        task.data,
        task.max_length,
        task.train_batch_size,
        form=training_form(task.architecture),
        seed=task.config.seed,
        epoch=1,
    )
    first = list(itertools.islice(batches, task.config.train_steps))
    if not first:
        raise ValueError(f"data set {task.data.name!r} has no training target")
    return list(itertools.islice(itertools.cycle(first), task.config.train_steps))


def _train(model: SequentialRecommender, batches: list[Batch], task: Task) -> None:
    model.train()
    optimizer = torch.optim.Adam(model.parameters())
    for batch in batches:
        loss = model.loss(move(batch, task.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _synchronise(task)


def end_with(caller: int) -> None:
    """Have this process killed when its parent dies, which must be the process `caller`.

    Otherwise it would measure on, beside whoever measures the same again. Done on Linux alone.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != caller:
        sys.exit(f"the process {caller} that asked for measurements has gone")


def measure(name: str, folder: Path) -> None:
    """Take one measurement, in a process that has done nothing but import."""
    end_with(os.getppid())
    measurement = {"inference": measure_inference, "training": measure_training}[name]
    task = Task.read(folder)
    torch.set_num_threads(task.config.threads)
    return_freed_memory(at_once=True)
    write_json(folder / f"{name}.json", measurement(task))


def main(folder: Path) -> None:
    """Take the measurements of the request in `folder`, one after the other."""
    # Imports alone have run, and started no thread but that of pyarrow's allocator, which minds forks.
    context = multiprocessing.get_context("fork")
    for name in MEASUREMENTS:
        process = context.Process(target=measure, args=(name, folder))
        process.start()
        process.join()
        if process.exitcode is not None and process.exitcode < 0:
            sys.exit(
                f"{name}: the process was ended by signal {-process.exitcode} (9 is usually a lack of memory)"
            )
        if process.exitcode:
            sys.exit(process.exitcode)


if __name__ == "__main__":
    end_with(int(sys.argv[2]))
    main(Path(sys.argv[1]))
