"""What the store knows about a trial, put together as the record that MLflow and the table take."""

import json
from collections.abc import Mapping
from typing import Any

from easrec.data.sequences import SplitData
from easrec.models.architecture import Architecture
from easrec.nas.resources import network_flops, network_parameters, scoring_flops
from easrec.nas.training_cost import retraining_flops, search_flops, warmup_flops
from sweeps.results import Curve, FailedTrial, Param, TrialRecord, Unfinished
from sweeps.store import Result, Store
from sweeps.trial import ARCHITECTURE, NETWORK, TrialConfig
from sweeps.user_ranks import RANKS

_MIB = 2**20
_BYTES_PER_PARAMETER = 4  # float32

MEASURED = (
    "latency_ms_p50",
    "latency_ms_p95",
    "served_ms_p50",
    "served_ms_p95",
    "served_history_ms_p50",
    "update_ms_p50",
    "inference_s",
    "peak_memory_mib",
    "train_peak_memory_mib",
)
"""Metrics of a record that measuring its network adds."""

_MEASURED_ON = ("device", "threads", "host", "cpu", "gpu")
"""What a measurement says of the place where it was made; older ones say less."""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Param]:
    """Nested settings as one level, names joined by dots; lists become JSON texts.

    >>> flatten({"search": {"seed": 0, "betas": [0.5, 0.9]}, "preset": "quick"})
    {'search.seed': 0, 'search.betas': '[0.5, 0.9]', 'preset': 'quick'}
    """
    flat: dict[str, Param] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, str | int | float | bool):
            flat[prefix + name] = value
        else:
            flat[prefix + name] = "none" if value is None else json.dumps(value)
    return flat


def trial_architecture(trial: TrialConfig, store: Store) -> Architecture | None:
    """The architecture that a trial derived, or None before its search has finished."""
    result = store.entry("search", trial.search_key).result()
    if result is None or result.error is not None:
        return None
    return Architecture.from_dict(result.value["architecture"])


def retrain_result(trial: TrialConfig, store: Store) -> Result | None:
    """The result of a trial's retraining, its own or one that it shares; None while there is none."""
    architecture = trial_architecture(trial, store)
    if architecture is None:
        return None
    return store.entry("retrain", trial.retrain_key(architecture)).result()


def failure(trial: TrialConfig, store: Store) -> str | None:
    """Why a trial cannot finish, where a stage of it failed in a way that would repeat itself."""
    for result in (
        store.entry("warm", trial.warm_key).result(),
        store.entry("search", trial.search_key).result(),
        retrain_result(trial, store),
    ):
        if result is not None and result.error is not None:
            return result.error
    return None


def smaller_micro_batches(trial: TrialConfig, store: Store) -> dict[str, int]:
    """Stage -> sequences that were computed at once in its end, where memory ran out at what was asked."""
    stages = {
        "warmup": (store.entry("warm", trial.warm_key).result(), trial.search.micro_batch_size),
        "search": (store.entry("search", trial.search_key).result(), trial.search.micro_batch_size),
        "retrain": (retrain_result(trial, store), trial.retrain.micro_batch_size),
    }
    return {
        stage: result.value["micro_batch_size"]
        for stage, (result, asked) in stages.items()
        if result is not None and result.value.get("micro_batch_size", asked) != asked
    }


def refusal(trial: TrialConfig, store: Store) -> str | None:
    """Why a trial ends without a retraining: the network that it derived is over its budget. None if not."""
    architecture = trial_architecture(trial, store)
    return None if architecture is None else trial.refusal(architecture)


