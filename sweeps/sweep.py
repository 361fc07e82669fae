"""A sweep from its settings to its charts; by default one of lambda, whose trials are known beforehand."""

import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich.console import Console

from easrec.errors import InputError
from easrec.evaluation.profile import ProfileConfig
from easrec.evaluation.protocols import PROTOCOLS, selection_protocol, usable_protocols
from easrec.training import FEW_STEPS
from sweeps.addresses import check_tracking_uri, with_password, without_credentials
from sweeps.cluster import Cluster, ray_cluster
from sweeps.confidence import Confidence
from sweeps.config import SweepConfig
from sweeps.configurations import configurations_frame
from sweeps.data import ITEMS, SweepData, load_data
from sweeps.estimate import steps_per_epoch
from sweeps.halving import Halving
from sweeps.interruption import STOPPING, say_stopped, sigterm_as_interrupt
from sweeps.layer_table import measure_layers
from sweeps.measuring import MeasuringPlace
from sweeps.mlflow_store import create_store, ui_command
from sweeps.nodes import check_nodes
from sweeps.objects import ObjectStore, open_storage
from sweeps.output import (
    STORE,
    SWEEP,
    SweepIdentity,
    default_output,
    identify,
    locked_output,
    note_tracking_uri,
    noted_tracking_uri,
)
from sweeps.panels import ChartLabels
from sweeps.plan import build_trials, preset_of
from sweeps.plan_text import plan
from sweeps.presets import Preset
from sweeps.progress import Watcher, trial_label
from sweeps.provenance import git_commit
from sweeps.recording import TrialRecording
from sweeps.records import (
    failed_record,
    failure,
    flatten,
    refusal,
    smaller_micro_batches,
    trial_architecture,
    trial_record,
)
from sweeps.report import record_results, write_results
from sweeps.reporter import ProgressReporter, at, duration_text
from sweeps.results import FailedTrial, TrialRecord, Unfinished, results_frame
from sweeps.rungs import FACTOR, HALVING, Rungs, Verdict
from sweeps.shared_storage import shared_store
from sweeps.store import OnBusy, Store, code_version, content_key, now_ms
from sweeps.summary import (
    configurations_legend,
    configurations_table,
    counted,
    counts_text,
    results_table,
    stopped_text,
    table_legend,
)
from sweeps.tracking import SweepRecorder
from sweeps.tracking_check import check_store
from sweeps.trainable import SharedData
from sweeps.trial import SUPERNET, TrialConfig
from sweeps.tuner import measure_network, train_trials, warm_supernets

_LONGEST_REASON = 300
"""Characters that are shown of what MLflow says when it fails: it may be a whole statement of SQL."""

RECORD_AGAIN_AFTER_S = (2.0, 5.0, 15.0)
"""Pauses after which a finished sweep offers its results again to an MLflow that did not take them."""


def run_sweep(
    config: SweepConfig,
    *,
    console: Console | None = None,
    kind: "type[Sweep] | None" = None,
    preset: Preset | None = None,
    data: SweepData | None = None,
) -> int:
    """Run or resume a sweep and report it; returns the exit status.

    0: all trials finished. 1: some or all failed. 130: interrupted.

    Args:
        config: what the user asks for.
        console: where to print.
        kind: what the sweep's trials are; left out, one of each lambda and seed.
        preset: the settings of the trials; those of `config` if left out.
        data: what to train on; what `config` names, if left out.

    Raises:
        InputError: something that the user can put right; nothing has been started then.
    """
    config.check()
    # What the core warns of while a trial trains, a sweep says once and by itself.
    logging.getLogger("easrec").setLevel(logging.ERROR)
    # Rich takes a file or a pipe for 80 columns wide and would cut the table.
    console = console or Console(width=None if sys.stdout.isatty() else 120)
    kind = kind or Sweep
    preset = preset or kind.preset_for(config)
    # Before the data are read, which may take long.
    objects = None if config.storage is None or config.plan else open_storage(config.storage)
    data = data or load_data(config, preset)
    if config.plan:
        text = plan(config, preset, data.split, described=data.described)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return 0
    output = config.output or default_output(config, kind.NAME)
    with locked_output(output, resume=config.resume) as path:
        config = dataclasses.replace(config, output=path, tracking_uri=_recorded_at(config, path))
        try:
            with sigterm_as_interrupt():
                return kind(config, preset, data, path, objects, console).run()
        except STOPPING as end:
            # Stopped before it was written down, there is nothing to resume.
            command = dataclasses.replace(config, resume=(path / SWEEP).is_file()).command()
            return say_stopped(end, command, console)


