"""What warm-up, search and retraining compute, in closed form: FLOPs spent, the price of a sweep.

A backward pass counts as two forward passes, one of them for the gradients of weights. As in
`easrec.nas.resources` a multiply-add is 2 and only matrix products count, here also those of the scores that
the loss takes over all items. Validation, which needs outputs at last positions alone, is left out.
"""

from dataclasses import dataclass

import numpy as np

from easrec.data.sequences import SplitData
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.nas.resources import network_flops, scoring_flops
from easrec.nas.search_config import SearchConfig, WarmupPaths
from easrec.nas.warmup import extremes
from easrec.training import training_form

_TRAINING = 3
"""Forward passes that a training step is worth."""
_CONTROLLERS = 2
"""Those of a controller's step, which needs no gradients of weights."""


@dataclass(frozen=True, slots=True)
class EpochSize:
    """What an epoch of training passes through a network."""

    sequences: float
    """The mean over epochs: histories that are longer than a sequence are cut at random places."""
    positions: float
    """Real positions of the sequences."""
    targets: float
    """Positions where an item is asked for."""

    @classmethod
    def of(cls, data: SplitData, max_length: int, space: Architecture | CandidateSpace) -> "EpochSize":
        """That of an epoch over the training histories with sequences of at most N = `max_length` positions.

        A window has as many targets as positions. Where only prefixes can be trained on, each has one target.
        """
        targets = np.maximum(data.train_ends - data.starts - 1, 0)
        total = int(targets.sum())
        if training_form(space) == "windows":
            # The mean of ceil((t + s) / N) over s = 0..N-1 is (t + N - 1) / N.
            cut = (targets + max_length - 1) / max_length
            return cls(float(np.where(targets > max_length, cut, targets > 0).sum()), total, total)
        # The prefixes of a history have 1, 2, ... positions, and never more than N.
        short = np.minimum(targets, max_length)
        positions = short * (short + 1) // 2 + (targets - short) * max_length
        return cls(total, int(positions.sum()), total)

    def forward_flops(self, architecture: Architecture, max_length: int, num_items: int) -> float:
        """FLOPs of one forward pass of all sequences with the scores of their targets."""
        layers = network_flops(architecture, max_length) / max_length
        return self.positions * layers + self.targets * scoring_flops(architecture, num_items)


def retraining_flops(architecture: Architecture, data: SplitData, max_length: int, epochs: int) -> float:
    """FLOPs of `epochs` epochs of training an architecture by itself."""
    size = EpochSize.of(data, max_length, architecture)
    return _TRAINING * epochs * size.forward_flops(architecture, max_length, data.num_items)


def warmup_flops(
    space: CandidateSpace, data: SplitData, max_length: int, epochs: int, paths: WarmupPaths = "mixture"
) -> float:
    """FLOPs of `epochs` epochs of training the weights of the supernet; see `easrec.nas.warmup.paths`.

    Of a mixture every candidate takes part. What is drawn of a `sandwich` counts with its mean.
    """
    size = EpochSize.of(data, max_length, space)
    if paths == "mixture":
        return _TRAINING * epochs * _supernet_flops(space, size, max_length, data.num_items)

    def one(architecture: Architecture) -> float:
        network = network_flops(architecture, max_length) / max_length
        return size.positions * network + size.targets * 2 * data.num_items * space.hidden_size

    smallest, largest = extremes(space)
    always = (space.architecture(largest, space.num_layers), space.architecture(smallest, 1))
    drawn = [one(architecture) for architecture in space.architectures()]
    return _TRAINING * epochs * (sum(map(one, always)) + sum(drawn) / len(drawn))


def search_flops(space: CandidateSpace, data: SplitData, config: SearchConfig, epochs: int) -> float:
    """FLOPs of `epochs` epochs of search: the weights' steps, and the controllers' every few of them.

    A controllers' step takes as many validation questions as a weights' step takes sequences, unless
    `controller_batch_size` says otherwise. All candidates and layers count in each step, which is what
    samples of the controllers mostly let take part.
    """
    learn = config.search_weights == "train"
    weights = warmup_flops(space, data, config.max_length, epochs) if learn else 0.0
    asked = EpochSize.of(data, config.max_length, space).sequences / config.controller_interval
    asked *= config.validation_batch_size / config.batch_size
    lengths = np.minimum(data.valid.positions - data.starts[data.valid.rows], config.max_length)
    mean_length = float(lengths[lengths > 0].mean()) if (lengths > 0).any() else 0.0
    questions = EpochSize(asked, asked * mean_length, asked)
    return weights + _CONTROLLERS * epochs * _supernet_flops(
        space, questions, config.max_length, data.num_items
    )


def _supernet_flops(space: CandidateSpace, size: EpochSize, max_length: int, num_items: int) -> float:
    """FLOPs of one forward pass of all candidates and layers; the mixed output is scored once."""
    deepest = [space.architecture(candidate, space.num_layers) for candidate in range(len(space))]
    layers = sum(network_flops(architecture, max_length) for architecture in deepest) / max_length
    return size.positions * layers + size.targets * 2 * num_items * space.hidden_size
