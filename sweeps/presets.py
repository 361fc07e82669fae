"""Named settings of a whole sweep, as functions that return them."""

from dataclasses import dataclass, replace

from easrec.models.architecture import CandidateSpace
from easrec.nas.controllers import TemperatureSchedule
from easrec.nas.search import SearchConfig
from easrec.retrain import RetrainConfig
from sweeps.trial import TransferFrom


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """What a trial does, apart from its tradeoff and seed."""

    space: CandidateSpace
    """What the searches choose from."""
    search: SearchConfig
    """Settings of warm-up and search; each trial puts its tradeoff and seed in."""
    retrain: RetrainConfig
    """Settings of the retraining; each trial puts its seed in."""
    transfer_from: TransferFrom
    """First weights of a retraining, see `sweeps.trial.TrialConfig`."""
    tradeoffs: tuple[float, ...]
    """Grid of lambda where the user names none."""
    num_users: int | None = None
    """Users drawn from the data set; None takes all."""
    latency_repeats: int = 200
    """Requests timed when latency is measured."""


def quick() -> Preset:
    """A full sweep of a small data set in minutes on two CPU cores: the default.

    Batches are smaller than the core's default, since a small data set gives few of them: MovieLens-100K has
    84 steps of 32 windows an epoch, and 21 of 128, too few for a supernet to learn in ten epochs.
    For the same reason the controllers learn three times as fast: in at most 210 steps at the core's default
    they end undecided, with no candidate above 0.6.

    The weights rest while the controllers learn: retrainings begin from the warm supernet, so that what a
    search taught the weights would serve its controllers alone, at four times the price.
    """
    return Preset(
        space=CandidateSpace(
            hidden_size=64,
            inner_size=256,
            num_layers=4,
            num_heads=4,
            hidden_intensities=(0.0, 0.5, 0.75),
            inner_intensities=(0.0, 0.5, 0.75),
        ),
        search=SearchConfig(
            max_length=50,
            warmup_epochs=5,
            search_epochs=5,
            batch_size=32,
            controller_learning_rate=0.03,
            search_weights="freeze",
        ),
        retrain=RetrainConfig(max_length=50, max_epochs=100, patience=10, batch_size=64, learning_rate=2e-3),
        transfer_from="warm",
        tradeoffs=(0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    )


def smoke() -> Preset:
    """The stages of `quick` on a few hundred users and for few epochs: shows that everything runs."""
    parent = quick()
    return replace(
        parent,
        space=replace(parent.space, hidden_size=32, inner_size=64, num_layers=2),
        search=replace(parent.search, warmup_epochs=1, search_epochs=2),
        retrain=replace(parent.retrain, max_epochs=2, batch_size=32),
        tradeoffs=(0.0, 10.0),
        num_users=300,
        latency_repeats=50,
    )


def paper() -> Preset:
    """The paper's Table II for ML-1M: bidirectional attention trained on prefixes, no warm-up.

    Meant for a GPU: an epoch passes every prefix through the encoder. The temperature falls by a fixed rate,
    and retraining starts from the weights of the trial's own searched supernet.
    """
    return Preset(
        space=CandidateSpace(
            hidden_size=128,
            inner_size=256,
            num_layers=4,
            num_heads=4,
            hidden_intensities=(0.0, 0.25, 0.5),
            inner_intensities=(0.0, 0.25, 0.5),
            attention="linear_bidirectional",
        ),
        search=SearchConfig(
            max_length=200,
            warmup_epochs=0,
            search_epochs=10,
            batch_size=1024,
            temperature=TemperatureSchedule(kind="linear", floor=0.01, rate=0.00005),
        ),
        retrain=RetrainConfig(max_length=200, max_epochs=200, patience=10, batch_size=2048),
        transfer_from="searched",
        tradeoffs=(0.0, 0.03, 0.1, 0.3, 1.0, 3.0),
    )


PRESETS = {"quick": quick, "smoke": smoke, "paper": paper}
