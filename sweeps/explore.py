"""An exploration: Optuna decides what is tried, in batches of trials that run as those of any sweep.

A batch is asked from the study, warmed, trained by `sweeps.tuner.train_trials` and, where latency counts,
measured while nothing else of the sweep runs; then it is told in the order of its numbers. See `sweeps.study`
for why. Its price: processors wait for the longest trial of a batch, and Ray starts its processes anew for
each. Samplers that do not look at the trials before pay nothing, since all their trials are one batch.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import pandas as pd
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from easrec.errors import InputError
from easrec.files import read_json
from sweeps.addresses import STUDY_VARIABLE, with_password
from sweeps.cluster import Cluster
from sweeps.config import SweepConfig
from sweeps.explore_config import ExploreConfig
from sweeps.explore_plan import budget_of, explored_preset, refused_space, space_of, trials_of
from sweeps.output import SWEEP, SweepIdentity
from sweeps.presets import Preset
from sweeps.progress import Watcher
from sweeps.recording import TrialRecording
from sweeps.records import failure, flatten, trial_architecture
from sweeps.results import TrialRecord
from sweeps.samplers import ADAPTIVE, make_sampler, num_startup, population_size
from sweeps.stalling import has_stalled
from sweeps.store import code_version
from sweeps.study import (
    JOURNAL,
    Outcome,
    SweepStudy,
    check_comparable,
    load_study,
    open_storage,
    point_of,
    study_name,
)
from sweeps.summary import counted
from sweeps.sweep import Sweep
from sweeps.trainable import SharedData
from sweeps.trial import TrialConfig

_LATENCY = "latency_ms_p50"


class Exploration(Sweep):
    """One run of the program over an exploration's directory."""

    NAME = "explore"

    @staticmethod
    def preset_for(config: SweepConfig) -> Preset:
        """See `explored_preset`."""
        return explored_preset(cast(ExploreConfig, config))

    @property
    def options(self) -> ExploreConfig:
        """What the user asked for."""
        return cast(ExploreConfig, self.config)

    @property
    def num_trials(self) -> int:
        """See `Sweep.num_trials`; a stop may come before."""
        return self.options.trials * self.options.seeds

    def plan_trials(self, cluster: Cluster) -> None:
        """Check space, budget and studies; the trials are decided on one batch after the other."""
        options = self.options
        self.space = space_of(options, self.preset)
        self.parameters = self.space.parameters()
        if not self.parameters:
            raise InputError(
                f"--space {options.space}: all of it was given one value, so there is nothing to search"
            )
        self.budget = budget_of(options, self.preset, self.space, self.data)
        self.device = cluster.device
        self.points: dict[int, list[TrialConfig]] = {}  # number in the study -> its trials, one of each seed
        self.numbers: dict[str, int] = {}  # trial id -> the first number that stands for it
        self.unwarmed: dict[str, str] = {}  # trial id -> why nothing of its space is within the budget
        self.settings |= flatten(
            {
                "explore": {
                    "space": options.space,
                    "sampler": options.sampler,
                    "objectives": ",".join(options.objectives),
                    "max_flops": options.max_flops,
                    "max_params": options.max_params,
                    "max_latency_ms": options.max_latency_ms,
                }
            }
        )
        self.facts = {
            "data checksum": self.data.checksum,
            "objectives": list(options.objectives),
            "accuracy": self.accuracy,
            "device": cluster.device,
            "seeds": options.seeds,
            **flatten(_of(self.preset)),
        }
        # Before the sweep is written down, since they may be refused.
        address = options.study_address
        self.database = None if address is None else open_storage(address, self.path)
        self.earlier = None if options.start_from is None else self._earlier(options.start_from)
        if self.earlier is not None:
            check_comparable(self.earlier, self.facts)

    def _earlier(self, start_from: str) -> Study:
        """The study that --start-from names."""
        directory = Path(start_from)
        if (directory / SWEEP).is_file():
            stored = read_json(directory / SWEEP)
            address = stored["settings"].get("--study")
            there: BaseStorage | None = None
            if address is not None:
                there = open_storage(with_password(address, STUDY_VARIABLE), directory)
            elif (directory / JOURNAL).is_file():
                there = open_storage(None, directory, ours=False)
            if there is None:
                raise InputError(f"--start-from {start_from}: that sweep is no exploration, it has no study")
            return load_study(study_name(stored["sweep_id"]), there)
        if self.database is None:
            raise InputError(
                f"--start-from {start_from} is no directory of an exploration; name one, or a study in the "
                "database of --study"
            )
        return load_study(start_from, self.database)

    def begin(self, identity: SweepIdentity, cluster: Cluster) -> None:
        """Open the study, and take up what it has of this sweep."""
        options = self.options
        self.study = SweepStudy(
            open_storage(None, self.path) if self.database is None else self.database,
            study_name(identity.sweep_id),
            objectives=options.objectives,
            parameters=self.parameters,
            settings={
                "batch": self._batch(cluster),
                "startup": num_startup(options.trials),
                "population": population_size(options.trials),
            },
            facts=self.facts,
            sampler=lambda settings: make_sampler(
                options.sampler,
                seed=options.seed,
                parameters=list(self.parameters),
                startup=settings["startup"],
                population=settings["population"],
            ),
        )
        if self.earlier is not None and not self.study.own_trials():
            taken, left = self.study.start_from(self.earlier, self._earlier_constraints)
            self.say(f"{counted(taken, 'trial')} of {self.earlier.study_name} to start from")
            if left:
                self.say(f"{counted(left, 'trial')} of it left out: no point of this space, or not measured")
        for trial in self.study.own_trials():
            if trial.state.is_finished():
                self._take(trial)
                for config in self.points[trial.number]:
                    if "error" in trial.user_attrs:
                        self.errors.setdefault(config.trial_id, trial.user_attrs["error"])
        self.say(
            f"study {self.study.name}: {options.sampler} over {', '.join(self.parameters)}; "
            f"{' and '.join(options.objectives)}; batches of {self.study.batch}"
        )

    def _batch(self, cluster: Cluster) -> int:
        """Trials of a batch where the user names no number."""
        options = self.options
        if options.batch is not None:
            return options.batch
        if options.sampler in ADAPTIVE or options.time_budget is not None:
            return max(1, cluster.slots // options.seeds)
        # All that these samplers wait for is whether to stop; that must not depend on what runs at once.
        return options.stalled_trials or options.trials

    def _earlier_constraints(self, attributes: Mapping[str, Any]) -> dict[str, float] | None:
        """How far an earlier trial is beyond the present budget; None if it was not measured."""
        beyond = self.budget.violations(attributes.get("figures", {}))
        return None if len(beyond) < self.budget.num_bounds else beyond

    def forget_failures(self) -> None:
        """Nothing: what failed was told to the study, which cannot take it back."""

    def compute(
        self, shared: SharedData, cluster: Cluster, recording: TrialRecording, watcher: Watcher
    ) -> None:
        """Ask, train and tell batch after batch until one of the stops."""
        watcher.skip(len(self.unwarmed))
        with ExitStack() as stack:
            opened = False
            while batch := self._next_batch():
                known = {trial.trial_id for trial in self.trials}
                for trial in batch:
                    self._take(trial)
                new = [trial for trial in self.trials if trial.trial_id not in known]
                watcher.skip(sum(trial.trial_id in self.unwarmed for trial in new))
                watcher.add([trial for trial in new if trial.trial_id not in self.unwarmed])
                trials = self._distinct(batch)
                if trials:
                    self.warm(trials, shared, cluster)
                if not opened:
                    opened = True
                    stack.enter_context(recording)
                if trials:
                    self.train(trials, shared, cluster, recording)
                    if self._needs_latency:
                        self.measure(trials, shared, cluster)
                for trial in batch:
                    self.study.tell(trial, self._outcome(self.points[trial.number]))

    @property
    def _needs_latency(self) -> bool:
        return "latency" in self.options.objectives or self.options.max_latency_ms is not None

    def _next_batch(self) -> list[FrozenTrial]:
        """What a dead process left unfinished, or what the sampler wants to be tried; empty at the end."""
        options = self.options
        if not self.study.trials(TrialState.RUNNING):
            if options.time_budget is not None and self.elapsed_s() >= 60 * options.time_budget:
                self.say(f"--time-budget {options.time_budget:g}: no further batch is begun")
                return []
            stalled = options.stalled_trials
            if stalled is not None and has_stalled(self._volumes(), options.objectives, stalled):
                self.say(
                    f"--stalled-trials {stalled}: the hypervolume has not grown for as many; this is the end"
                )
                return []
        return self.study.ask(options.trials)

    def _volumes(self) -> list[list[float]]:
        """Values of the finished trials within the budget, by number."""
        return [
            trial.values
            for trial in self.study.trials(TrialState.COMPLETE)
            if all(beyond <= 0 for beyond in trial.constraints.values())
        ]

    def _take(self, trial: FrozenTrial) -> None:
        """Make the trials of a point part of the sweep; a point that was there before adds none."""
        if trial.number in self.points:
            return
        configs = trials_of(
            point_of(trial),
            self.options,
            self.preset,
            self.data,
            self.budget,
            device=self.device,
            code_version=code_version(),
        )
        self.points[trial.number] = configs
        for config in configs:
            if config.trial_id in self.numbers:
                continue
            self.numbers[config.trial_id] = trial.number
            self.trials.append(config)
            refused = refused_space(config)
            if refused is not None:
                self.unwarmed[config.trial_id] = refused

    def _distinct(self, batch: Sequence[FrozenTrial]) -> list[TrialConfig]:
        """The trials of a batch that there is something to train for, each once."""
        configs = [config for trial in batch for config in self.points[trial.number]]
        return list({c.trial_id: c for c in configs if c.trial_id not in self.unwarmed}.values())

    def _outcome(self, trials: Sequence[TrialConfig]) -> Outcome:
        """What became of a point; figures are means over its seeds."""
        attributes: dict[str, Any] = {"trials": [trial.trial_id for trial in trials]}
        refusals = {trial: reason for trial in trials if (reason := self.refusal(trial)) is not None}
        if refusals:
            attributes["refused"] = next(iter(refusals.values()))
            return Outcome(None, self._beyond(list(refusals)), attributes, pruned=True)
        verdicts = [verdict for trial in trials if (verdict := self.stopped(trial)) is not None]
        if verdicts:
            # Means over the other seeds would be those of the lucky.
            attributes["stopped"] = verdicts[0].sentence()
            return Outcome(None, self._beyond(trials), attributes, pruned=True)
        records = [self.record(trial) for trial in trials]
        finished = [record for record in records if record is not None]
        if len(finished) < len(trials):
            lost = trials[records.index(None)]
            why = failure(lost, self.store) or self.errors.get(lost.trial_id) or "it ended without a result"
            return Outcome(None, {}, {**attributes, "error": why})
        names = ["flops", "params", self.accuracy, *([_LATENCY] if self._needs_latency else [])]
        missing = [name for name in names if any(name not in record.metrics for record in finished)]
        if missing:
            return Outcome(None, {}, {**attributes, "error": f"{missing[0]} could not be measured"})
        figures = {name: fmean(record.metrics[name] for record in finished) for name in names}
        attributes |= {
            "figures": figures,
            "architectures": [record.architecture.architecture_id for record in finished],
        }
        metrics = {"accuracy": self.accuracy, "flops": "flops", "latency": _LATENCY}
        values = tuple(figures[metrics[objective]] for objective in self.options.objectives)
        return Outcome(values, self.budget.violations(figures), attributes)

    def _beyond(self, trials: Sequence[TrialConfig]) -> dict[str, float]:
        """How far the worst of some trials without a result is beyond each bound that is known so far."""
        beyond = [self.budget.violations(self._costs(trial)) for trial in trials]
        return {name: max(one[name] for one in beyond) for name in beyond[0]}

    def _costs(self, trial: TrialConfig) -> dict[str, float]:
        """What the network of a trial without a result costs; not yet derived, the least that one does."""
        architecture = trial_architecture(trial, self.store)
        if architecture is not None:
            return self.budget.known_costs(architecture)
        costs = [
            self.budget.known_costs(trial.space.architecture(candidate, 1))
            for candidate in range(len(trial.space))
        ]
        return {name: min(cost[name] for cost in costs) for name in costs[0]}

    def refusal(self, trial: TrialConfig) -> str | None:
        """See `Sweep.refusal`."""
        return self.unwarmed.get(trial.trial_id) or super().refusal(trial)

    def tags_of(self, trial: TrialConfig) -> dict[str, str]:
        """See `Sweep.tags_of`: also which trial of which study it is."""
        return {
            **super().tags_of(trial),
            "study": self.study.name,
            "study_trial": str(self.numbers[trial.trial_id]),
        }

    def frame(self, records: Sequence[TrialRecord]) -> pd.DataFrame:
        """See `Sweep.frame`: also the number in the study, the point, and whether it is within the budget."""
        frame = super().frame(records)
        points = {trial.number: trial.params for trial in self.study.own_trials()}
        numbers = [self.numbers[trial_id] for trial_id in frame["trial_id"]]
        frame.insert(1, "study_trial", numbers)
        frame["within_budget"] = [
            all(beyond <= 0 for beyond in self.budget.violations(_given(row)).values())
            for row in frame.to_dict("records")
        ]
        for name in self.parameters:
            frame[f"point.{name}"] = [points[number][name] for number in numbers]
        return frame

    def more_artifacts(self) -> dict[str, Path]:
        """The study, where it is a file. The warm supernets of so many spaces stay in the store."""
        return {JOURNAL: self.path / JOURNAL} if self.database is None else {}

    def say_results(self, frame: pd.DataFrame) -> None:
        """How the study went, and how to look at it."""
        own = self.study.own_trials()
        counts = {
            state: len([trial for trial in own if trial.state == state])
            for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        }
        stopped = len([trial for trial in own if "stopped" in trial.user_attrs])
        also = "" if self.halving is None else f"{stopped} stopped, "
        self.say(
            f"study {self.study.name}: {counts[TrialState.COMPLETE]} finished, "
            f"{counts[TrialState.PRUNED] - stopped} refused, {also}{counts[TrialState.FAIL]} failed; "
            f"{int(frame['within_budget'].sum())} of {len(frame)} networks within the budget"
        )
        where = self.path / JOURNAL if self.options.study is None else self.options.study
        self.say("the study in a browser, after `pip install optuna-dashboard`:")
        self.say(f"  optuna-dashboard --host 127.0.0.1 {where}")


def _of(preset: Preset) -> dict[str, Any]:
    """What a preset says besides the grid of a lambda sweep."""
    return {
        "space": preset.space.to_dict(),
        "search": preset.search.to_dict(),
        "retrain": preset.retrain.to_dict(),
        "transfer_from": preset.transfer_from,
        "num_users": preset.num_users,
    }


def _given(row: Mapping[Any, Any]) -> dict[str, float]:
    """The figures of a row that are known."""
    return {
        name: row[name] for name in ("flops", "params", _LATENCY) if name in row and row[name] == row[name]
    }
