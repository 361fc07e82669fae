"""What runs in Ray's processes: warm-ups, trials and measurements, each on a few CPU threads."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ray
import torch
from ray import tune

from easrec.data.sequences import SplitData
from easrec.evaluation.profile import ProfileConfig, profile_network
from easrec.models.architecture import Architecture
from sweeps.store import EntryBusyError, OnBusy, Store, StoredFailureError, Workspace, content_key
from sweeps.trial import NETWORK, TrialConfig, run_trial, warm_stage


@dataclasses.dataclass(frozen=True, slots=True)
class SharedData:
    """Split data in Ray's object store: every process on a node reads the same memory."""

    parts: Any
    """Reference to the arrays and the rest of `SplitData.to_arrays`."""

    @classmethod
    def put(cls, data: SplitData) -> "SharedData":
        """Put the data into the object store, once."""
        return cls(ray.put(data.to_arrays()))

    def get(self) -> SplitData:
        """The data, over read-only arrays that are not copied."""
        arrays, rest = ray.get(self.parts)
        return SplitData.from_arrays(arrays, rest)


def warm(trial: TrialConfig, data: SharedData, store: Store) -> None:
    """Warm the supernet of a trial's seed; a failure that would repeat itself is left in the store."""
    torch.set_num_threads(trial.warmup_threads)
    try:
        warm_stage(trial, data.get(), store.owned_by(f"warm-up {trial.warm_key}"))
    except StoredFailureError:
        return  # the driver reads why from the store, as for trials


def train(
    config: Mapping[str, Any],
    *,
    trials: Mapping[str, TrialConfig],
    data: SharedData,
    store: Store,
    on_busy: OnBusy,
) -> None:
    """The function trainable: one trial, whose results go to the store.

    Ray is told a status alone: `finished`, `failed` (in a way that would repeat itself, so Ray must not
    retry), or `deferred` when another trial is just retraining the same architecture.
    """
    trial = trials[config["trial"]]
    # Processes go from trial to trial. Ray's own choice of threads follows the CPUs of the request; results
    # depend on their number, so it is the trial's.
    torch.set_num_threads(trial.threads)
    try:
        run_trial(trial, data.get(), store.owned_by(f"trial {trial.trial_id}"), on_busy=on_busy)
        status = "finished"
    except EntryBusyError:
        status = "deferred"
    except StoredFailureError:
        status = "failed"
    tune.report({"status": status})


def measure_key(trial: TrialConfig, architecture: Architecture, settings: ProfileConfig) -> str:
    """Key of what a network costs: its weights do not matter, so seeds share it."""
    return content_key(
        {
            "architecture": architecture.to_dict(),
            "max_length": trial.search.max_length,
            "data": trial.data_checksum,
            "code": trial.code_version,
            "device": trial.device,
            "train_batch_size": trial.retrain.batch_size,
            "settings": dataclasses.asdict(settings),
        }
    )


def measure(
    trial: TrialConfig,
    architecture: Architecture,
    settings: ProfileConfig,
    data: SharedData,
    store: Store,
) -> dict[str, float]:
    """What a retrained network costs on the machine that this runs on; nothing else should run there.

    Raises:
        StoredFailureError: measuring failed, and would again.
    """
    network = store.entry("retrain", trial.retrain_key(architecture)).path(NETWORK)

    def compute(workspace: Workspace) -> dict[str, Any]:
        profile = profile_network(
            network,
            data.get(),
            settings,
            device=trial.device,
            train_batch_size=trial.retrain.batch_size,
        )
        return dataclasses.asdict(profile)

    key = measure_key(trial, architecture, settings)
    return store.get_or_compute("measure", key, compute, failures=(ValueError,))
