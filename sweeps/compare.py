"""A comparison from its settings to its tables: each method with each seed is a trial."""

import dataclasses
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd
from rich.console import Console

from easrec.data.feature_table import FeatureTable, load_feature_table
from easrec.data.interactions import Interactions
from easrec.errors import InputError
from sweeps.cluster import Cluster
from sweeps.compare_config import LABELS, PAPER_NAMES, READ_FEATURES, CompareConfig, ComparedConfig
from sweeps.compare_methods import contestants_of
from sweeps.compare_paper import beside_paper, paper_settings
from sweeps.compare_report import ComparisonReport, Section
from sweeps.compare_tables import Contest, accuracy_metrics, read_contest_gains
from sweeps.compare_text import Grid, terminal_table
from sweeps.compare_trial import (
    Contestant,
    Outcome,
    coverage_place,
    measured_together,
    run_contestant,
    timing_key,
)
from sweeps.config import SweepConfig
from sweeps.coverage import popular_targets
from sweeps.data import ITEMS, load_data
from sweeps.data_options import DEFAULT_DATASET
from sweeps.heartbeat import Heartbeat
from sweeps.output import SWEEP
from sweeps.plan import preset_of
from sweeps.presets import Preset
from sweeps.recording import TrialRecording
from sweeps.records import MEASURED
from sweeps.remaining import train_remaining
from sweeps.reporter import duration_text
from sweeps.results import FailedTrial, TrialRecord
from sweeps.store import code_version, now_ms
from sweeps.summary import counted
from sweeps.sweep import Sweep, run_sweep
from sweeps.tracking import SweepRecorder
from sweeps.trainable import SharedData, measure_entry
from sweeps.trial import ARCHITECTURE, NETWORK, TrialConfig
from sweeps.tuner import on_place, warm_supernets
from sweeps.user_ranks import RANKS

_PREFIXES = "linear_bidirectional"
"""The attention that is trained on prefixes."""


def run_compare(config: CompareConfig, *, console: Console | None = None) -> int:
    """Run or resume a comparison and report it; status and errors as of `sweeps.sweep.run_sweep`.

    Raises:
        InputError: also where methods read features of items and there are none.
    """
    config.check()
    preset = Comparison.preset_for(config)
    reads = any(name in READ_FEATURES for name in config.chosen)
    data = load_data(config, preset, (lambda log: read_features(config, log)) if reads else None)
    return run_sweep(config, console=console, kind=Comparison, preset=preset, data=data)


def read_features(config: CompareConfig, interactions: Interactions) -> FeatureTable:
    """What FDSA and SASRecF read; `InputError` says what else could be done where there is nothing."""
    if config.features is not None:
        source: str | Path = config.features
    elif config.dataset is None and config.data is not None:
        source = config.data
    else:
        source = config.dataset or DEFAULT_DATASET
    raw = config.data if isinstance(source, str) else None
    try:
        return load_feature_table(
            source,
            interactions,
            names=config.feature_names or None,
            raw=raw,
            item_column=config.item_column,
        )
    except InputError as error:
        raise InputError(
            f"{error} (FDSA and SASRecF read features of items: name their file by --features, choose by "
            "--feature-names, or leave the two out by --without-features)"
        ) from error


class ComparisonRecorder(SweepRecorder):
    """Writes a comparison into MLflow: other kinds of runs than a sweep's, so that no report mixes them."""

    KIND = "comparison"
    TRIAL_KIND = "contestant"
    MEAN_KIND = "method"


