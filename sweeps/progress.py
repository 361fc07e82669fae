"""What a sweep is doing, read from its store, and how long its training may still take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from sweeps.records import trial_architecture
from sweeps.results import FailedTrial
from sweeps.rungs import Verdict
from sweeps.store import Entry, Result, Store
from sweeps.summary import counted
from sweeps.trial import TrialConfig

StageName = Literal["warm-up", "search", "retraining"]
Status = Literal["waiting", "running", "finished", "failed", "stopped"]
STAGES: tuple[StageName, ...] = ("warm-up", "search", "retraining")

_USUAL_COST: dict[StageName, float] = {"warm-up": 1.0, "search": 1.2, "retraining": 0.2}
"""Time of an epoch, relative to one of the warm-up, as measured on MovieLens-100K."""

_USUAL_SHARE = 0.5
"""Retrainings for each trial, until the first architectures are derived: some trials derive the same one."""


@dataclass(frozen=True, slots=True)
class StageState:
    """Where one stage of the sweep stands; a stage that trials share is one stage."""

    stage: StageName
    label: str
    """Whose stage it is: a seed, or the first trial that needs it."""
    status: Status
    epoch: int
    """Epochs done."""
    num_epochs: int
    """Epochs planned: the most it may take."""
    durations_s: tuple[float, ...]
    """Wall time of its epochs, as far as they are known."""
    outcome: str
    """What it gave, once finished or failed, or why it was stopped."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a sweep at one moment."""

    stages: dict[str, StageState]
    """By place in the store; a retraining appears once its architecture is known."""
    num_trials: int
    num_finished: int
    """Trials whose retraining is there, or need not be."""
    num_failed: int
    num_unknown: int
    """Trials whose architecture is not derived yet."""
    num_stopped: int = 0
    """Trials whose retraining was stopped early."""


def trial_label(trial: TrialConfig | FailedTrial) -> str:
    """How people call a trial.

    >>> from types import SimpleNamespace
    >>> trial_label(SimpleNamespace(tradeoff=0.1, seed=2))
    'lambda 0.1, seed 2'
    """
    return f"lambda {trial.tradeoff:g}, seed {trial.seed}"


def warmup_label(trial: TrialConfig) -> str:
    """How people call the warm-up of a trial, which others share unless it is the trial's own."""
    return trial_label(trial) if trial.independent else f"seed {trial.seed}"


@dataclass(slots=True)
class _Chain:
    """The stages of a trial; keys are hashes of all its settings, so they are computed once."""

    trial: TrialConfig
    label: str
    warm: Entry
    search: Entry
    retrain: Entry | None = None
    """Known once the search has derived an architecture."""
    retrain_key: str = ""
    """Of `retrain`."""
    refused: bool = False
    """Whether that is over the budget and so not retrained."""


class Watcher:
    """Reads the state of a sweep from its store.

    A look costs as much as is being computed at that moment, not as much as the sweep has trials: what is
    finished is read once, and what nobody has begun is not asked for.
    """

    def __init__(
        self,
        trials: Sequence[TrialConfig],
        store: Store,
        *,
        since_ms: int,
        num_trials: int | None = None,
        stopped: Callable[[str], Verdict | None] | None = None,
    ) -> None:
        """Watch `trials`.

        Args:
            trials: those that are known; `add` takes those that are decided on later.
            store: where their results go.
            since_ms: attempts that began before are of an earlier, dead run.
            num_trials: how many there will be; left out: those that are known.
            stopped: tells of the key of a retraining why it was stopped early; None: none ever is.
        """
        self._store = store
        self._since_ms = since_ms
        self._num_trials = num_trials
        self._stopped = stopped
        self._num_skipped = 0
        self._chains: list[_Chain] = []
        self._finished: dict[str, StageState] = {}
        self.add(trials)

    def add(self, trials: Sequence[TrialConfig]) -> None:
        """Watch these too."""
        chains = [
            _Chain(
                trial,
                trial_label(trial),
                self._store.entry("warm", trial.warm_key),
                self._store.entry("search", trial.search_key),
            )
            for trial in trials
        ]
        # A list of its own: another thread may be going through the present one.
        self._chains = [*self._chains, *chains]

    def skip(self, num_trials: int) -> None:
        """Count so many more as done, of which nothing will be computed."""
        self._num_skipped += num_trials

    def snapshot(self) -> Snapshot:
        """The present state."""
        self._store.refresh()
        begun = self._store.begun()
        chains = self._chains
        stages: dict[str, StageState] = {}
        finished = failed = unknown = num_stopped = 0

        def state(
            stage: StageName, entry: Entry, label: str, num_epochs: int, verdict: Verdict | None = None
        ) -> StageState:
            if entry.place not in stages:
                stages[entry.place] = (
                    self._state(stage, entry, label, num_epochs, entry.place in begun)
                    if verdict is None
                    else _stopped_state(stage, label, num_epochs, verdict)
                )
            return stages[entry.place]

        for chain in chains:
            trial = chain.trial
            warmed = state("warm-up", chain.warm, warmup_label(trial), trial.search.warmup_epochs)
            searched = state("search", chain.search, chain.label, trial.search.search_epochs)
            if chain.retrain is None and not chain.refused and searched.status == "finished":
                architecture = trial_architecture(trial, self._store)
                assert architecture is not None  # it is part of a finished search
                chain.refused = trial.refusal(architecture) is not None
                if not chain.refused:
                    chain.retrain_key = trial.retrain_key(architecture)
                    chain.retrain = self._store.entry("retrain", chain.retrain_key)
            if chain.refused:
                finished += 1
                continue
            statuses = [warmed.status, searched.status]
            if chain.retrain is not None:
                verdict = None if self._stopped is None else self._stopped(chain.retrain_key)
                retrained = state("retraining", chain.retrain, chain.label, trial.retrain.max_epochs, verdict)
                statuses.append(retrained.status)
            if "failed" in statuses:
                failed += 1
            elif statuses[-1] == "stopped":
                num_stopped += 1
            elif chain.retrain is None:
                unknown += 1
            elif statuses[-1] == "finished":
                finished += 1
        known = len(chains) + self._num_skipped
        num_trials = max(self._num_trials or 0, known)
        unknown += num_trials - known
        return Snapshot(stages, num_trials, finished + self._num_skipped, failed, unknown, num_stopped)

    def _state(self, stage: StageName, entry: Entry, label: str, num_epochs: int, begun: bool) -> StageState:
        if entry.place in self._finished:
            return self._finished[entry.place]
        result = entry.result() if begun else None
        if result is not None:
            durations = tuple(epoch["duration_s"] for epoch in result.value.get("epochs", ()))
            state = StageState(
                stage,
                label,
                "finished" if result.error is None else "failed",
                len(durations),
                num_epochs,
                durations,
                _outcome(stage, result),
            )
            self._finished[entry.place] = state
            return state
        # A report of an earlier, killed attempt counts as well: the stage resumes after that epoch.
        activity = entry.activity() if begun else None
        report = (activity and activity.report) or {"epoch": 0, "duration_s": None}
        durations = () if report["duration_s"] is None else (report["duration_s"],)
        running = activity is not None and activity.start_ms >= self._since_ms
        status: Status = "running" if running else "waiting"
        return StageState(stage, label, status, report["epoch"], num_epochs, durations, "")


