"""The parts of a sweep that Ray runs: warm-ups, trials, measurements.

Results go to the store alone; Ray Tune schedules trials and knows their status. So there is no Ray state to
restore: running again reads what the store has and computes what it lacks.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.tune import TuneError

from easrec.evaluation.profile import ProfileConfig
from easrec.models.architecture import Architecture
from sweeps.cluster import Cluster
from sweeps.halving import Halving, HalvingScheduler
from sweeps.measuring import MeasuringPlace
from sweeps.progress import trial_label
from sweeps.store import OnBusy, Store
from sweeps.trainable import SharedData, measure, train, warm
from sweeps.trial import TrialConfig

logger = logging.getLogger(__name__)

MAX_RETRIES = 2
"""How often Ray starts what died with its process (out of memory, a lost node) again, from its checkpoint."""


def warm_supernets(
    trials: Sequence[TrialConfig], data: SharedData, store: Store, cluster: Cluster
) -> dict[str, str]:
    """Train the warm supernets that trials begin from, as plain Ray tasks.

    Returns:
        Warm key -> what went wrong, for those whose process kept dying. (A failure that would repeat itself
        is in the store.)
    """
    missing = {
        trial.warm_key: trial for trial in trials if store.entry("warm", trial.warm_key).result() is None
    }
    task = ray.remote(warm)
    references = {
        key: task.options(max_retries=MAX_RETRIES, **cluster.warmup_options(trial.warmup_threads)).remote(
            trial, data, store, cluster.memory_share
        )
        for key, trial in missing.items()
    }
    crashed = {}
    for key, reference in references.items():
        try:
            ray.get(reference)
        except RayError as error:
            crashed[key] = _sentence(error)
    return crashed


def train_trials(
    trials: Sequence[Any],
    data: SharedData,
    store: Store,
    cluster: Cluster,
    *,
    on_busy: OnBusy,
    on_end: Callable[[str], None],
    program: Callable[..., None] = train,
    label: Callable[[Any], str] = trial_label,
    halving: Halving | None = None,
    **more: Any,
) -> dict[str, str]:
    """Run trials with Ray Tune, in their order, as many at once as the cluster has room for.

    Args:
        trials: which, `TrialConfig` or others with a `trial_id` that the program knows; there must be some.
        data: what they train on.
        store: where their results go.
        cluster: what each may use.
        on_busy: whether a trial waits for a retraining that another one is doing, or ends without it.
        on_end: called in this thread with the id of each trial that ends, however it did.
        program: what Ray runs for a trial, with the arguments of `sweeps.trainable.train`.
        label: how people call a trial.
        halving: stops retrainings that cannot reach the front; None: all come to their end.
        more: further arguments of the program, kept in Ray's object store.

    Returns:
        Trial id -> what went wrong, for trials that crashed more than `MAX_RETRIES` times, or had not ended
        when want of memory had stopped all of them as often.

    Raises:
        StorageError, DiskFullError: what was found of a retraining could not be written down.
    """
    watcher = _OnEnd(on_end, {trial.trial_id: label(trial) for trial in trials})
    for attempt in range(MAX_RETRIES + 1):
        missing = [trial for trial in trials if trial.trial_id not in watcher.ended]
        try:
            _fit(missing, data, store, cluster, on_busy, program, halving, more, watcher)
            break
        except (RuntimeError, TuneError) as error:
            # Tune takes a process that died for a trial to be started again, but for the end of everything
            # one that Ray's memory monitor ended, and one too short of memory to unpack what it is sent.
            if isinstance(error.__cause__, RayError):
                reason = _sentence(error.__cause__)
            elif isinstance(error, TuneError) and "MemoryError" in str(error):
                reason = "MemoryError: a worker had no memory left to take its next trial"
            else:
                raise
            if attempt == MAX_RETRIES:
                for trial in missing:
                    if trial.trial_id not in watcher.ended:
                        watcher.give_up(trial.trial_id, reason)
            else:
                logger.warning(
                    "trials broke off (%s); they are started again from their last checkpoints", reason
                )
    return watcher.crashed


def _fit(
    trials: Sequence[Any],
    data: SharedData,
    store: Store,
    cluster: Cluster,
    on_busy: OnBusy,
    program: Callable[..., None],
    halving: Halving | None,
    more: Mapping[str, Any],
    watcher: "_OnEnd",
) -> None:
    """Have Ray Tune run trials once; the watcher learns which ended. See `train_trials`."""
    scheduler = None if halving is None else HalvingScheduler(halving.judge)
    trainable = tune.with_parameters(
        program,
        trials={trial.trial_id: trial for trial in trials},
        data=data,
        store=store,
        on_busy=on_busy,
        share=cluster.memory_share,
        **({} if halving is None else {"halving": halving.trial_side}),
        **more,
    )
    # Tune's own records are of no use afterwards, and since trials report no checkpoint to Ray, they stay on
    # this machine.
    scratch = tempfile.mkdtemp(prefix="easrec-ray-")
    tuner = tune.Tuner(
        tune.with_resources(trainable, cluster.resources),
        param_space={"trial": tune.grid_search([trial.trial_id for trial in trials])},
        tune_config=tune.TuneConfig(reuse_actors=True, scheduler=scheduler),
        run_config=tune.RunConfig(
            name=f"trials-{time.time_ns()}",
            storage_path=scratch,
            verbose=0,
            callbacks=[watcher],
            failure_config=tune.FailureConfig(max_failures=MAX_RETRIES),
        ),
    )
    try:
        tuner.fit()
        if scheduler is not None and scheduler.error is not None:
            raise scheduler.error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def measure_network(
    trial: TrialConfig,
    architecture: Architecture,
    settings: ProfileConfig,
    data: SharedData,
    store: Store,
    place: MeasuringPlace,
) -> Mapping[str, Any]:
    """What a network costs and on what, measured as a Ray task while nothing else of the sweep runs.

    Raises:
        RuntimeError: it could not be measured.
    """
    return on_place(place, measure, trial, architecture, settings, data, store)


def on_place(
    place: MeasuringPlace, measurement: Callable[..., dict[str, Any]], *arguments: Any
) -> Mapping[str, Any]:
    """What a measurement finds, as a Ray task where measuring is done; `RuntimeError` where it fails."""
    task = ray.remote(measurement).options(max_retries=MAX_RETRIES, **place.options)
    try:
        figures: dict[str, Any] = ray.get(task.remote(*arguments))
    except RayError as error:
        raise RuntimeError(_sentence(error)) from error
    return figures


class _OnEnd(tune.Callback):  # type: ignore[misc]
    """Tells the driver that a trial ended, however it did, and the user of one that is started again."""

    def __init__(self, on_end: Callable[[str], None], labels: Mapping[str, str]) -> None:
        self._on_end = on_end
        self._labels = labels
        self.ended: set[str] = set()
        """Ids of trials that will not be started again."""
        self.crashed: dict[str, str] = {}
        """Trial id -> what went wrong, for those of them whose process was lost too often."""

    def give_up(self, trial_id: str, reason: str) -> None:
        """End a trial whose process was lost too often."""
        self.crashed[trial_id] = reason
        self._end(trial_id)

    def _end(self, trial_id: str) -> None:
        self.ended.add(trial_id)
        self._on_end(trial_id)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles callbacks to restore them elsewhere, which is never done here."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Ray's call for a trial that returned."""
        self._end(trial.config["trial"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Ray's call for a trial whose process or node died and that it will start again."""
        label = self._labels[trial.config["trial"]]
        logger.warning("%s broke off; it is started again from its last checkpoint", label)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Ray's call for a trial that will not be retried any more."""
        error = trial.get_pickled_error() or trial.get_error()
        self.give_up(trial.config["trial"], "its process was lost" if error is None else _sentence(error))


def _sentence(error: Exception) -> str:
    """The last line of an error of Ray's: its texts are tracebacks that end with what happened."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, OutOfMemoryError):  # its own text is a page of advice
        return "OutOfMemoryError: Ray ended its process, since the memory of its machine was almost used up"
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1]}"[:1000] if lines else type(cause).__name__
