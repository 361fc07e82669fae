"""The oracle: all architectures of a space retrained, and sweeps judged by what they missed."""

import dataclasses
import logging
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from easrec.evaluation.protocols import selection_protocol
from easrec.files import write_atomically, write_json
from easrec.nas.resources import network_flops, network_parameters
from easrec.nas.training_cost import retraining_flops
from sweeps.cluster import Cluster, ray_cluster
from sweeps.data import SweepData, load_data
from sweeps.heartbeat import Heartbeat
from sweeps.interruption import STOPPING, say_stopped, sigterm_as_interrupt
from sweeps.nodes import check_nodes
from sweeps.objects import open_storage
from sweeps.oracle_charts import oracle_png
from sweeps.oracle_config import OracleConfig
from sweeps.oracle_judgement import Judgement, judge, judgement_table, read_sweep
from sweeps.oracle_tables import COST, SUPERNET, Truth
from sweeps.oracle_trial import Member, train_member
from sweeps.output import STORE, SWEEP, identify, locked_output
from sweeps.plan import preset_of, trials_of_seeds
from sweeps.presets import Preset
from sweeps.remaining import train_remaining
from sweeps.reporter import at, duration_text
from sweeps.shared_storage import shared_store
from sweeps.store import Store, code_version, content_key, now_ms
from sweeps.summary import counted
from sweeps.trainable import SharedData
from sweeps.trial import TrialConfig
from sweeps.tuner import warm_supernets

ORACLE = "oracle.parquet"
REPORT = "oracle.json"
CHART = "oracle.png"


def run_oracle(config: OracleConfig, *, console: Console | None = None) -> int:
    """Retrain a space, or go on with it, and judge sweeps; returns the exit status.

    0: all is known. 1: some architecture could not be trained. 130: interrupted.

    Raises:
        InputError: something that the user can put right; nothing has been started then.
    """
    config.check()
    logging.getLogger("easrec").setLevel(logging.ERROR)
    console = console or Console(width=None if sys.stdout.isatty() else 120)
    preset = preset_of(config)
    if preset.transfer_from != "warm":
        # Of the presets, only the paper's retrains from a searched supernet, which an oracle has not.
        preset = dataclasses.replace(preset, transfer_from="warm")
    data = load_data(config, preset)
    judged = {path: read_sweep(path, data.split, preset.space) for path in config.sweeps}
    output = config.output or _default_output(config)
    with locked_output(output, resume=config.resume) as path:
        config = dataclasses.replace(config, output=path)
        try:
            with sigterm_as_interrupt():
                return _Oracle(config, preset, data, path, console).run(judged)
        except STOPPING as end:
            # Stopped before it was written down, there is nothing to resume.
            command = dataclasses.replace(config, resume=(path / SWEEP).is_file()).command()
            return say_stopped(end, command, console)


def _default_output(config: OracleConfig) -> Path:
    name = re.sub(r"[^\w.-]+", "-", config.data_name)
    return Path("runs", f"oracle-{name}-{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}")


