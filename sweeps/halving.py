"""How a retraining is stopped: Ray Tune's driver judges, and the trial asks.

After each epoch a trial reports to Ray what it has reached, which waits until Ray's scheduler has looked at
it. `HalvingScheduler` judges, leaves a verdict in the store, and lets the trial go on; the trial reads it
and ends by itself. Ray could stop it instead (`TrialScheduler.STOP`), but ends the thread of a function only
when its process is given the next trial or none: until then the entry of the retraining would stay locked,
and a trial that takes longer than two seconds to let go would take the next one down with it.

A verdict is of one sweep: another one that shares its storage may well finish the same retraining, from the
checkpoint that is left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from easrec.errors import DiskFullError
from sweeps.rungs import Reached, Rungs, Verdict
from sweeps.storage_error import StorageError
from sweeps.store import Store, content_key, now_ms


class StoppedError(Exception):
    """A retraining was stopped because it cannot reach the front; its entry stays unfinished."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdicts of one sweep in its store: what the driver tells its trials."""

    store: Store
    sweep_id: str

    def put(self, verdict: Verdict) -> None:
        """Stop a retraining."""
        self.store.get_or_compute("stopped", self._key(verdict.reached.subject), lambda _: verdict.to_dict())

    def check(self, subject: str) -> None:
        """Raise `StoppedError` if a retraining has been stopped."""
        result = self.store.entry("stopped", self._key(subject)).result()
        if result is not None:
            raise StoppedError(Verdict.from_dict(result.value).sentence())

    def _key(self, subject: str) -> str:
        return content_key({"sweep": self.sweep_id, "retrain": subject})


@dataclass(frozen=True, slots=True)
class TrialSide:
    """What a trial knows of halving: whom to tell, and whom to ask. Can be sent to other processes."""

    sweep_id: str

    def judge(self, store: Store) -> "TuneJudge":
        """For a trial that uses this store."""
        return TuneJudge(Verdicts(store, self.sweep_id))


@dataclass(frozen=True, slots=True)
class TuneJudge:
    """Judges retrainings within a trial of Ray Tune."""

    verdicts: Verdicts

    def check(self, subject: str) -> None:
        """Raise `StoppedError` if a retraining has been stopped before."""
        self.verdicts.check(subject)

    def report(self, reached: Reached) -> None:
        """Tell Ray what a retraining has reached; raises `StoppedError` if it shall not go on."""
        tune.report(reached.to_dict())
        # Ray has judged by now. A verdict that a network's file system shows later is met at a later epoch.
        if not reached.last:
            self.verdicts.check(reached.subject)


class Halving:
    """The driver's side, over all batches and passes of a sweep."""

    def __init__(self, rungs: Rungs, store: Store, sweep_id: str) -> None:
        """Take up what an earlier run left.

        Args:
            rungs: of the sweep.
            store: where its trials keep their results.
            sweep_id: of the sweep.
        """
        self.trial_side = TrialSide(sweep_id)
        self._rungs = rungs
        self._verdicts = Verdicts(store, sweep_id)
        for verdict in rungs.stopped.values():  # a process may have died between the two
            self._verdicts.put(verdict)

    def verdict(self, subject: str) -> Verdict | None:
        """Why a retraining was stopped, or None."""
        return self._rungs.stopped.get(subject)

    def judge(self, reached: Reached) -> None:
        """Judge what a trial has reported, and tell it."""
        verdict = self._rungs.judge(reached, now_ms())
        if verdict is not None:
            self._verdicts.put(verdict)


class HalvingScheduler(FIFOScheduler):  # type: ignore[misc]
    """Passes what trials of a Ray Tune run report on to a judge, and starts them in their order."""

    # A result is looked at before the trial's next epoch.
    _supports_buffered_results = False

    def __init__(self, judge: Callable[[Reached], None]) -> None:
        super().__init__()
        self._judge = judge
        self.error: StorageError | DiskFullError | None = None
        """Why something could not be judged; no trial was stopped for it."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles schedulers to restore them elsewhere, which is never done here."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Ray's call for each report; those of how a trial ended have no epoch."""
        if "epoch" in result:
            try:
                self._judge(Reached.from_dict(result))
            except (StorageError, DiskFullError) as error:
                self.error = error
        return str(TrialScheduler.CONTINUE)