def _recorded_at(config: SweepConfig, path: Path) -> str | None:
    """The whole address that the options name, or of a resumed sweep the one that it had before."""
    uri = config.tracking_uri
    if uri is None and config.resume:
        uri = noted_tracking_uri(path)
    if uri is None:
        return None
    uri = with_password(uri)
    check_tracking_uri(uri)
    return uri


class Sweep:
    """One run of the program over a sweep's directory."""

    NAME = "lambda-sweep"
    """What new directories of such sweeps are called."""
    RECORDER = SweepRecorder
    """What writes it into MLflow."""

    @staticmethod
    def preset_for(config: SweepConfig) -> Preset:
        """The preset with the user's changes in it; see `preset_of` for errors."""
        return preset_of(config)

    def __init__(
        self,
        config: SweepConfig,
        preset: Preset,
        data: SweepData,
        path: Path,
        objects: ObjectStore | None,
        console: Console,
    ) -> None:
        self.config = config
        self.preset = preset
        self.data = data.split
        self.items = data.items
        self.licence = data.licence
        self.described = data.described
        self.path = path
        self.console = console
        self.objects = objects
        self.store = Store(path / STORE)
        self.start_s = time.monotonic()
        self.accuracy = f"valid/{selection_protocol(self.data)}/ndcg_at_10"
        self.profile = ProfileConfig(threads=config.latency_threads, repeats=preset.latency_repeats)
        self.settings = flatten(
            {
                "preset": config.preset,
                "data": {
                    "name": self.data.name,
                    "checksum": self.data.checksum,
                    "split": config.split,
                    **({"asked": config.asked or "all"} if config.split == "temporal" else {}),
                    **self.data.statistics,
                },
                "profile": dataclasses.asdict(self.profile),
                "measure_on": config.measure_on,
            }
        )
        if config.halve_after is not None:
            self.settings |= {
                "halve_after": config.halve_after,
                "halve_factor": config.halve_factor or FACTOR,
            }
        self.tags = {
            "git_commit": git_commit(),
            "code_version": code_version(),
            "data": self.data.name,
            "data_checksum": self.data.checksum,
            "preset": config.preset,
            "threads": str(config.cpus_per_trial),
        }
        self.trials: list[TrialConfig] = []
        self.errors: dict[str, str] = {}  # trial id -> why Ray gave it up
        self.halving: Halving | None = None  # with --halve-after, once the sweep has begun
        self.profiles: dict[str, dict[str, Any]] = {}  # architecture id -> what it was measured to cost

    def say(self, text: str) -> None:
        """Print a plain line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def say_when(self, text: str) -> None:
        """Print a line with the time since the start before it."""
        self.say(at(self.elapsed_s(), text))

    def run(self) -> int:
        """See `run_sweep`."""
        self.say(self.described)
        steps = steps_per_epoch(self.preset, self.data)
        self.say(f"{counted(steps, 'step')} per epoch of at most {self.preset.search.batch_size} sequences")
        if steps < FEW_STEPS:
            self.say(
                f"warning: epochs of fewer than {FEW_STEPS} steps train very little; a smaller --batch-size "
                "makes more steps"
            )
        unusable = [name for name in PROTOCOLS if name not in usable_protocols(self.data)]
        if unusable:
            self.say(
                f"not reported: {', '.join(unusable)} (`unseen` needs histories that repeat no item, the "
                "others users who have not met every item)"
            )
        self.say(f"output: {self.path}")
        if self.objects is not None:
            self.say(f"storage: {self.objects.url}")
        if self.config.tracking_uri is not None:
            check_store(self.config.tracking_uri, self._database_artifacts)
        # Ray sets a handler of its own for SIGTERM when it starts, so ours comes after it.
        with ray_cluster(self.config) as cluster, sigterm_as_interrupt():
            if self.config.ray_address != "local":
                # Where results go to a storage, the output directory is this process's alone.
                check_nodes(self.path if self.objects is None else None, cluster.workers())
            if cluster.device == "cuda":
                self.settings["gpu_memory_share"] = cluster.memory_share or "none"
            self.plan_trials(cluster)
            facts = {
                "data checksum": self.data.checksum,
                "program": code_version(),
                "device": cluster.device,
                "preset in full": content_key(dataclasses.asdict(self.preset)),
                **self.more_facts(),
            }
            if self.objects is not None:
                self.store = shared_store(self.objects)
            identity = identify(self.path, self.config, facts, licence=self.licence)
            self.store.refresh()
            if self.config.halve_after is not None:
                rungs = Rungs.open(
                    self.path / HALVING,
                    first=self.config.halve_after,
                    factor=self.config.halve_factor or FACTOR,
                )
                self.halving = Halving(rungs, self.store, identity.sweep_id)
            self.begin(identity, cluster)
            note_tracking_uri(self.path, self.config.tracking_uri)
            self.items.save(self.path / ITEMS)
            with ThreadPoolExecutor(max_workers=1) as pool:
                # MLflow takes seconds to make its database: meanwhile the warm-up trains.
                uri = pool.submit(self._tracking_uri)

                def connect() -> SweepRecorder:
                    return self.RECORDER(
                        # What could not be made then may be by now.
                        self._tracking_uri() if uri.exception() else uri.result(),
                        identity.sweep_id,
                        start_ms=identity.start_ms,
                        run_name=self.path.name,
                        artifacts=self._database_artifacts,
                    )

                recording = TrialRecording(connect, self._finished_record, self._say_masked, self.label)
                try:
                    return self._run_on(cluster, recording, connect)
                except BaseException as error:
                    if recording.recorder is not None:
                        status: Literal["KILLED", "FAILED"] = (
                            "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
                        )
                        with suppress(Exception):  # what ended the sweep says more than MLflow's trouble
                            recording.recorder.finish(status, now_ms())
                    raise

    def label(self, trial: Any) -> str:
        """How people call a trial."""
        return trial_label(trial)

    def plan_trials(self, cluster: Cluster) -> None:
        """Say which trials there will be, before anything is written; `InputError` if there can be none."""
        self.trials = build_trials(
            self.config, self.preset, self.data, device=cluster.device, code_version=code_version()
        )

    def more_facts(self) -> dict[str, Any]:
        """What results depend on besides what every sweep's do: a resumed sweep must have the same."""
        return {}

    def begin(self, identity: SweepIdentity, cluster: Cluster) -> None:
        """Take up the sweep of this identity; it has been written down, and nothing is trained yet."""

    def _tracking_uri(self) -> str:
        return self.config.tracking_uri or create_store(self.path)

    @property
    def _database_artifacts(self) -> Path:
        """Where runs keep their files that are recorded in a database which knows no place yet."""
        return self.path.parent / "mlflow-artifacts"

    def _say_masked(self, text: str) -> None:
        uri = self.config.tracking_uri
        self.say(text if uri is None else without_credentials(text, uri))

    def _run_on(
        self, cluster: Cluster, recording: TrialRecording, connect: Callable[[], SweepRecorder]
    ) -> int:
        shared = SharedData.put(self.data)
        share = "" if cluster.memory_share is None else f" and {cluster.memory_share:.0%} of a GPU's memory"
        self.say(
            f"{counted(self.num_trials, 'trial')}, {cluster.slots} at once, on {cluster.device} with "
            f"{counted(self.config.cpus_per_trial, 'thread')}{share} each"
        )
        self.forget_failures()
        watcher = Watcher(
            self.trials,
            self.store,
            since_ms=now_ms(),
            num_trials=self.num_trials,
            stopped=None if self.halving is None else self.halving.verdict,
        )
        with ProgressReporter(
            watcher,
            self.console,
            slots=cluster.slots,
            patience=self.preset.retrain.patience,
            elapsed_s=self.elapsed_s,
        ):
            self.compute(shared, cluster, recording, watcher)
        failed = self._failed()
        if not self._records():
            self.say("no trial finished, so there is no result:")
            self._say_failed(failed)
            self._recorded(connect, lambda recorder: self._record_nothing(recorder, failed))
            return 1
        all_measured = self.measure(self.trials, shared, cluster)
        write = self._report(self._records(), failed)
        recorded = self._recorded(connect, write)
        broken = any(trial.status == "failed" for trial in failed)
        return 0 if recorded and all_measured and not broken else 1

    @property
    def num_trials(self) -> int:
        """Trials that there will be, those of earlier runs too."""
        return len(self.trials)

    def compute(
        self, shared: SharedData, cluster: Cluster, recording: TrialRecording, watcher: Watcher
    ) -> None:
        """Train what is missing, and have trials recorded as they end."""
        self.warm(self.trials, shared, cluster)
        with recording:
            self.train(self.trials, shared, cluster, recording)

    def warm(self, trials: Sequence[TrialConfig], shared: SharedData, cluster: Cluster) -> None:
        """Train the warm supernets of trials, and time the layers where their searches go by latency."""
        crashed = warm_supernets(trials, shared, self.store, cluster)
        for trial in trials:
            if trial.warm_key in crashed:
                self.errors[trial.trial_id] = f"warm-up: {crashed[trial.warm_key]}"
        self._measure_layers(trials, cluster)

    def forget_failures(self) -> None:
        """Let what failed in an earlier run be tried again: the user may have put it right since."""
        for trial in self.trials:
            architecture = trial_architecture(trial, self.store)
            if architecture is not None:
                self.store.forget_failure("retrain", trial.retrain_key(architecture))
            self.store.forget_failure("search", trial.search_key)
            self.store.forget_failure("warm", trial.warm_key)

    def _measure_layers(self, trials: Sequence[TrialConfig], cluster: Cluster) -> None:
        """Time the candidates' layers once for all searches by latency, before any of them runs."""
        tables = {
            trial.latency_key: trial
            for trial in trials
            if trial.search.resource == "latency" and trial.trial_id not in self.errors
        }
        for trial in tables.values():
            if self.store.entry("latency", trial.latency_key).result() is None:
                try:
                    measure_layers(trial, self.store, self._measuring_place(cluster))
                except RuntimeError as error:
                    self._without_layers(trial.latency_key, error)

    def _measuring_place(self, cluster: Cluster) -> MeasuringPlace:
        """Where to measure now; `RuntimeError` if the node has gone."""
        try:
            return cluster.measuring_place(self.config.measure_on, self.config.latency_threads)
        except InputError as error:
            raise RuntimeError(str(error)) from error

    def _without_layers(self, latency_key: str, error: RuntimeError) -> None:
        """Let searches measure the layers themselves, unless they are to be measured elsewhere."""
        if self.config.measure_on is None:
            self.say(f"the layers could not be measured beforehand ({error}); a search will do it")
            return
        for trial_id, trial in self.searches():
            if trial.latency_key == latency_key:
                self.errors.setdefault(
                    trial_id, f"the layers could not be measured on {self.config.measure_on}: {error}"
                )

    def searches(self) -> list[tuple[str, TrialConfig]]:
        """The searches of all trials, each with the id of the trial that it belongs to."""
        return [(trial.trial_id, trial) for trial in self.trials]

    def train(
        self,
        trials: Sequence[TrialConfig],
        shared: SharedData,
        cluster: Cluster,
        recording: TrialRecording,
    ) -> None:
        """Run those that have no result; those that deferred to another one come again at the end."""
        by_id = {trial.trial_id: trial for trial in trials}
        passes: tuple[OnBusy, ...] = ("defer", "wait")
        for on_busy in passes:
            self.store.refresh()
            missing = []
            for trial in trials:
                if trial.trial_id in self.errors or failure(trial, self.store) is not None:
                    continue
                if self.refusal(trial) is not None or self.stopped(trial) is not None:
                    continue
                if self.record(trial) is None:
                    missing.append(trial)
                elif on_busy == "defer":  # finished before, perhaps by a process that died with its record
                    recording.ended(trial)
            if missing:
                self.errors |= train_trials(
                    missing,
                    shared,
                    self.store,
                    cluster,
                    on_busy=on_busy,
                    on_end=lambda trial_id: recording.ended(by_id[trial_id]),
                    halving=self.halving,
                )

    def measure(self, trials: Sequence[TrialConfig], shared: SharedData, cluster: Cluster) -> bool:
        """Measure each architecture that was not yet, alone on the machine; returns whether all are now."""
        distinct: dict[str, TrialConfig] = {}
        for trial in sorted(trials, key=lambda trial: trial.seed):
            architecture = trial_architecture(trial, self.store)
            if architecture is not None and self.record(trial) is not None:
                distinct.setdefault(architecture.architecture_id, trial)
        distinct = {name: trial for name, trial in distinct.items() if name not in self.profiles}
        if not distinct:
            return True
        try:
            place = self._measuring_place(cluster)
        except RuntimeError as error:
            self.say(f"nothing could be measured: {error}; go on by --resume when the node is there")
            return False
        self.say(
            f"measuring {counted(len(distinct), 'architecture')}{place.described}, one at a time, nothing "
            "else running"
        )
        for architecture_id, trial in distinct.items():
            architecture = trial_architecture(trial, self.store)
            assert architecture is not None  # it was there when `distinct` was made
            try:
                self.profiles[architecture_id] = dict(
                    measure_network(trial, architecture, self.profile, shared, self.store, place)
                )
            except RuntimeError as error:
                self.say(f"{architecture_id} could not be measured: {error}")
        return distinct.keys() <= self.profiles.keys()

    def _report(
        self, records: Sequence[TrialRecord], failed: Sequence[FailedTrial]
    ) -> Callable[[SweepRecorder], None]:
        """Write the files and print the table; returns what writes the same into MLflow."""
        frame = self.frame(records)
        labels = ChartLabels(
            dataset=self.data.name,
            max_length=self.preset.search.max_length,
            threads=self.config.latency_threads,
            accuracy=self.accuracy,
        )
        confidence = Confidence.of_records(frame, records, accuracy=self.accuracy)
        results = write_results(frame, failed, self.path, labels, confidence)
        more = self.more_artifacts()
        num_warmups = len({trial.warm_key for trial in self.trials})
        num_retrainings = len(self._retrainings())
        counts = counts_text(frame, num_warmups=num_warmups, num_retrainings=num_retrainings)
        self.say(f"\n{counts}, in {duration_text(self.elapsed_s())}")
        self.console.print(results_table(frame, failed, accuracy=self.accuracy))
        self.say(table_legend(accuracy=self.accuracy, threads=self.config.latency_threads))
        if frame["seed"].nunique() > 1:
            configurations = configurations_frame(frame, confidence)
            self.console.print(configurations_table(configurations, accuracy=self.accuracy))
            self.say(configurations_legend(configurations))
        self._say_failed(failed)
        verdicts = [verdict for trial in self.trials if (verdict := self.stopped(trial)) is not None]
        remarks = stopped_text(verdicts, frame, num_trials=len(self.trials))
        for remark in remarks:
            self.say(remark)
        self._say_short_of_memory()
        self.say_results(frame)
        for name, file in results.items():
            self.say(f"{name}: {file}")

        def write(recorder: SweepRecorder) -> None:
            for failure_record in failed:
                recorder.record_failure(failure_record)
            record_results(
                recorder,
                records,
                frame,
                labels,
                params=self.settings,
                tags=self.tags,
                metrics={
                    "num_trials": len(self.trials),
                    "num_retrainings": num_retrainings,
                    **({} if self.halving is None else {"num_stopped": len(verdicts)}),
                },
                artifacts=results
                | {name: self.path / name for name in (SWEEP, ITEMS)}
                | {name: file for name, file in more.items() if file.is_file()},
                confidence=confidence,
                items=self.items,
                remarks=remarks,
            )

        return write

    @staticmethod
    def _record_nothing(recorder: SweepRecorder, failed: Sequence[FailedTrial]) -> None:
        """Record a sweep of which no trial finished."""
        for failure_record in failed:
            recorder.record_failure(failure_record)
        recorder.finish("FAILED", now_ms())

    def _recorded(self, connect: Callable[[], SweepRecorder], write: Callable[[SweepRecorder], None]) -> bool:
        """Write into MLflow what is on disk already; returns whether it took that, and says so."""
        for pause_s in (*RECORD_AGAIN_AFTER_S, None):
            try:
                recorder = connect()
                write(recorder)
                break
            except Exception as error:  # whatever MLflow, its database or the network came up with
                reason = " ".join(str(error).split())[:_LONGEST_REASON]
                if pause_s is None or isinstance(error, InputError):
                    self._say_masked(
                        f"MLflow did not take the results ({reason}); what is finished is in {self.path}. To "
                        f"record it when MLflow is back:\n  {self._resume_command()}"
                    )
                    return False
            self._say_masked(f"MLflow did not take the results ({reason}); trying again in {pause_s:g} s")
            time.sleep(pause_s)
        where = "at http://127.0.0.1:5000 " if "mlflow server" in ui_command(recorder.tracking_uri) else ""
        self.say(f"all runs, {where}after:\n  {ui_command(recorder.tracking_uri)}")
        return True

    def _say_failed(self, failed: Sequence[FailedTrial]) -> None:
        for trial in failed:
            mark = "! " if trial.status == "failed" else ""
            self.say(f"{mark}{trial_label(trial)} {trial.status}: {trial.error}")
        if any(trial.status == "failed" for trial in failed):
            self.say(f"once that is put right, try what failed again by:\n  {self._resume_command()}")

    def _resume_command(self) -> str:
        return dataclasses.replace(self.config, resume=True).command()

    def _say_short_of_memory(self) -> None:
        for trial in self.trials:
            sizes = smaller_micro_batches(trial, self.store)
            stages = " and ".join(f"{stage} in micro-batches of {size}" for stage, size in sizes.items())
            if stages:
                self.say(f"{trial_label(trial)} ran out of memory and went on with less: {stages}")

    def _retrainings(self) -> set[str]:
        keys = set()
        for trial in self.trials:
            architecture = trial_architecture(trial, self.store)
            if architecture is not None and self.stopped(trial) is None:
                keys.add(trial.retrain_key(architecture))
        return keys

    def frame(self, records: Sequence[TrialRecord]) -> pd.DataFrame:
        """The table of the results, see `results_frame`."""
        return results_frame(records, accuracy=self.accuracy)

    def say_results(self, frame: pd.DataFrame) -> None:
        """Print what there is to say besides the table."""

    def more_artifacts(self) -> dict[str, Path]:
        """Files to be kept with the sweep's run, by name: here the warm supernets."""
        return {
            f"supernet-seed{trial.seed}.safetensors": self.store.entry("warm", trial.warm_key).path(SUPERNET)
            for trial in self.trials
        }

    def refusal(self, trial: TrialConfig) -> str | None:
        """Why a trial has no retraining and needs none, or None."""
        return refusal(trial, self.store)

    def stopped(self, trial: TrialConfig) -> Verdict | None:
        """Why a trial's retraining was stopped early, or None."""
        architecture = None if self.halving is None else trial_architecture(trial, self.store)
        if self.halving is None or architecture is None:
            return None
        return self.halving.verdict(trial.retrain_key(architecture))

    def tags_of(self, trial: TrialConfig) -> dict[str, str]:
        """What a trial's run is tagged with."""
        return self.tags

    def record(self, trial: TrialConfig) -> TrialRecord | None:
        """What is known of a trial and of what its network costs; None until it has finished.

        One that was stopped never does: another sweep may have finished its retraining, in a shared storage.
        """
        if self.stopped(trial) is not None:
            return None
        architecture = trial_architecture(trial, self.store)
        profile = None if architecture is None else self.profiles.get(architecture.architecture_id)
        return trial_record(
            trial,
            self.data,
            self.store,
            settings=self.settings,
            tags=self.tags_of(trial),
            profile=profile,
        )

    def _finished_record(self, trial: TrialConfig) -> TrialRecord | None:
        """The record of a trial that has just ended, elsewhere perhaps."""
        self.store.refresh()
        return self.record(trial)

    def _records(self) -> list[TrialRecord]:
        records = [self.record(trial) for trial in self.trials]
        return [record for record in records if record is not None]

    def _failed(self) -> list[FailedTrial]:
        failed = []
        for trial in self.trials:
            if self.record(trial) is not None:
                continue
            failed.append(self._unfinished(trial))
        return failed

    def _unfinished(self, trial: TrialConfig) -> FailedTrial:
        """The record of a trial without a result."""
        status: Unfinished = "failed"
        tags, end_ms = self.tags_of(trial), None
        if (refused := self.refusal(trial)) is not None:
            status, why = "refused", refused
        elif (verdict := self.stopped(trial)) is not None:
            status, why, end_ms = "stopped", verdict.sentence(), verdict.at_ms
            tags = {
                **tags,
                "architecture_id": verdict.reached.architecture,
                "easrec.stopped_epoch": str(verdict.reached.epoch),
            }
        else:
            why = failure(trial, self.store) or self.errors.get(trial.trial_id) or "it ended without a result"
        return failed_record(
            trial,
            why,
            self.store,
            settings=self.settings,
            tags=tags,
            now_ms=now_ms(),
            end_ms=end_ms,
            status=status,
        )

    def elapsed_s(self) -> float:
        """Seconds since this run of the program began."""
        return time.monotonic() - self.start_s
