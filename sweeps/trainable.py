"""What runs in Ray's processes: warm-ups, trials and measurements, each on a few CPU threads."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import ray
import torch
from ray import tune

from easrec.data.sequences import SplitData
from easrec.evaluation.profile import ProfileConfig, profile_network
from easrec.models.architecture import Architecture
from sweeps.gpu_share import limit_memory
from sweeps.halving import StoppedError, TrialSide
from sweeps.hardware import hardware
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


def warm(trial: TrialConfig, data: SharedData, store: Store, share: float | None) -> None:
    """Warm the supernet of a trial's seed; a failure that would repeat itself is left in the store.

    `share` is the part of a GPU's memory that it may allocate, see `sweeps.gpu_share`.
    """
    torch.set_num_threads(trial.warmup_threads)
    limit_memory(trial.device, share)
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
    share: float | None,
    halving: TrialSide | None = None,
) -> None:
    """The function trainable: one trial, whose results go to the store; see `warm` for `share`.

    Ray is told a status: `finished`, `failed` (in a way that would repeat itself, so Ray must not retry),
    `deferred` when another trial is just retraining the same architecture, or `stopped` with halving, which
    also reports what each epoch of the retraining has reached.
    """
    trial = trials[config["trial"]]
    # Processes go from trial to trial. Ray's own choice of threads follows the CPUs of the request; results
    # depend on their number, so it is the trial's.
    torch.set_num_threads(trial.threads)
    limit_memory(trial.device, share)
    own = store.owned_by(f"trial {trial.trial_id}")
    judge = None if halving is None else halving.judge(own)
    report_status(lambda: run_trial(trial, data.get(), own, on_busy=on_busy, judge=judge))


def report_status(work: Callable[[], object]) -> None:
    """Do the work of a trial, whose results go to a store, and tell Ray how it ended; see `train`."""
    try:
        work()
        status = "finished"
    except EntryBusyError:
        status = "deferred"
    except StoppedError:
        status = "stopped"
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
            **trial.measuring_settings(),
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
) -> dict[str, Any]:
    """What a retrained network costs on the machine that this runs on; see `measure_entry`."""
    return measure_entry(
        ("retrain", trial.retrain_key(architecture)),
        measure_key(trial, architecture, settings),
        trial,
        settings,
        data,
        store,
    )


def measure_entry(
    network: tuple[str, str],
    key: str,
    trial: TrialConfig,
    settings: ProfileConfig,
    data: SharedData,
    store: Store,
    session: str = "",
) -> dict[str, Any]:
    """What a network of the store costs on the machine that this runs on, and what that machine is.

    Nothing else should run there.

    Args:
        network: kind and key of the entry that holds it.
        key: of what is measured.
        trial: says on which device, and the size of training's batches.
        settings: how.
        data: what is asked.
        store: where network and figures lie.
        session: what those that are measured one after the other have in common. It is kept beside the
            figures, with the node that they were measured on; left out, nothing is.

    Raises:
        StoredFailureError: measuring failed, and would again.
    """
    limit_memory(trial.measure_device, None)
    directory = store.entry(*network).path(NETWORK)

    def compute(workspace: Workspace) -> dict[str, Any]:
        profile = profile_network(
            directory,
            data.get(),
            settings,
            device=trial.measure_device,
            train_batch_size=trial.retrain.batch_size,
        )
        found = dataclasses.asdict(profile) | hardware(trial.measure_device)
        return found | ({"session": f"{session} {found['host']}"} if session else {})

    return store.get_or_compute("measure", key, compute, failures=(ValueError,))
