"""What Ray runs for a comparison: a method with a seed, in stages that the store keeps.

A contestant ends with one network. How it comes to it is its kind: by a search (EASRec's or another one), by
training a baseline, or by retraining architectures of EASRec's space and keeping the best.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from easrec.baselines import Baseline, baseline_flops, train_baseline
from easrec.data.feature_table import FeatureTable
from easrec.data.sequences import SplitData
from easrec.evaluation.profile import ProfileConfig
from easrec.evaluation.protocols import selection_protocol
from easrec.micro_batches import memory_explained
from easrec.models.architecture import Architecture
from easrec.models.saving import load_network
from easrec.nas.resources import network_flops, network_parameters, scoring_flops
from easrec.nas.training_cost import retraining_flops, search_flops, warmup_flops
from sweeps.coverage import recommended
from sweeps.gpu_share import limit_memory
from sweeps.records import curves_of, flatten, trial_architecture, trial_params
from sweeps.results import Curve, Param
from sweeps.store import OnBusy, Result, Store, Workspace, content_key
from sweeps.trainable import SharedData, report_status
from sweeps.trial import (
    FAILURES,
    NETWORK,
    TrialConfig,
    keep_network,
    recording,
    retrain_stage,
    run_trial,
    search_stage,
    sizes_text,
)

Place = tuple[str, str]
"""Kind and key of an entry of the store."""

SECONDS = ("warmup_s", "search_s", "retrain_s")
"""Where the time of a contestant went; search_s of one that tries architectures: all retrainings but that of
the chosen one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The network that a contestant ended with."""

    place: Place
    """Entry that holds it."""
    architecture: Architecture
    """Its transformer."""
    network: Mapping[str, Any]
    """What its costs depend on besides data and device, as JSON values."""
    metrics: dict[str, float]
    """Accuracies, FLOPs, parameters and `SECONDS`."""
    curves: dict[str, Curve]
    """Metrics over the epochs."""
    notes: dict[str, int]
    """Counts that say how it was found."""
    start_ms: int
    """When the first of its own stages began, in ms since 1970."""
    end_ms: int
    """When the last one ended."""


class Contestant(Protocol):
    """A method with a seed; an immutable value that Ray sends to its processes."""

    @property
    def method(self) -> str:
        """Its short name, such as `darts`."""

    @property
    def trial(self) -> TrialConfig:
        """Settings of its trainings; of a baseline those of the retraining alone matter."""

    @property
    def trial_id(self) -> str:
        """Key of the whole."""

    @property
    def warm_ups(self) -> tuple[TrialConfig, ...]:
        """Trials whose warm supernets must be there before it runs."""

    def run(self, data: SplitData, features: FeatureTable | None, store: Store, on_busy: OnBusy) -> None:
        """Compute what the store lacks."""

    def places(self, data: SplitData, store: Store) -> list[Place]:
        """The entries that it has computed or failed at, as far as they are known by now."""

    def outcome(self, data: SplitData, store: Store) -> Outcome | None:
        """What it ended with, or None before that."""

    def params(self) -> dict[str, Param]:
        """Its settings, nested names joined by dots."""


def _finished(store: Store, place: Place) -> Result | None:
    """The result of an entry that did not fail."""
    result = store.entry(*place).result()
    return None if result is None or result.error is not None else result


def _costs(architecture: Architecture, data: SplitData, max_length: int) -> dict[str, float]:
    flops = network_flops(architecture, max_length)
    return {
        "flops": flops,
        "flops_total": flops + scoring_flops(architecture, data.num_items),
        "params": network_parameters(architecture, data.num_items, max_length),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Searched:
    """A search that derives an architecture, which is retrained."""

    method: str
    trial: TrialConfig

    @property
    def trial_id(self) -> str:
        """See `Contestant`."""
        return content_key({"contestant": self.method, "trial": self.trial.trial_id})

    @property
    def warm_ups(self) -> tuple[TrialConfig, ...]:
        """See `Contestant`."""
        return (self.trial,)

    def run(self, data: SplitData, features: FeatureTable | None, store: Store, on_busy: OnBusy) -> None:
        """See `Contestant`."""
        run_trial(self.trial, data, store, on_busy=on_busy)

    def places(self, data: SplitData, store: Store) -> list[Place]:
        """See `Contestant`."""
        found = [("warm", self.trial.warm_key), ("search", self.trial.search_key)]
        architecture = trial_architecture(self.trial, store)
        return found if architecture is None else [*found, ("retrain", self.trial.retrain_key(architecture))]

    def outcome(self, data: SplitData, store: Store) -> Outcome | None:
        """See `Contestant`."""
        results = [_finished(store, place) for place in self.places(data, store)]
        architecture = trial_architecture(self.trial, store)
        if architecture is None or None in results:
            return None
        warmed, searched, retrained = [result for result in results if result is not None]
        return Outcome(
            place=("retrain", self.trial.retrain_key(architecture)),
            architecture=architecture,
            network={"architecture": architecture.to_dict()},
            metrics={
                **retrained.value["metrics"],
                **_costs(architecture, data, self.trial.retrain.max_length),
                "warmup_s": warmed.value["warmup_s"],
                "search_s": searched.value["search_s"],
                "retrain_s": retrained.value["retrain_s"],
                "best_epoch": retrained.value["best_epoch"],
            },
            curves=curves_of(warmed, searched, retrained),
            notes={},
            start_ms=searched.start_ms,
            end_ms=max(searched.end_ms, retrained.end_ms),
        )

    def params(self) -> dict[str, Param]:
        """See `Contestant`."""
        method = {} if self.trial.method is None else {"method": self.trial.method.to_dict()}
        return {**trial_params(self.trial, {}), **flatten(method)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A baseline, trained from fresh weights."""

    method: str
    trial: TrialConfig
    baseline: Baseline
    architecture: Architecture
    attention_dropout: float
    features: str | None
    """Checksum of the features that it reads; None: it reads none."""
    num_values: int
    """Their distinct values."""

    @property
    def place(self) -> Place:
        """The entry of its training."""
        key = content_key(
            {
                **self.trial.common(self.trial.threads),
                "baseline": self.baseline,
                "architecture": self.architecture.to_dict(),
                "attention_dropout": self.attention_dropout,
                "features": self.features,
                "settings": self.trial.retrain.to_dict(),
            }
        )
        return "baseline", key

    @property
    def trial_id(self) -> str:
        """See `Contestant`."""
        return content_key({"contestant": self.method, "trained": self.place[1]})

    @property
    def warm_ups(self) -> tuple[TrialConfig, ...]:
        """See `Contestant`."""
        return ()

    def run(self, data: SplitData, features: FeatureTable | None, store: Store, on_busy: OnBusy) -> None:
        """See `Contestant`."""
        config, device = self.trial.retrain, self.trial.device

        def compute(workspace: Workspace) -> dict[str, Any]:
            sizes = sizes_text(config.max_length, data, config.batch_size, self.architecture.hidden_size)
            with memory_explained("the training", sizes):
                result = train_baseline(
                    self.baseline,
                    self.architecture,
                    data,
                    config,
                    features=None if self.features is None else features,
                    attention_dropout=self.attention_dropout,
                    device=device,
                    checkpoint_dir=workspace.checkpoints,
                    on_epoch=recording(workspace),
                )
                params = sum(parameter.numel() for parameter in result.model.parameters())
                return {**keep_network(result, data, workspace, device=device), "params": params}

        store.get_or_compute(*self.place, compute, on_busy=on_busy, failures=FAILURES)

    def places(self, data: SplitData, store: Store) -> list[Place]:
        """See `Contestant`."""
        return [self.place]

    def outcome(self, data: SplitData, store: Store) -> Outcome | None:
        """See `Contestant`."""
        trained = _finished(store, self.place)
        if trained is None:
            return None
        flops = baseline_flops(
            self.baseline, self.architecture, self.trial.retrain.max_length, self.num_values
        )
        return Outcome(
            place=self.place,
            architecture=self.architecture,
            network={
                "architecture": self.architecture.to_dict(),
                "baseline": self.baseline,
                "attention_dropout": self.attention_dropout,
                "features": self.features,
            },
            metrics={
                **trained.value["metrics"],
                "flops": flops,
                "flops_total": flops + scoring_flops(self.architecture, data.num_items),
                "params": trained.value["params"],
                "warmup_s": 0.0,
                "search_s": 0.0,
                "retrain_s": trained.value["retrain_s"],
                "best_epoch": trained.value["best_epoch"],
            },
            curves=curves_of(trained),
            notes={},
            start_ms=trained.start_ms,
            end_ms=trained.end_ms,
        )

    def params(self) -> dict[str, Param]:
        """See `Contestant`."""
        return {
            "seed": self.trial.seed,
            **flatten({"retrain": self.trial.retrain.to_dict()}),
            "baseline": self.baseline,
            "attention_dropout": self.attention_dropout,
            "features": self.features or "none",
            "device": self.trial.device,
            "threads": self.trial.threads,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """Architectures of EASRec's space retrained one after the other; the best by validation is kept."""

    method: str
    trial: TrialConfig
    """EASRec's trial. Architectures are retrained as it retrains what it derives, and from fresh weights
    where it takes those of its own searched supernet."""
    which: Literal["all", "random"]
    """All of the space, or, in random order, as many as EASRec's search and retraining pay for."""

    @property
    def _retraining(self) -> TrialConfig:
        origin: Literal["warm", "fresh"] = "warm" if self.trial.transfer_from == "warm" else "fresh"
        return dataclasses.replace(self.trial, transfer_from=origin)

    @property
    def trial_id(self) -> str:
        """See `Contestant`."""
        return content_key({"contestant": self.method, "which": self.which, "trial": self.trial.trial_id})

    @property
    def warm_ups(self) -> tuple[TrialConfig, ...]:
        """See `Contestant`."""
        return (self.trial,)

    def architectures(self) -> list[Architecture]:
        """What EASRec may derive in the order in which it is tried: at random, or the costliest first."""
        found, search = self.trial.space.architectures(), self.trial.search
        if search.max_flops is not None:
            found = [one for one in found if network_flops(one, search.max_length) <= search.max_flops]
        if self.which == "random":
            order = np.random.default_rng(self.trial.seed).permutation(len(found))
            return [found[at] for at in order]
        return sorted(found, key=lambda one: network_flops(one, self.trial.retrain.max_length), reverse=True)

    def run(self, data: SplitData, features: FeatureTable | None, store: Store, on_busy: OnBusy) -> None:
        """See `Contestant`."""
        if self.which == "random":  # what EASRec's search costs is known once it has been run
            retrain_stage(self.trial, search_stage(self.trial, data, store), data, store, on_busy=on_busy)
        while (architecture := self._next(data, store)) is not None:
            retrain_stage(self._retraining, architecture, data, store, on_busy=on_busy)

    def _place(self, architecture: Architecture) -> Place:
        return "retrain", self._retraining.retrain_key(architecture)

    def _progress(self, data: SplitData, store: Store) -> Iterator[tuple[Architecture, Result | None]]:
        """The architectures that count, in order; the last one has no result if more is to be trained."""
        spent, budget = 0.0, self._budget(data, store)
        for number, architecture in enumerate(self.architectures()):
            result = _finished(store, self._place(architecture))
            if result is not None:
                spent += retraining_flops(
                    architecture, data, self.trial.retrain.max_length, len(result.value["epochs"])
                )
                # What exceeds the budget does not count; the first does, so that there is a result.
                if number > 0 and spent > budget:
                    return
            yield architecture, result
            if result is None:
                return

    def _budget(self, data: SplitData, store: Store) -> float:
        """FLOPs; NaN, which nothing exceeds, before EASRec's trial has finished or without a limit."""
        if self.which == "all":
            return float("nan")
        trial, max_length = self.trial, self.trial.search.max_length
        architecture = trial_architecture(trial, store)
        if architecture is None:
            return float("nan")
        retrained = _finished(store, ("retrain", trial.retrain_key(architecture)))
        searched = _finished(store, ("search", trial.search_key))
        warmed = _finished(store, ("warm", trial.warm_key))
        if retrained is None or searched is None or warmed is None:
            return float("nan")
        spent = search_flops(trial.space, data, trial.search, len(searched.value["epochs"]))
        spent += retraining_flops(architecture, data, max_length, len(retrained.value["epochs"]))
        if self._retraining.transfer_from == "fresh":  # then it needs no warm-up, and is given its price
            spent += warmup_flops(
                trial.space, data, max_length, len(warmed.value["epochs"]), trial.search.warmup_paths
            )
        return spent

    def _next(self, data: SplitData, store: Store) -> Architecture | None:
        return next((one for one, result in self._progress(data, store) if result is None), None)

    def places(self, data: SplitData, store: Store) -> list[Place]:
        """See `Contestant`."""
        found = [("warm", self.trial.warm_key)]
        if self.which == "random":
            found += Searched(method="", trial=self.trial).places(data, store)[1:]
        return found + [self._place(architecture) for architecture, _ in self._progress(data, store)]

    def outcome(self, data: SplitData, store: Store) -> Outcome | None:
        """See `Contestant`."""
        if self.which == "random" and Searched(method="", trial=self.trial).outcome(data, store) is None:
            return None
        tried = [(one, result) for one, result in self._progress(data, store)]
        results = [result for _, result in tried if result is not None]
        warmed = _finished(store, ("warm", self.trial.warm_key))
        if len(results) < len(tried) or warmed is None:
            return None
        accuracy = f"valid/{selection_protocol(data)}/ndcg_at_10"
        max_length = self.trial.retrain.max_length
        best = max(
            range(len(tried)),
            key=lambda at: (
                results[at].value["metrics"][accuracy],
                -network_flops(tried[at][0], max_length),
            ),
        )
        architecture, chosen = tried[best][0], results[best]
        all_s = sum(result.value["retrain_s"] for result in results)
        from_warm = self._retraining.transfer_from == "warm"
        return Outcome(
            place=self._place(architecture),
            architecture=architecture,
            network={"architecture": architecture.to_dict()},
            metrics={
                **chosen.value["metrics"],
                **_costs(architecture, data, max_length),
                "warmup_s": warmed.value["warmup_s"] if from_warm else 0.0,
                "search_s": all_s - chosen.value["retrain_s"],
                "retrain_s": chosen.value["retrain_s"],
                "best_epoch": chosen.value["best_epoch"],
            },
            curves=curves_of(chosen),
            notes={"architectures_tried": len(tried)},
            start_ms=min(result.start_ms for result in results),
            end_ms=max(result.end_ms for result in results),
        )

    def params(self) -> dict[str, Param]:
        """See `Contestant`."""
        return {**trial_params(self.trial, {}), "transfer_from": self._retraining.transfer_from}


def coverage_place(place: Place) -> Place:
    """The entry of what a network recommends."""
    return "recommended", content_key({"network": list(place)})


def coverage_stage(contestant: Contestant, data: SplitData, store: Store) -> None:
    """What the network of a contestant that has finished recommends, see `sweeps.coverage`."""
    outcome = contestant.outcome(data, store)
    assert outcome is not None  # it has just been computed
    device = contestant.trial.device

    def compute(workspace: Workspace) -> dict[str, Any]:
        network = load_network(store.entry(*outcome.place).path(NETWORK), device=device)
        return recommended(network.scores, data, max_length=network.max_length, device=device)

    store.get_or_compute(*coverage_place(outcome.place), compute)


def measured_together(found: Iterable[tuple[Contestant, Outcome]]) -> str:
    """What tells the networks of a comparison that are measured in turn from those of another.

    Figures are compared with one another, so that a comparison of other networks measures all of them anew.
    """
    return content_key(sorted({content_key(_network(one, outcome)) for one, outcome in found}))


def _network(contestant: Contestant, outcome: Outcome) -> dict[str, Any]:
    return {**outcome.network, "train_batch_size": contestant.trial.retrain.batch_size}


def timing_key(
    contestant: Contestant, outcome: Outcome, settings: ProfileConfig, number: int, together: str
) -> str:
    """Key of one measurement of a contestant's network; those that share the network share it.

    Args:
        contestant: whose network.
        outcome: what it ended with.
        settings: how it is measured.
        number: which of the repeated measurements, from 0.
        together: see `measured_together`.
    """
    trial = contestant.trial
    return content_key(
        {
            "network": _network(contestant, outcome),
            "together": together,
            "max_length": trial.retrain.max_length,
            "data": trial.data_checksum,
            "code": trial.code_version,
            **trial.measuring_settings(),
            "settings": dataclasses.asdict(settings),
            "measurement": number,
        }
    )


def run_contestant(
    config: Mapping[str, Any],
    *,
    trials: Mapping[str, Contestant],
    data: SharedData,
    features: FeatureTable | None,
    store: Store,
    on_busy: OnBusy,
    share: float | None,
) -> None:
    """The function trainable of a comparison; see `sweeps.trainable.train`."""
    contestant = trials[config["trial"]]
    torch.set_num_threads(contestant.trial.threads)
    limit_memory(contestant.trial.device, share)
    own, split = store.owned_by(f"contestant {contestant.trial_id}"), data.get()

    def work() -> None:
        contestant.run(split, features, own, on_busy)
        coverage_stage(contestant, split, own)

    report_status(work)
