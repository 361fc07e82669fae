"""What a user changes of a preset. Imports nothing slow: the command line's help is made from it."""

import math
from dataclasses import dataclass
from typing import Literal

from easrec.errors import InputError
from sweeps.data_options import option


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """Settings of candidates, search and retraining; one that is left out is the preset's.

    A field has the name of the setting that it changes, in `CandidateSpace`, `SearchConfig` and
    `RetrainConfig`; see `sweeps.plan.preset_of` for the exceptions.
    """

    hidden_size: int | None = None
    """Hidden size of the supernet (dimensions). Left out: the preset's."""
    inner_size: int | None = None
    """Inner size of its feed-forward networks (dimensions). Left out: the preset's."""
    num_layers: int | None = None
    """Layers of the supernet. Left out: the preset's."""
    num_heads: int | None = None
    """Attention heads. Left out: the preset's."""
    hidden_intensities: tuple[float, ...] = ()
    """Shares of hidden dimensions that the candidates mask, each in [0, 1). Left out: the preset's."""
    inner_intensities: tuple[float, ...] = ()
    """Shares of inner dimensions that the candidates mask, each in [0, 1). Left out: the preset's."""
    pairing: Literal["zip", "product"] | None = None
    """zip: candidate k takes entry k of both lists of shares. product: every pair is a candidate. Left out:
    the preset's."""
    weights: Literal["independent", "shared"] | None = None
    """independent: each candidate has its own weights. shared: nested slices of one set. Left out: the
    preset's."""
    attention: Literal["linear", "linear_bidirectional", "softmax"] | None = None
    """Attention of every candidate: linear and softmax are causal; linear_bidirectional trains on every
    prefix of a history. Left out: the preset's."""
    key_norm: Literal["column", "row"] | None = None
    """What divides the keys of linear attention: the norm of a feature over positions (column), or that of a
    position (row). Left out: the preset's."""
    gate_layers: Literal[0, 1, 2] | None = None
    """Dense layers of each data-aware gate. Left out: the preset's."""
    max_length: int | None = None
    """Positions of a sequence (items). Left out: the preset's."""
    batch_size: int | None = None
    """Sequences in a batch, of search and retraining. Left out: the preset's."""
    micro_batch_size: int | None = None
    """Sequences computed at once, of search and retraining: less memory, the same gradients. Left out: the
    preset's, the whole batch."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of the matrix products of training; bfloat16 is for GPUs. Evaluation is always in float32. Left out:
    the preset's."""
    compile: bool = False
    """Let torch compile the layers: seconds to a minute once in each stage, then faster steps, mostly on a
    GPU."""
    dropout: float | None = None
    """Share of values dropped in search and retraining, in [0, 1). Left out: the preset's."""
    loss: Literal["full", "sampled"] | None = None
    """Cross-entropy of search and retraining: over all items (full), or over the target and some others
    (sampled). Left out: the preset's."""
    num_negatives: int | None = None
    """Of --loss sampled: items that the targets of a batch compete with. Left out: the preset's."""
    search_learning_rate: float | None = None
    """Adam's step size for the weights in warm-up and search. Left out: the preset's."""
    retrain_learning_rate: float | None = None
    """Adam's step size in the retraining. Left out: the preset's."""
    warmup_epochs: int | None = None
    """Epochs of the warm-up. Left out: the preset's."""
    warmup_paths: Literal["mixture", "sandwich"] | None = None
    """What a step of the warm-up trains: the mixture of all candidates and depths, or three single networks,
    the largest, the smallest and one drawn anew (sandwich). Left out: sandwich where weights are shared,
    else mixture."""
    search_epochs: int | None = None
    """The most epochs of a search. Left out: the preset's."""
    stop_on: Literal["choice", "ndcg"] | None = None
    """What ends a search before: the hard choice that stays the same (choice), or NDCG@10 of the network of
    that choice, with the supernet's weights, that stops growing (ndcg). Left out: the preset's."""
    stable_epochs: int | None = None
    """Of --stop-on choice: epochs in which the choice must have stayed the same. Left out: the preset's."""
    ndcg_patience: int | None = None
    """Of --stop-on ndcg: epochs without a better NDCG@10. Left out: the preset's."""
    retrain_epochs: int | None = None
    """The most epochs of a retraining. Left out: the preset's."""
    patience: int | None = None
    """Epochs without a better validation NDCG@10 after which a retraining ends. Left out: the preset's."""
    accuracy_weight: float | None = None
    """Weight of the cross-entropy in the controllers' loss (no unit); 0 leaves the resource term alone.
    Left out: the preset's."""
    controller_data: Literal["valid", "train_split"] | None = None
    """What the controllers learn from: the validation targets, or each user's last training target, which the
    weights of the supernet then do not see. Left out: the preset's."""
    controller_learning_rate: float | None = None
    """Adam's step size for the controllers. Left out: the preset's."""
    controller_interval: int | None = None
    """Weight steps for each step of the controllers. Left out: the preset's."""
    search_weights: Literal["train", "freeze"] | None = None
    """In a search: weights and controllers learn in turn (train), or the controllers alone, on the supernet
    as its warm-up left it (freeze): a quarter of the work. Left out: the preset's."""
    negligible_weight: float | None = None
    """Sampled weights below it count as zero in the weight steps, in [0, 0.01); 0 computes all. Left out: the
    preset's."""
    resource: Literal["flops", "params", "latency"] | None = None
    """What the resource term counts. latency: that of a layer of each candidate, measured once per sweep with
    a trial's threads on one machine, while nothing else of the sweep runs. Left out: the preset's."""
    depth_cost: Literal["straight_through", "hard", "expected", "static"] | None = None
    """How the depth enters the resource term: the hard depth with the gradient of the expected one
    (straight_through), the hard depth without a gradient, the expected depth, or that of the supernet
    (static). Left out: the preset's."""
    depth_refresh: Literal["epoch", "interval"] | None = None
    """When the hard depth of the resource term is read anew: each epoch, or each step of the controllers
    (interval). Left out: the preset's."""
    cost_probabilities: Literal["expected", "sampled"] | None = None
    """Candidate probabilities in the resource term: softmax(alpha) (expected), or the batch's Gumbel sample
    (sampled). Left out: the preset's."""
    max_flops: int | None = None
    """The most FLOPs that a derived network may need over --max-length positions. Left out: the preset's, no
    bound."""
    temperature_kind: Literal["linear", "exponential", "cosine", "constant"] | None = None
    """How the Gumbel-softmax temperature falls, in the controllers' steps. Left out: the preset's."""
    temperature_start: float | None = None
    """Temperature of the first step (no unit). Left out: the preset's."""
    temperature_floor: float | None = None
    """The temperature never falls below it (no unit). Left out: the preset's."""
    temperature_fraction: float | None = None
    """Share of the planned steps at which the floor is reached, in (0, 1]. Left out: the preset's."""
    temperature_rate: float | None = None
    """Fall of the temperature per step instead, of the kinds linear and exponential. Left out: the
    preset's."""
    transfer_from: Literal["warm", "searched", "fresh"] | None = None
    """First weights of a retraining: of the seed's warm supernet, so that trials share retrainings, of the
    trial's own searched supernet, or fresh ones. Left out: the preset's."""

    def check(self) -> None:
        """Refuse options that cannot be meant whatever the preset is; `InputError` names them."""
        for name in ("search_learning_rate", "retrain_learning_rate", "retrain_epochs"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"{option(name)} must be above 0, got {value:g}")
        if self.temperature_fraction is not None and self.temperature_rate is not None:
            raise InputError("give either --temperature-fraction or --temperature-rate, not both")

    def check_effects(self, **now: str) -> None:
        """Refuse options that change nothing beside the others.

        Args:
            now: what `attention`, `loss`, `stop_on` and `temperature_kind` are with these options.

        Raises:
            InputError: names the option, and the one that it needs.
        """
        of = {
            "key_norm": ("attention", ("linear", "linear_bidirectional")),
            "num_negatives": ("loss", ("sampled",)),
            "stable_epochs": ("stop_on", ("choice",)),
            "ndcg_patience": ("stop_on", ("ndcg",)),
            "temperature_floor": ("temperature_kind", ("linear", "exponential", "cosine")),
            "temperature_fraction": ("temperature_kind", ("linear", "exponential", "cosine")),
            "temperature_rate": ("temperature_kind", ("linear", "exponential")),
        }
        for name, (owner, values) in of.items():
            if getattr(self, name) is not None and now[owner] not in values:
                raise InputError(
                    f"{option(name)} changes nothing with {option(owner)} {now[owner]}; it belongs to "
                    f"{' or '.join(values)}"
                )