class Comparison(Sweep):
    """One run of the program over a comparison's directory."""

    NAME = "compare"
    RECORDER = ComparisonRecorder

    @staticmethod
    def preset_for(config: SweepConfig) -> Preset:
        """The preset with the user's changes and the one lambda in it; see `preset_of` for errors.

        EASRec is what its paper says: its searches train weights and controllers in turn.
        """
        preset = preset_of(config, published=True)
        tradeoff = cast(ComparedConfig, config).tradeoff
        return dataclasses.replace(preset, search=dataclasses.replace(preset.search, tradeoff=tradeoff))

    def __init__(self, config: Any, preset: Any, data: Any, *more: Any) -> None:
        super().__init__(config, preset, data, *more)
        self.features: FeatureTable | None = data.features
        # Repeated by the comparison itself, in turns.
        self.profile = dataclasses.replace(self.profile, passes=1)
        self.contestants: list[Contestant] = []

    def plan_trials(self, cluster: Cluster) -> None:
        """See `Sweep.plan_trials`."""
        self.contestants = self.make_contestants(cluster)

    def make_contestants(self, cluster: Cluster) -> list[Contestant]:
        """All methods with all seeds, in the order in which they are started."""
        return contestants_of(
            cast(CompareConfig, self.config),
            self.preset,
            self.data,
            self.features,
            device=cluster.device,
            code_version=code_version(),
        )

    def more_facts(self) -> dict[str, Any]:
        """See `Sweep.more_facts`."""
        return {"pipeline": self.NAME}

    @property
    def labels(self) -> Mapping[str, str]:
        """Method -> what people call it."""
        return LABELS

    def sections(self) -> list[Section]:
        """What is compared with what."""
        methods = tuple(dict.fromkeys(one.method for one in self.contestants))
        ordered = tuple(name for name in self.labels if name in methods)
        return [Section("", {name: self.labels[name] for name in ordered}, ordered[0])]

    def extra_grids(self, contest: Contest) -> list[Grid]:
        """Tables besides those of the sections."""
        config = cast(CompareConfig, self.config)
        if not config.beside_paper or config.paper_name is None:
            return []
        return beside_paper(contest, self.labels, config.paper_name, differs=self.differs())

    def differs(self) -> list[str]:
        """Two sentences, ours and the paper's, on what figures of both depend on."""
        config, space, search = self.config, self.preset.space, self.preset.search
        place = next(
            (
                f"measured on {figures.get('gpu', figures['cpu'])}"
                for figures in self._measured().values()
                if "cpu" in figures
            ),
            "not measured",
        )
        targets = "every position of a window" if space.attention != _PREFIXES else "every prefix"
        shares = ", ".join(f"{100 * share:g}" for share in space.hidden_intensities)
        sizes = f", baselines of size {config.size}" if isinstance(config, CompareConfig) else ""
        return [
            f"ours: {self.data.num_users:,} users and {self.data.num_items:,} items, "
            f"N = {search.max_length}, supernet {space.num_layers} x {space.hidden_size}/{space.inner_size} "
            f"with intensities of {shares} %, attention {space.attention} trained on {targets}, "
            f"warm-up of {counted(search.warmup_epochs, 'epoch')}, lambda {search.tradeoff:g}, batches of "
            f"{search.batch_size} in the search and {self.preset.retrain.batch_size} in retraining{sizes}, "
            f"{counted(config.seeds, 'seed')}, {place}",
            paper_settings(PAPER_NAMES[config.data_name]),
        ]

    def label(self, trial: Contestant) -> str:
        """See `Sweep.label`."""
        return f"{self.labels[trial.method]}, seed {trial.trial.seed}"

    def _run_on(
        self, cluster: Cluster, recording: TrialRecording, connect: Callable[[], SweepRecorder]
    ) -> int:
        shared = SharedData.put(self.data)
        methods = len({one.method for one in self.contestants})
        self.say(
            f"{counted(methods, 'method')}, {counted(self.config.seeds, 'seed')}, {cluster.slots} at once, "
            f"on {cluster.device}"
        )
        self.forget_failures()
        heartbeat = Heartbeat(
            self.contestants,
            self.store,
            label=self.label,
            places=lambda one: one.places(self.data, self.store),
            say=self.say_when,
            since_ms=now_ms(),
        )
        with recording, heartbeat:
            self._train_all(shared, cluster, recording)
        failed = self._failed()
        finished = self._finished()
        if not finished:
            self.say("nothing finished, so there is no result:")
            self._say_failed(failed)
            self._recorded(connect, lambda recorder: self._record_nothing(recorder, failed))
            return 1
        all_measured = self._measure_all(shared, cluster)
        write = self._written(finished, failed)
        recorded = self._recorded(connect, write)
        return 0 if recorded and all_measured and not failed else 1

    def forget_failures(self) -> None:
        """See `Sweep.forget_failures`."""
        for contestant in self.contestants:
            for place in contestant.places(self.data, self.store):
                self.store.forget_failure(*place)

    def _train_all(self, shared: SharedData, cluster: Cluster, recording: TrialRecording) -> None:
        warm_ups = {trial.warm_key: trial for one in self.contestants for trial in one.warm_ups}
        crashed = warm_supernets(list(warm_ups.values()), shared, self.store, cluster)
        for trial_id, trial in self.searches():
            if trial.warm_key in crashed:
                self.errors[trial_id] = f"warm-up: {crashed[trial.warm_key]}"
        self._measure_layers([trial for _, trial in self.searches()], cluster)
        for one in self.contestants:
            if self._outcome(one) is not None:  # perhaps by a process that died with its record
                recording.ended(one)
        self.errors |= train_remaining(
            [one for one in self.contestants if one.trial_id not in self.errors],
            shared,
            self.store,
            cluster,
            program=run_contestant,
            label=self.label,
            outcome=self._reached,
            failed=lambda one: self._failure(one) is not None,
            say=self.say_when,
            on_end=recording.ended,
            features=self.features,
        )

    def searches(self) -> list[tuple[str, TrialConfig]]:
        """See `Sweep.searches`."""
        return [(one.trial_id, trial) for one in self.contestants for trial in one.warm_ups]

    def _reached(self, one: Contestant) -> str | None:
        """What people are told of a contestant that has finished."""
        outcome = self._outcome(one)
        if outcome is None:
            return None
        size = outcome.architecture
        return (
            f"{size.num_layers} x {size.hidden_size}/{size.inner_size}, {self.accuracy} "
            f"{outcome.metrics[self.accuracy]:.4f}"
        )

    def _failure(self, one: Contestant) -> str | None:
        for place in one.places(self.data, self.store):
            result = self.store.entry(*place).result()
            if result is not None and result.error is not None:
                return result.error
        return None

    def _outcome(self, one: Contestant) -> Outcome | None:
        """What a contestant ended with, with what it recommends; None unless all is known."""
        outcome = one.outcome(self.data, self.store)
        if outcome is None:
            return None
        recommended = self.store.entry(*coverage_place(outcome.place)).result()
        if recommended is None:
            return None
        metrics = outcome.metrics
        choosing_s = metrics["warmup_s"] + metrics["search_s"]
        return dataclasses.replace(
            outcome,
            metrics={
                **metrics,
                **recommended.value,
                "choosing_s": choosing_s,
                "total_s": choosing_s + metrics["retrain_s"],
            },
        )

    def _finished(self) -> dict[str, tuple[Contestant, Outcome]]:
        found = {one.trial_id: (one, self._outcome(one)) for one in self.contestants}
        return {name: (one, outcome) for name, (one, outcome) in found.items() if outcome is not None}

    def _measure_all(self, shared: SharedData, cluster: Cluster) -> bool:
        """Measure every network --timings times, in turns; returns whether all of that is known now."""
        timings, finished = cast(ComparedConfig, self.config).timings, self._finished().values()
        together = measured_together(finished)
        wanted: dict[str, tuple[Contestant, Outcome]] = {}
        for number in range(timings):
            for one, outcome in finished:
                key = timing_key(one, outcome, self.profile, number, together)
                wanted.setdefault(key, (one, outcome))
        missing = {
            key: found
            for key, found in wanted.items()
            if (result := self.store.entry("measure", key).result()) is None or result.error is not None
        }
        if not missing:
            return True
        try:
            place = self._measuring_place(cluster)
        except RuntimeError as error:
            self.say(f"nothing could be measured: {error}; go on by --resume when the node is there")
            return False
        networks = counted(len(wanted) // timings, "network")
        self.say(
            f"measuring {networks}{place.described} {counted(timings, 'time')}, one after the other, nothing "
            "else running"
        )
        complete, session = True, f"{now_ms()}-{secrets.token_hex(4)}"
        for key, (one, outcome) in missing.items():
            self.store.forget_failure("measure", key)
            trial, store = one.trial, self.store
            try:
                on_place(
                    place, measure_entry, outcome.place, key, trial, self.profile, shared, store, session
                )
            except RuntimeError as error:
                self.say(f"the network of {self.label(one)} could not be measured: {error}")
                complete = False
        self.store.refresh()
        return complete

    def _measured(self) -> dict[tuple[str, int], Mapping[str, Any]]:
        """By trial id and number of the measurement, what is known by now."""
        found: dict[tuple[str, int], Mapping[str, Any]] = {}
        timings, finished = cast(ComparedConfig, self.config).timings, self._finished()
        together = measured_together(finished.values())
        for name, (one, outcome) in finished.items():
            for number in range(timings):
                key = timing_key(one, outcome, self.profile, number, together)
                result = self.store.entry("measure", key).result()
                if result is not None and result.error is None:
                    found[name, number] = result.value
        return found

    def record(self, trial: Any) -> TrialRecord | None:
        """See `Sweep.record`."""
        outcome = self._outcome(trial)
        if outcome is None:
            return None
        return self._record(trial, outcome, {})

    def _record(self, one: Contestant, outcome: Outcome, measured: Mapping[str, float]) -> TrialRecord:
        entry = self.store.entry(*outcome.place)
        name = outcome.architecture.architecture_id
        return TrialRecord(
            trial_id=one.trial_id,
            tradeoff=one.trial.tradeoff,
            seed=one.trial.seed,
            architecture=outcome.architecture,
            params={
                "method": one.method,
                **one.params(),
                **outcome.notes,
                **{f"architecture.{key}": value for key, value in outcome.architecture.to_dict().items()},
                "architecture_id": name,
                **self.settings,
            },
            metrics={**outcome.metrics, **measured},
            curves=outcome.curves,
            tags={**self.tags, "method": one.method, "architecture_id": name},
            artifacts={
                "architecture.json": entry.path(ARCHITECTURE),
                RANKS: entry.path(RANKS),
                **{file.name: file for file in sorted(entry.path(NETWORK).iterdir())},
            },
            start_ms=outcome.start_ms,
            end_ms=outcome.end_ms,
            name=self.label(one),
        )

    def _failed(self) -> list[FailedTrial]:
        failed = []
        for one in self.contestants:
            if self._outcome(one) is None:
                why = self._failure(one) or self.errors.get(one.trial_id) or "it ended without a result"
                failed.append(
                    FailedTrial(
                        trial_id=one.trial_id,
                        tradeoff=one.trial.tradeoff,
                        seed=one.trial.seed,
                        params={"method": one.method, **one.params(), **self.settings},
                        error=why,
                        start_ms=(end_ms := now_ms()),
                        end_ms=end_ms,
                        tags={**self.tags, "method": one.method},
                        name=self.label(one),
                    )
                )
        return failed

    def _say_failed(self, failed: Sequence[FailedTrial]) -> None:
        for trial in failed:
            self.say(f"! {trial.name} failed: {trial.error}")
        if failed:
            self.say(f"once that is put right, try what failed again by:\n  {self._resume_command()}")

    def contest(self) -> Contest:
        """All that is known by now."""
        finished = self._finished()
        trials = pd.DataFrame(
            [
                {
                    "trial_id": name,
                    "method": one.method,
                    "seed": one.trial.seed,
                    "architecture_id": outcome.architecture.architecture_id,
                    **outcome.metrics,
                    **outcome.notes,
                }
                for name, (one, outcome) in finished.items()
            ]
        )
        rows = [
            {
                "method": finished[name][0].method,
                "seed": finished[name][0].trial.seed,
                "measurement": number,
                "session": str(figures["session"]),
                **{cost: float(figures[cost]) for cost in MEASURED},
            }
            for (name, number), figures in self._measured().items()
        ]
        timings = pd.DataFrame(rows, columns=["method", "seed", "measurement", "session", *MEASURED])
        paths: dict[str, list[Path]] = {}
        for one, outcome in finished.values():
            paths.setdefault(one.method, []).append(self.store.entry(*outcome.place).path(RANKS))
        known = Contest(trials, timings, {})
        gains = read_contest_gains(paths, accuracy_metrics(known.protocols()))
        return Contest(trials, timings, gains)

    def _written(
        self, finished: Mapping[str, tuple[Contestant, Outcome]], failed: Sequence[FailedTrial]
    ) -> Callable[[SweepRecorder], None]:
        """Write the files and print the tables; returns what writes the same into MLflow."""
        contest = self.contest()
        report = ComparisonReport.of(
            contest,
            self.sections(),
            self.labels,
            dataset=self.data.name,
            described=self.described,
            accuracy=self.accuracy,
            popular_targets=popular_targets(self.data),
            more=self.extra_grids(contest),
        )
        files = report.write(self.path)
        self.say(f"\n{counted(len(finished), 'trial')}, in {duration_text(self.elapsed_s())}")
        for table in report.tables:
            self.say(f"\n{table.title}")
            self.console.print(terminal_table(table))
            for note in table.notes:
                self.say(note)
        self._say_failed(failed)
        for name, file in files.items():
            self.say(f"{name}: {file}")

        def write(recorder: SweepRecorder) -> None:
            for failure_record in failed:
                recorder.record_failure(failure_record)
            records = [
                self._record(one, outcome, report.costs(one.method, one.trial.seed))
                for one, outcome in finished.values()
            ]
            for record in records:
                recorder.record_trial(record)
            for mean in report.mean_records(records):
                recorder.record_configuration(mean)
            recorder.record_sweep(
                params=self.settings,
                metrics={"num_trials": len(self.contestants), "num_finished": len(finished)},
                tags=self.tags,
                artifacts={**files, **{name: self.path / name for name in (SWEEP, ITEMS)}},
                description=report.description(),
                end_ms=max(record.end_ms for record in records),
            )
            recorder.finish("FINISHED", now_ms())

        return write