class _Oracle:
    """One run of the program over an oracle's directory."""

    def __init__(
        self, config: OracleConfig, preset: Preset, data: SweepData, path: Path, console: Console
    ) -> None:
        self.config = config
        self.preset = preset
        self.data = data.split
        self.described = data.described
        self.path = path
        self.console = console
        self.objects = None if config.storage is None else open_storage(config.storage)
        self.store = Store(path / STORE)
        self.start_s = time.monotonic()
        self.accuracy = f"valid/{selection_protocol(self.data)}/ndcg_at_10"
        self.members: list[Member] = []
        self.errors: dict[str, str] = {}

    def say(self, text: str) -> None:
        """Print a plain line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def run(self, judged: dict[Path, pd.DataFrame]) -> int:
        """See `run_oracle`."""
        self.say(self.described)
        self.say(f"output: {self.path}")
        with ray_cluster(self.config) as cluster, sigterm_as_interrupt():
            if self.config.ray_address != "local":
                check_nodes(self.path if self.objects is None else None, cluster.workers())
            trials = trials_of_seeds(
                self.config,
                self.preset,
                self.data,
                device=cluster.device,
                code_version=code_version(),
            )
            facts = {
                "data checksum": self.data.checksum,
                "program": code_version(),
                "device": cluster.device,
                "preset in full": content_key(dataclasses.asdict(self.preset)),
                "pipeline": "oracle",
            }
            if self.objects is not None:
                self.store = shared_store(self.objects)
            identify(self.path, self.config, facts)
            # The longest first, so that none of them is what all wait for at the end.
            architectures = sorted(
                self.preset.space.architectures(),
                key=lambda one: network_flops(one, self.preset.search.max_length),
                reverse=True,
            )
            self.members = [Member(trial, one) for one in architectures for trial in trials]
            self._train(cluster)
        return self._report(judged)

    def _train(self, cluster: Cluster) -> None:
        for member in self.members:
            self.store.forget_failure("warm", member.trial.warm_key)
            self.store.forget_failure("retrain", member.retrain_key)
        shared = SharedData.put(self.data)
        num_architectures = len(self.members) // self.config.seeds
        self.say(
            f"{counted(num_architectures, 'architecture')}, {counted(self.config.seeds, 'seed')}, "
            f"{cluster.slots} at once, on {cluster.device}"
        )
        by_seed = {member.trial.seed: member.trial for member in self.members}
        heartbeat = Heartbeat(
            self.members,
            self.store,
            label=lambda member: member.label,
            places=lambda member: (("warm", member.trial.warm_key), ("retrain", member.retrain_key)),
            say=self._say_when,
            since_ms=now_ms(),
        )
        with heartbeat:
            self._train_on(by_seed, shared, cluster)

    def _train_on(self, by_seed: Mapping[int, TrialConfig], shared: SharedData, cluster: Cluster) -> None:
        crashed = warm_supernets(list(by_seed.values()), shared, self.store, cluster)
        for member in self.members:
            if member.trial.warm_key in crashed:
                self.errors[member.trial_id] = f"warm-up: {crashed[member.trial.warm_key]}"
        self.errors |= train_remaining(
            [member for member in self.members if member.trial_id not in self.errors],
            shared,
            self.store,
            cluster,
            program=train_member,
            label=lambda member: member.label,
            outcome=self._outcome,
            failed=lambda member: self._failure(member) is not None,
            say=self._say_when,
        )

    def _say_when(self, text: str) -> None:
        self.say(at(time.monotonic() - self.start_s, text))

    def _outcome(self, member: Member) -> str | None:
        row = self._row(member)
        return None if row is None else f"{row[self.accuracy]:.4f} after {row['epochs']} epochs"

    def _failure(self, member: Member) -> str | None:
        for kind, key in (("warm", member.trial.warm_key), ("retrain", member.retrain_key)):
            result = self.store.entry(kind, key).result()
            if result is not None and result.error is not None:
                return result.error
        return None

    def _row(self, member: Member) -> dict[str, Any] | None:
        """What is known of a member, or None unless all is."""
        score = self.store.entry("supernet-score", member.score_key).result()
        retrained = self.store.entry("retrain", member.retrain_key).result()
        if score is None or retrained is None or retrained.error is not None:
            return None
        one, max_length = member.architecture, self.preset.search.max_length
        epochs = len(retrained.value["epochs"])
        return {
            "architecture_id": one.architecture_id,
            "seed": member.trial.seed,
            **one.to_dict(),
            "flops": float(network_flops(one, max_length)),
            "params": float(network_parameters(one, self.data.num_items, max_length)),
            SUPERNET: score.value["ndcg_at_10"],
            COST: retraining_flops(one, self.data, max_length, epochs),
            "retrain_s": retrained.value["retrain_s"],
            "epochs": epochs,
            "best_epoch": retrained.value["best_epoch"],
            **retrained.value["metrics"],
        }

    def _report(self, judged: dict[Path, pd.DataFrame]) -> int:
        """Write the files, print the tables; returns the exit status."""
        found = {member.trial_id: self._row(member) for member in self.members}
        rows = [row for row in found.values() if row is not None]
        missing = [member for member in self.members if found[member.trial_id] is None]
        for member in missing:
            why = self._failure(member) or self.errors.get(member.trial_id) or "it ended without a result"
            self.say(f"! {member.label} failed: {why}")
        if missing:
            self.say(
                f"{len(missing)} of {len(self.members)} retrainings failed, so the true front is not known; "
                f"what is finished is kept in {self.path}"
            )
            return 1
        frame = pd.DataFrame(rows)
        truth = Truth.of(frame, self.accuracy)
        frame["pareto"] = frame["architecture_id"].isin(truth.front)
        write_atomically(self.path / ORACLE, lambda temporary: frame.to_parquet(temporary, index=False))
        judgements = {
            str(path): judge(sweep, truth, draws=self.config.draws, seed=self.config.seed)
            for path, sweep in judged.items()
        }
        write_json(self.path / REPORT, self._summary(truth, judgements))
        oracle_png(truth, judged, self.path / CHART, dataset=self.data.name)
        self._print(truth, judgements)
        return 0

    def _summary(self, truth: Truth, judgements: dict[str, Judgement]) -> dict[str, Any]:
        tau, p_value = truth.rank_correlation()
        return {
            "accuracy": self.accuracy,
            "seeds": self.config.seeds,
            "num_architectures": len(truth.means),
            "front": truth.front,
            "reference": list(truth.reference),
            "kendall_tau": tau,
            "kendall_p_value": p_value,
            "sweeps": {path: dataclasses.asdict(found) for path, found in judgements.items()},
        }

    def _print(self, truth: Truth, judgements: dict[str, Judgement]) -> None:
        tau, p_value = truth.rank_correlation()
        self.say(
            f"\n{counted(len(truth.means), 'architecture')}, {counted(self.config.seeds, 'seed')}, in "
            f"{duration_text(time.monotonic() - self.start_s)}; the true front ({self.accuracy}, means over "
            "seeds):"
        )
        for name in truth.front:
            row = truth.means.loc[name]
            accuracies = f"{row[self.accuracy]:.4f}, on the supernet {row[SUPERNET]:.4f}"
            self.say(f"  {name}: {accuracies}, {row['flops'] / 1e6:.2f} MFLOPs")
        self.say(
            f"Kendall's tau between accuracies read off the warm supernet and after retraining: {tau:.2f} "
            f"(p = {p_value:.2g})"
        )
        for path, found in judgements.items():
            self.say(f"\n{path}:")
            self.console.print(judgement_table(found))
        for name in (ORACLE, REPORT, CHART):
            self.say(f"{name}: {self.path / name}")
