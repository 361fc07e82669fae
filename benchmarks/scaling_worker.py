"""One measurement of `scaling.py` in a process of its own, so that its peak of memory is its own.

python scaling_worker.py JSON

The argument is {"do": NAME, "threads": T, ...}; what was measured is printed as one line of JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from easrec.data.batches import Batch
from easrec.data.interactions import load_interactions
from easrec.data.sequences import SplitData, Targets, leave_one_out
from easrec.evaluation.memory import peak_mib, start_peak
from easrec.evaluation.protocols import evaluate
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.attention import linear_attention, softmax_attention
from easrec.models.packing import Packing
from easrec.models.transformer import SequentialRecommender, TransformerLayer
from easrec.nas.search import SearchConfig, search
from easrec.nas.supernet import Supernet
from easrec.retrain import RetrainConfig, retrain
from easrec.training import EpochReport
from easrec.weight_steps import LossOfBatch, WeightSteps


def attention(kind: str, heads: int, size: int, positions: list[int], rounds: int) -> dict[str, Any]:
    """Seconds of each round and peak MiB of attention and its backward pass, by number of positions."""
    inputs = {n: torch.randn(4, 1, heads, n, size).requires_grad_() for n in positions}

    def step(values: Tensor) -> None:
        q, k, v, gradient = values.unbind(0)
        out = linear_attention(q, k, v) if kind == "linear" else softmax_attention(q, k, v)
        torch.autograd.grad(out, values, gradient)

    memory = []
    seconds: dict[int, list[float]] = {n: [] for n in positions}
    with sdpa_kernel(SDPBackend.MATH if kind == "softmax, plain" else SDPBackend.FLASH_ATTENTION):
        step(torch.randn(4, 1, heads, 64, size).requires_grad_())  # brings the libraries in
        for n in positions:
            before = start_peak("cpu")
            step(inputs[n])
            memory.append(peak_mib("cpu", before))
        for _ in range(rounds):
            for n in positions:
                start_s = time.perf_counter()
                step(inputs[n])
                seconds[n].append(time.perf_counter() - start_s)
    return {"seconds": [seconds[n] for n in positions], "mib": memory}


def candidates(space: dict[str, Any], windows: int, positions: int, rounds: int) -> dict[str, Any]:
    """Seconds of one layer of each candidate on a batch of full windows, in turn: training and inference.

    A pass that is not timed comes before each: in a network a layer follows others of its own width, and does
    not find the processor's caches full of another candidate's numbers.
    """
    parsed = CandidateSpace.from_dict(space)
    packing = Packing(torch.ones(windows, positions, dtype=torch.bool))
    layers = [TransformerLayer(parsed.architecture(k, 1), dropout=0.2) for k in range(len(parsed))]
    inputs = [
        torch.randn(windows * positions, parsed.sizes(k)[0], requires_grad=True) for k in range(len(parsed))
    ]

    def train(k: int) -> None:
        layers[k].train()
        layers[k](inputs[k], inputs[k], packing).sum().backward()

    def infer(k: int) -> None:
        layers[k].eval()
        with torch.inference_mode():
            layers[k](inputs[k], inputs[k], packing)

    result = {}
    for name, run in (("training", train), ("inference", infer)):
        seconds: list[list[float]] = [[] for _ in layers]
        for turn in range(rounds + 2):
            for k in range(len(layers)):
                run(k)
                start_s = time.perf_counter()
                run(k)
                if turn >= 2:
                    seconds[k].append(time.perf_counter() - start_s)
        result[name] = seconds
    return result


def search_epochs(
    data: str, space: dict[str, Any], max_length: int, batch_size: int, epochs: int
) -> dict[str, Any]:
    """Sequences per second of search epochs, each followed by a training epoch of the full-size network."""
    split, parsed = leave_one_out(load_interactions(data)), CandidateSpace.from_dict(space)
    rates: dict[str, list[float]] = {"search": [], "training": []}
    full = Architecture.from_dict(
        parsed.architecture(0, parsed.num_layers).to_dict()
        | {"hidden_size": parsed.hidden_size, "inner_size": parsed.inner_size}
    )
    config = RetrainConfig(max_length=max_length, batch_size=batch_size, max_epochs=1)

    def after(report: EpochReport) -> None:
        rates["search"].append(report.sequences_per_s)
        (epoch,) = retrain(full, split, config).epochs
        rates["training"].append(epoch.sequences_per_s)

    settings = SearchConfig(
        max_length=max_length,
        batch_size=batch_size,
        warmup_epochs=0,
        search_epochs=epochs,
        stable_epochs=epochs,
    )
    search(split, parsed, settings, on_epoch=after)
    return rates


def large_step(
    network: str, loss: str, items: int, batch_size: int, max_length: int, micro_batch_size: int | None
) -> dict[str, Any]:
    """Seconds and peak MiB (of the process, and above what it held before) of training steps."""
    torch.manual_seed(0)
    ids = torch.randint(1, items + 1, (batch_size, max_length + 1))
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    module: SequentialRecommender | Supernet
    loss_of: LossOfBatch
    if network == "supernet":
        space = CandidateSpace(64, 256, 4, 4, (0, 0.5, 0.75), (0, 0.5, 0.75))
        module = Supernet(space, items, max_length)
        loss_of = partial(_supernet_loss, module, torch.full((3,), 1 / 3), torch.full((4,), 1 / 4))
        parameters = module.weight_parameters()
    else:
        module = SequentialRecommender(Architecture(64, 256, 2, 4), items, max_length)
        loss_of, parameters = module.loss, list(module.parameters())
    steps = WeightSteps(
        parameters,
        module.item_embedding,
        learning_rate=1e-3,
        loss="sampled" if loss == "sampled" else "full",
        micro_batch_size=micro_batch_size,
    )
    seconds = []
    before = start_peak("cpu")
    for step in range(2 if loss == "sampled" else 1):
        start_s = time.perf_counter()
        steps.step(batch, loss_of, stage="retrain", epoch=1, step=step + 1)
        seconds.append(time.perf_counter() - start_s)
    return {"seconds": seconds[-1], "mib": peak_mib("cpu", 0), "added_mib": peak_mib("cpu", before)}


def _supernet_loss(
    supernet: Supernet, width: Tensor, depth: Tensor, batch: Batch, negatives: Tensor | None
) -> Tensor:
    return supernet.loss(batch, width, depth, negatives)


def large_ranking(items: int, users: int, max_length: int) -> dict[str, Any]:
    """Seconds and peak MiB of ranking all users against all items."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 2 * max_length, users)
    ends = np.cumsum(lengths)
    rows = np.arange(users)
    data = SplitData(
        name="made up",
        checksum="none",
        num_items=items,
        items=rng.integers(1, items + 1, ends[-1], dtype=np.int32),
        starts=ends - lengths,
        train_ends=ends - 2,
        valid=Targets(rows, ends - 2),
        test=Targets(rows, ends - 1),
        statistics={"repeat_share": 0.0},
    )
    network = SequentialRecommender(Architecture(64, 256, 2, 4), items, max_length).eval()
    before = start_peak("cpu")
    start_s = time.perf_counter()
    evaluate(network.scores, data, "valid", max_length=max_length, protocols=("unseen",))
    return {
        "seconds": time.perf_counter() - start_s,
        "mib": peak_mib("cpu", 0),
        "added_mib": peak_mib("cpu", before),
    }


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    case.__name__: case for case in (attention, candidates, search_epochs, large_step, large_ranking)
}


def main() -> None:
    """Measure what the command line says."""
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings.pop("threads"))
    torch.manual_seed(0)
    print(json.dumps(CASES[settings.pop("do")](**settings)))


if __name__ == "__main__":
    main()
