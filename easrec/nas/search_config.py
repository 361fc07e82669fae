"""Settings of the warm-up and of the search."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from easrec.compute import Precision, check_precision
from easrec.errors import InputError
from easrec.nas.controllers import TemperatureSchedule
from easrec.nas.resources import DepthCost, Resource
from easrec.weight_steps import Loss, check_loss_settings

WarmupPaths = Literal["mixture", "sandwich"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """Settings of the warm-up and of the search."""

    tradeoff: float = 0.1
    """Weight of the resource term in the controllers' loss (lambda in the paper); 0 searches for accuracy."""
    seed: int = 0
    """Seed of initial weights, batches, dropout and Gumbel noise."""
    max_length: int = 50
    """Positions of a sequence (N)."""
    warmup_epochs: int = 5
    """Epochs in which only the weights learn, in the way of `warmup_paths`."""
    warmup_paths: WarmupPaths = "mixture"
    """What a step of the warm-up trains: the mixture of all candidates and exits with equal weights, as the
    search's first samples nearly are (`mixture`), or single networks, as they are derived in the end: the
    largest of the space, the smallest, and one drawn anew each step (`sandwich`). In shared weights the
    widest columns otherwise learn least, since only the wide candidates have them."""
    search_epochs: int = 10
    """The most epochs of the search itself."""
    stop_on: Literal["choice", "ndcg"] = "choice"
    """What ends the search before: the hard choice that stays the same for `stable_epochs`, or NDCG@10 of the
    hard-selected network in the supernet that does not grow for `ndcg_patience` epochs. The result is the
    choice at the end in either case."""
    stable_epochs: int = 3
    """Epochs in which the hard choice must have stayed the same."""
    ndcg_patience: int = 10
    """Epochs without a better NDCG@10 of the hard-selected network."""
    controller_data: Literal["valid", "train_split"] = "valid"
    """What the controllers learn from: the validation targets, or each user's last training target, which
    the weights then do not see, so that the search leaves validation untouched."""
    batch_size: int = 128
    """Sequences in a batch: windows with causal attention, prefixes otherwise."""
    controller_batch_size: int | None = None
    """Validation targets in a controllers' step; None for as many as `batch_size`. Every sequence there has
    one target, whatever the attention."""
    learning_rate: float = 1e-3
    """Adam's step size for the weights."""
    dropout: float = 0.2
    """Share of values dropped after the embeddings and before each residual sum."""
    loss: Loss = "full"
    """The weights' cross-entropy: over all items (`full`), or over the target and some others (`sampled`)."""
    num_negatives: int = 1024
    """Items that the targets of a batch compete with where the loss is sampled."""
    micro_batch_size: int | None = None
    """Sequences computed at once; None for the whole batch. Less memory, the same gradients. Where memory
    runs out all the same, training goes on with half as many."""
    precision: Precision = "float32"
    """Of the matrix products of training: `bfloat16` is for GPUs, with norms, state and loss in float32.
    Evaluation is in float32 always."""
    compile: bool = False
    """Let torch compile the layers: seconds to a minute once, then faster steps, mostly on a GPU."""
    controller_learning_rate: float = 0.01
    """Adam's step size for the controllers."""
    controller_interval: int = 2
    """Weight steps for each step of the controllers."""
    search_weights: Literal["train", "freeze"] = "train"
    """Whether weights and controllers learn in turn (`train`, bilevel optimisation), or the controllers
    alone, in as many steps, on weights as the warm-up left them (`freeze`): a quarter of the work. The
    controllers then judge by weights that never learnt under their own samples."""
    temperature: TemperatureSchedule = field(default_factory=TemperatureSchedule)
    """Schedule of the Gumbel-softmax temperature, in the controllers' steps."""
    resource: Resource = "flops"
    """What the resource term counts: `flops`, `params` or the measured `latency` of a layer."""
    latencies_ms: tuple[float, ...] = ()
    """Latency of a layer of each candidate, for `latency`; left out, it is measured when the search begins
    (see `easrec.evaluation.layer_latency`), and a search then repeats itself only up to that measurement."""
    depth_cost: DepthCost = "straight_through"
    """How the depth enters the resource term; see `easrec.nas.resources.resource_term`."""
    depth_refresh: Literal["epoch", "interval"] = "epoch"
    """When the hard depth of the resource term is read anew: each epoch or each controller step."""
    cost_probabilities: Literal["expected", "sampled"] = "expected"
    """Candidate probabilities in the resource term: softmax(alpha), or the batch's Gumbel sample."""
    accuracy_weight: float = 1.0
    """Weight of the cross-entropy in the controllers' loss; 0 leaves the resource term alone."""
    negligible_weight: float = 1e-3
    """Sampled weights below it count as zero in the weight steps, so that the candidates and layers that have
    them are not computed; 0 computes all. The controllers' own steps always compute all."""
    max_flops: int | None = None
    """Hard bound on the FLOPs of the derived network over max_length positions; None for no bound."""

    def __post_init__(self) -> None:
        for name in (
            "max_length",
            "search_epochs",
            "stable_epochs",
            "ndcg_patience",
            "batch_size",
            "controller_interval",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup_epochs", "seed", "tradeoff", "accuracy_weight"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise InputError(f"{name} must be a finite number of at least 0, got {value}")
        for name in ("learning_rate", "controller_learning_rate"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.search_weights == "freeze" and self.warmup_epochs == 0:
            raise InputError(
                "search_weights 'freeze' needs weights that have learnt: give at least 1 of warmup_epochs, "
                "or search_weights 'train'"
            )
        for name in ("max_flops", "controller_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.negligible_weight < 0.01:
            raise InputError(f"negligible_weight must lie in [0, 0.01), got {self.negligible_weight}")
        check_loss_settings(self.loss, self.num_negatives, self.micro_batch_size)
        check_precision(self.precision)
        # Lists arrive from JSON and command lines; a frozen value wants tuples.
        object.__setattr__(self, "latencies_ms", tuple(self.latencies_ms))
        if self.latencies_ms and self.resource != "latency":
            raise InputError(f"latencies_ms belong to resource='latency', got resource={self.resource!r}")
        for name, choices in (
            ("stop_on", ("choice", "ndcg")),
            ("controller_data", ("valid", "train_split")),
            ("warmup_paths", get_args(WarmupPaths)),
            ("search_weights", ("train", "freeze")),
            ("resource", get_args(Resource)),
            ("depth_cost", get_args(DepthCost)),
            ("depth_refresh", ("epoch", "interval")),
            ("cost_probabilities", ("expected", "sampled")),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")

    @property
    def validation_batch_size(self) -> int:
        """Validation targets in a controllers' step."""
        return self.controller_batch_size or self.batch_size

    def to_dict(self) -> dict[str, Any]:
        """The fields, nested ones too, as a dictionary of JSON values."""
        return asdict(self)

    def warmup_settings(self) -> dict[str, Any]:
        """The settings that the warm-up depends on: runs that agree in them can share one warm supernet."""
        names = (
            "seed",
            "max_length",
            "warmup_epochs",
            "warmup_paths",
            "batch_size",
            "learning_rate",
            "dropout",
            "controller_data",
            "loss",
            "num_negatives",
            "micro_batch_size",
            "precision",
            "compile",
        )
        return {name: getattr(self, name) for name in names}
