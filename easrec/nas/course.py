"""The course of a search: what its controllers are asked, how many steps it plans, when it ends.

All searches over a supernet have it in common, whatever they choose by.
"""

import itertools
from collections.abc import Iterator

from easrec.data.batches import Batch, num_training_batches, validation_batches
from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.evaluation.protocols import evaluate, selection_protocol
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.nas.resources import smallest_flops
from easrec.nas.search_config import SearchConfig
from easrec.nas.supernet import Supernet
from easrec.training import EpochReport, training_form

HARD_CHOICE_NDCG = "hard_choice_ndcg_at_10"
"""The metric of an epoch by which `stop_on="ndcg"` ends a search."""


def validation_stream(data: SplitData, config: SearchConfig, epoch: int) -> Iterator[Batch]:
    """Validation batches without end, in an order that depends on the seed and the epoch alone."""
    for turn in itertools.count():
        yield from validation_batches(
            data,
            config.max_length,
            config.validation_batch_size,
            seed=config.seed,
            epoch=epoch * 10_000 + turn,
        )


def check_bound(space: CandidateSpace, config: SearchConfig) -> None:
    """Refuse a `max_flops` that leaves nothing, before any training."""
    smallest = smallest_flops(space, config.max_length)
    if config.max_flops is not None and config.max_flops < smallest:
        raise InputError(
            f"max_flops={config.max_flops} leaves no architecture: the smallest of the space needs "
            f"{smallest} FLOPs at {config.max_length} positions"
        )


def planned_controller_steps(data: SplitData, space: CandidateSpace, config: SearchConfig) -> int:
    """Controller steps of the whole search, taken from the number of batches of its first epoch."""
    steps = num_training_batches(
        data,
        config.max_length,
        config.batch_size,
        form=training_form(space),
        seed=config.seed,
        epoch=config.warmup_epochs + 1,
    )
    return config.search_epochs * steps // config.controller_interval


def has_ended(epochs: list[EpochReport], config: SearchConfig) -> bool:
    """Whether the search ends before its last epoch; see `SearchConfig.stop_on`."""
    if config.stop_on == "ndcg":
        values = [report.metrics[HARD_CHOICE_NDCG] for report in epochs]
        return bool(values) and len(values) - 1 - values.index(max(values)) >= config.ndcg_patience
    choices = [(report.metrics["candidate"], report.metrics["num_layers"]) for report in epochs]
    return len(choices) > config.stable_epochs and len(set(choices[-config.stable_epochs - 1 :])) == 1


def hard_choice_ndcg(
    supernet: Supernet, choice: Architecture, data: SplitData, config: SearchConfig, device: str
) -> float:
    """NDCG@10, on the controllers' data, of the hard-selected network with the supernet's weights."""
    network = supernet.extract(choice).eval()
    protocol = selection_protocol(data)
    figures = evaluate(
        network.scores, data, "valid", max_length=config.max_length, protocols=(protocol,), device=device
    )
    return figures[f"{protocol}/ndcg_at_10"]