def _stopped_state(stage: StageName, label: str, num_epochs: int, verdict: Verdict) -> StageState:
    return StageState(
        stage, label, "stopped", verdict.reached.epoch, num_epochs, (), f"stopped: {verdict.sentence()}"
    )


def _outcome(stage: StageName, result: Result) -> str:
    if result.error is not None:
        return f"failed: {result.error}"
    epochs = result.value["epochs"]
    took = f"{counted(len(epochs), 'epoch')} in {sum(epoch['duration_s'] for epoch in epochs):.0f} s"
    if stage == "warm-up":
        return took
    if stage == "search":
        sizes = result.value["architecture"]
        return (
            f"{took}, derived {counted(sizes['num_layers'], 'layer')} of {sizes['hidden_size']} hidden and "
            f"{sizes['inner_size']} inner dimensions"
        )
    accuracy = [
        f"{name} {value:.4f}"
        for name, value in result.value["metrics"].items()
        if name in ("valid/unseen/ndcg_at_10", "valid/full/ndcg_at_10")
    ]
    return f"{took}, best epoch {result.value['best_epoch']}, {accuracy[-1]}"


def time_left_s(snapshot: Snapshot, *, slots: int, patience: int) -> float | None:
    """Seconds that the sweep's training may still take, or None before any epoch has been timed.

    Epochs still to come are counted with the mean duration of those of their stage. A retraining that nothing
    is known of counts with the mean length of those that ended, or four times the patience before that.

    Args:
        snapshot: the present state.
        slots: trials that run at once.
        patience: epochs without progress that end a retraining.
    """
    durations = {
        stage: [
            duration
            for state in snapshot.stages.values()
            if state.stage == stage
            for duration in state.durations_s
        ]
        for stage in STAGES
    }
    # In epochs of the warm-up: what a stage is taken for until epochs of its own have been timed.
    in_warm_epochs = [fmean(values) / _USUAL_COST[stage] for stage, values in durations.items() if values]
    if not in_warm_epochs:
        return None
    mean_s = {
        stage: fmean(values) if values else _USUAL_COST[stage] * fmean(in_warm_epochs)
        for stage, values in durations.items()
    }
    lengths = [
        state.epoch
        for state in snapshot.stages.values()
        if state.stage == "retraining" and state.status == "finished"
    ]
    retrainings = [s for s in snapshot.stages.values() if s.stage == "retraining"]
    usual = fmean(lengths) if lengths else 4.0 * patience
    if retrainings:
        usual = min(usual, retrainings[0].num_epochs)
    left = dict.fromkeys(STAGES, 0.0)
    for state in snapshot.stages.values():
        if state.status in ("waiting", "running"):
            planned = float(state.num_epochs)
            if state.stage == "retraining":
                planned = min(planned, max(usual, state.epoch + 1))
            left[state.stage] += max(planned - state.epoch, 0) * mean_s[state.stage]
    # Trials whose architecture is open: as many of them share a retraining as did so far.
    derived = snapshot.num_trials - snapshot.num_unknown - snapshot.num_failed
    share = len(retrainings) / derived if derived > 0 else _USUAL_SHARE
    left["retraining"] += snapshot.num_unknown * share * usual * mean_s["retraining"]
    seeds = sum(state.stage == "warm-up" for state in snapshot.stages.values())
    warm_slots = max(1, min(slots, seeds))
    return left["warm-up"] / warm_slots + (left["search"] + left["retraining"]) / slots
