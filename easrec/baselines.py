"""The sequential baselines of the paper's comparison: SASRec, SASRecF and FDSA, trained as any network here.

Only their networks are special: batches, loss, early stopping, checkpoints and evaluation are those of
`easrec.retrain`.
"""

from pathlib import Path
from typing import Literal, get_args

import torch

from easrec.data.feature_table import FeatureTable
from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.models.architecture import Architecture, Attention, CandidateSpace
from easrec.models.features import FEATURE_NETWORKS
from easrec.models.transformer import SequentialRecommender
from easrec.nas.resources import network_flops
from easrec.retrain import RetrainConfig, RetrainResult, train
from easrec.training import OnEpoch, fingerprint, seeded

Baseline = Literal["sasrec", "sasrecf", "fdsa"]
Size = Literal["linrec", "supernet"]

LINREC_LAYERS, LINREC_HEADS, LINREC_ATTENTION_DROPOUT = 2, 8, 0.2


def baseline_architecture(
    space: CandidateSpace, *, attention: Attention = "softmax", size: Size = "linrec"
) -> Architecture:
    """The transformer of a baseline, without gates.

    Args:
        space: gives hidden and inner size, and the norm of linear attention's keys.
        attention: `softmax`, or linear attention in its place ("with LinRec").
        size: `linrec`: two layers of eight heads, as LinRec's published settings are; `supernet`: layers and
            heads of the space.

    Raises:
        InputError: the hidden size is no multiple of the number of heads.
    """
    if size not in get_args(Size):
        raise InputError(f"size must be one of {get_args(Size)}, got {size!r}")
    of_linrec = size == "linrec"
    return Architecture(
        hidden_size=space.hidden_size,
        inner_size=space.inner_size,
        num_layers=LINREC_LAYERS if of_linrec else space.num_layers,
        num_heads=LINREC_HEADS if of_linrec else space.num_heads,
        attention=attention,
        key_norm=space.key_norm,
        gate_layers=0,
    )


def attention_dropout_of(size: Size, attention: Attention) -> float:
    """The attention dropout that goes with a size; linear attention has no weights that could be dropped."""
    return LINREC_ATTENTION_DROPOUT if size == "linrec" and attention == "softmax" else 0.0


def build_baseline(
    baseline: Baseline,
    architecture: Architecture,
    num_items: int,
    max_length: int,
    dropout: float = 0.2,
    *,
    features: FeatureTable | None = None,
    attention_dropout: float = 0.0,
) -> SequentialRecommender:
    """The network of a baseline with first weights from torch's global generator.

    Args:
        baseline: `sasrec` reads items alone, `sasrecf` and `fdsa` their features too.
        architecture: its transformer, of which FDSA has two.
        num_items: V.
        max_length: N.
        dropout: share of values dropped.
        features: the table of the items' values.
        attention_dropout: share of softmax attention's weights dropped.

    Raises:
        InputError: no such baseline; features are missing, unused or of other items.
    """
    if baseline == "sasrec":
        if features is not None:
            raise InputError("sasrec reads no features: leave them out")
        return SequentialRecommender(
            architecture, num_items, max_length, dropout, attention_dropout=attention_dropout
        )
    if baseline not in FEATURE_NETWORKS:
        raise InputError(f"baseline must be one of {', '.join(get_args(Baseline))}, got {baseline!r}")
    if features is None:
        raise InputError(
            f"{baseline} reads features of items, and the data set has none; give a file that describes the "
            "items, or compare with sasrec"
        )
    if features.num_items != num_items:
        raise InputError(
            f"the features {features.name!r} are of {features.num_items} items, but the data have "
            f"{num_items}; take both from the same log"
        )
    return FEATURE_NETWORKS[baseline](
        architecture,
        num_items,
        max_length,
        dropout,
        item_values=torch.from_numpy(features.values),
        num_values=features.num_values,
        attention_dropout=attention_dropout,
    )


def train_baseline(
    baseline: Baseline,
    architecture: Architecture,
    data: SplitData,
    config: RetrainConfig,
    *,
    features: FeatureTable | None = None,
    attention_dropout: float = 0.0,
    device: str = "cpu",
    checkpoint_dir: Path | str | None = None,
    on_epoch: OnEpoch | None = None,
) -> RetrainResult:
    """Train a baseline from fresh weights; see `build_baseline` and `easrec.retrain.retrain`.

    Raises:
        InputError: as of `build_baseline` and `retrain`.
        NonFiniteLossError: the loss, or a weight, became NaN or infinite.
        MemoryExhaustedError: not even one sequence at a time fits into memory.
    """
    with seeded(config.seed, "init", 0, device):
        model = build_baseline(
            baseline,
            architecture,
            data.num_items,
            config.max_length,
            config.dropout,
            features=features,
            attention_dropout=attention_dropout,
        ).to(device)
    owner = fingerprint(
        "baseline",
        baseline,
        data.checksum,
        data.num_items,
        architecture.to_dict(),
        config.to_dict(),
        attention_dropout,
        None if features is None else features.checksum,
    )
    return train(
        model, data, config, owner=owner, device=device, checkpoint_dir=checkpoint_dir, on_epoch=on_epoch
    )


def baseline_flops(
    baseline: Baseline, architecture: Architecture, sequence_length: int, num_values: int = 0
) -> int:
    """FLOPs of a baseline's `forward` on one sequence of N positions, as `easrec.nas.resources` counts them.

    SASRecF adds the fusion, 4 N d^2. FDSA has two transformers and adds the joining, 4 N d^2, and the scores
    of all A values and of "none", (A + 1) (2 d^2 + 2 d), which it takes once whatever the length. Pooling is
    a look-up with weights, and counts nothing.
    """
    d = architecture.hidden_size
    layers = network_flops(architecture, sequence_length)
    joined = 4 * sequence_length * d * d
    if baseline == "sasrec":
        return layers
    if baseline == "sasrecf":
        return layers + joined
    return 2 * layers + joined + (num_values + 1) * (2 * d * d + 2 * d)