def trial_record(
    trial: TrialConfig,
    data: SplitData,
    store: Store,
    *,
    settings: Mapping[str, Param],
    tags: Mapping[str, str],
    profile: Mapping[str, Any] | None = None,
) -> TrialRecord | None:
    """The record of a trial, or None unless it has finished; the same whenever it is made.

    Args:
        trial: which trial.
        data: what it was trained on.
        store: where its stages left their results.
        settings: further parameters to record.
        tags: tags to record.
        profile: what its network was measured to cost, once that is known.
    """
    architecture = trial_architecture(trial, store)
    retrained = retrain_result(trial, store)
    if architecture is None or retrained is None or retrained.error is not None:
        return None
    if trial.refusal(architecture) is not None:  # another trial may have had it retrained
        return None
    warmed = store.entry("warm", trial.warm_key).result()
    searched = store.entry("search", trial.search_key).result()
    assert warmed is not None and searched is not None  # a derived architecture comes after both
    max_length = trial.search.max_length
    flops = network_flops(architecture, max_length)
    params = network_parameters(architecture, data.num_items, max_length)
    metrics: dict[str, float] = {
        **retrained.value["metrics"],
        "flops": flops,
        "flops_total": flops + scoring_flops(architecture, data.num_items),
        "params": params,
        "weights_mib": params * _BYTES_PER_PARAMETER / _MIB,
        "warmup_s": warmed.value["warmup_s"],
        "search_s": searched.value["search_s"],
        "retrain_s": retrained.value["retrain_s"],
        "warmup_flops": warmup_flops(
            trial.space, data, max_length, len(warmed.value["epochs"]), trial.search.warmup_paths
        ),
        "search_flops": search_flops(trial.space, data, trial.search, len(searched.value["epochs"])),
        "retrain_flops": retraining_flops(
            architecture, data, trial.retrain.max_length, len(retrained.value["epochs"])
        ),
        "best_epoch": retrained.value["best_epoch"],
    }
    measured_on = {}
    if profile is not None:
        metrics |= {name: profile[name] for name in MEASURED}
        measured_on = {f"measured.{name}": str(profile[name]) for name in _MEASURED_ON if name in profile}
    entry = store.entry("retrain", trial.retrain_key(architecture))
    network = entry.path(NETWORK)
    ranks = entry.path(RANKS)  # what earlier versions retrained has none
    return TrialRecord(
        trial_id=trial.trial_id,
        tradeoff=trial.tradeoff,
        seed=trial.seed,
        architecture=architecture,
        params={
            **trial_params(trial, settings),
            **_measured_layers(trial, searched, store),
            **{
                f"{stage}.micro_batch_size_used": size
                for stage, size in smaller_micro_batches(trial, store).items()
            },
            **flatten({"architecture": architecture.to_dict()}),
            "architecture_id": architecture.architecture_id,
        },
        metrics=metrics,
        curves=curves_of(warmed, searched, retrained),
        tags={**tags, **measured_on, "architecture_id": architecture.architecture_id},
        artifacts={
            "architecture.json": entry.path(ARCHITECTURE),
            **{file.name: file for file in sorted(network.iterdir())},
            **({RANKS: ranks} if ranks.is_file() else {}),
        },
        start_ms=searched.start_ms,
        # A shared retraining may have begun, and even ended, before this trial's search did.
        end_ms=max(searched.end_ms, retrained.end_ms),
    )


def failed_record(
    trial: TrialConfig,
    error: str,
    store: Store,
    *,
    settings: Mapping[str, Param],
    tags: Mapping[str, str],
    now_ms: int,
    end_ms: int | None = None,
    status: Unfinished = "failed",
) -> FailedTrial:
    """The record of a trial that cannot finish; it ended at `end_ms`, or with its last stage."""
    searched = store.entry("search", trial.search_key).result()
    retrained = retrain_result(trial, store)
    ends = [result.end_ms for result in (searched, retrained) if result is not None]
    if end_ms is not None:
        ends = [end_ms]
    start_ms = now_ms if searched is None else searched.start_ms
    return FailedTrial(
        trial_id=trial.trial_id,
        tradeoff=trial.tradeoff,
        seed=trial.seed,
        params=trial_params(trial, settings),
        error=error,
        start_ms=start_ms,
        end_ms=max([start_ms, *ends]),
        tags=dict(tags),
        status=status,
    )


def trial_params(trial: TrialConfig, settings: Mapping[str, Param]) -> dict[str, Param]:
    """The settings of a trial and what else is to be recorded, nested names joined by dots."""
    return {
        "tradeoff": trial.tradeoff,
        "seed": trial.seed,
        **flatten(
            {
                "space": trial.space.to_dict(),
                "search": trial.search.to_dict(),
                "retrain": trial.retrain.to_dict(),
            }
        ),
        "transfer_from": trial.transfer_from,
        "device": trial.device,
        "threads": trial.threads,
        "warmup_threads": trial.warmup_threads,
        **settings,
    }


def _measured_layers(trial: TrialConfig, searched: Result, store: Store) -> dict[str, Param]:
    """What a search by latency went by; apart from the settings, which a failed trial has recorded before."""
    if trial.search.resource != "latency":
        return {}
    table = store.entry("latency", trial.latency_key).result()
    measured_on = {} if table is None else table.value.get("hardware", {})
    return flatten({"layer_latencies_ms": searched.value["latencies_ms"], "layer_latencies_on": measured_on})


def curves_of(*results: Result) -> dict[str, Curve]:
    """Every metric of every epoch as `stage/metric`."""
    curves: dict[str, Curve] = {}
    for result in results:
        for epoch in result.value["epochs"]:
            measured = {**epoch["metrics"], "sequences_per_s": epoch["sequences_per_s"]}
            for name, value in measured.items():
                point = (epoch["epoch"], epoch["timestamp_ms"], value)
                curves.setdefault(f"{epoch['stage']}/{name}", []).append(point)
    return curves
