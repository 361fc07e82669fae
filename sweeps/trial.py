"""One trial: its settings, the keys of what it computes, and its stages on a store.

A trial searches from the warm supernet of its seed, derives an architecture, and retrains and evaluates
that. Each stage is a store entry whose key is the content of all that its result depends on, so trials
share what they have in common and nothing is computed twice.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from easrec.data.sequences import SplitData
from easrec.evaluation.layer_latency import layer_latencies_ms
from easrec.files import write_json
from easrec.micro_batches import MemoryExhaustedError, memory_explained
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.saving import load_network, save_network
from easrec.models.transformer import SequentialRecommender
from easrec.nas.alternating import Method, alternate
from easrec.nas.resources import network_flops
from easrec.nas.search import EasRec, SearchConfig, WarmUp, warm_up
from easrec.nas.supernet import Supernet
from easrec.retrain import RetrainConfig, RetrainResult, retrain
from easrec.training import EpochReport, NonFiniteLossError, OnEpoch
from sweeps.bounds import Budget
from sweeps.hardware import hardware, measuring_device
from sweeps.rungs import Reached
from sweeps.store import OnBusy, Store, Workspace, content_key, training_version
from sweeps.user_ranks import RANKS, rank_metrics, rank_table, write_ranks

TransferFrom = Literal["warm", "searched", "fresh"]

FAILURES: tuple[type[Exception], ...] = (ValueError, NonFiniteLossError, MemoryExhaustedError)
"""What would fail again in the same way; any other exception may be the machine's fault."""

SUPERNET = "supernet.safetensors"
NETWORK = "network"
ARCHITECTURE = "architecture.json"
WARM_STATE = "state"
"""Names of what stages leave in their entries: a supernet, the retrained network's directory, its
architecture, and the directory of the warm-up's last checkpoint, where searches begin."""


class Judge(Protocol):
    """Says which retrainings stop early; see `sweeps.halving`."""

    def check(self, subject: str) -> None:
        """Raise `StoppedError` if a retraining has been stopped before."""

    def report(self, reached: Reached) -> None:
        """Take what a retraining has reached after an epoch; raises `StoppedError` if it shall stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """All that the result of one trial depends on, besides the interactions themselves."""

    space: CandidateSpace
    """What the search chooses from."""
    search: SearchConfig
    """Settings of warm-up and search; they hold the trial's tradeoff and seed."""
    retrain: RetrainConfig
    """Settings of the retraining."""
    transfer_from: TransferFrom
    """First weights of the retraining: of the `warm` supernet, the `searched` one, or `fresh` ones."""
    data_checksum: str
    """Checksum of the interactions."""
    code_version: str
    """Version of the program, see `sweeps.store.code_version`."""
    device: str
    """`cpu` or `cuda`."""
    threads: int
    """CPU threads of search and retraining; sums in another order give other last digits."""
    warmup_threads: int
    """CPU threads of the warm-up."""
    independent: bool = False
    """Whether the warm-up is the trial's own and shared with no other tradeoff."""
    measure_on: str | None = None
    """What latencies are measured on, see `sweeps.measuring`; None: where the trial runs."""
    budget: Budget | None = None
    """What the derived network may cost to be retrained; None: whatever it likes."""
    method: Method | None = None
    """The search that chooses in place of EASRec's; None: EASRec's."""

    def refusal(self, architecture: Architecture) -> str | None:
        """Why a derived network is not retrained, or None."""
        return None if self.budget is None else self.budget.refusal(architecture)

    @property
    def tradeoff(self) -> float:
        """Weight of the resource term (lambda in the paper)."""
        return self.search.tradeoff

    @property
    def seed(self) -> int:
        """Seed of the warm-up, the search and the retraining."""
        return self.search.seed

    @property
    def measure_device(self) -> str:
        """Where latencies are measured: `cpu` or `cuda`."""
        return self.device if self.measure_on is None else measuring_device(self.measure_on)

    def measuring_settings(self) -> dict[str, Any]:
        """What measured figures depend on besides what is measured."""
        chosen = {} if self.measure_on is None else {"measure_on": self.measure_on}
        return {"device": self.measure_device, **chosen}

    def common(self, threads: int) -> dict[str, Any]:
        """What the key of every stage that trains begins with."""
        return {
            "data": self.data_checksum,
            "code": training_version(self.code_version),
            "device": self.device,
            "threads": threads,
        }

    @property
    def warm_key(self) -> str:
        """Key of the warm-up: the tradeoff is in it only where the warm-up is the trial's own."""
        own = {"tradeoff": self.tradeoff} if self.independent else {}
        return content_key(
            {
                **self.common(self.warmup_threads),
                **own,
                "space": self.space.to_dict(),
                "settings": self.search.warmup_settings(),
            }
        )

    @property
    def search_key(self) -> str:
        """Key of the search."""
        settings = self.search.to_dict()
        # A search by latency goes by what was measured.
        measured = self.measuring_settings() if self.search.resource == "latency" else {}
        method = {} if self.method is None else {"method": self.method.to_dict()}
        return content_key(
            {**self.common(self.threads), **measured, **method, "warm": self.warm_key, "settings": settings}
        )

    @property
    def latency_key(self) -> str:
        """Key of the table of layers' latencies: independent of the tradeoff and the seed."""
        return content_key(
            {
                **self.common(self.threads),
                **self.measuring_settings(),
                "data": None,
                "space": self.space.to_dict(),
                "max_length": self.search.max_length,
            }
        )

    def retrain_key(self, architecture: Architecture) -> str:
        """Key of the retraining of a derived architecture.

        With the transfer from the warm supernet no tradeoff is in it: trials that derive the same
        architecture share one retraining.
        """
        origin = {"warm": self.warm_key, "searched": self.search_key, "fresh": ""}
        return content_key(
            {
                **self.common(self.threads),
                "architecture": architecture.to_dict(),
                "max_length": self.search.max_length,
                "settings": self.retrain.to_dict(),
                "transfer": [self.transfer_from, origin[self.transfer_from]],
            }
        )

    @property
    def trial_id(self) -> str:
        """Key of the whole trial."""
        settings = [self.retrain.to_dict(), self.transfer_from]
        return content_key({"search": self.search_key, "retrain": settings})


def sizes_text(max_length: int, data: SplitData, batch_size: int, hidden_size: int) -> str:
    """What the memory of a stage depends on, for messages."""
    return (
        f"batches of {batch_size} sequences of up to {max_length} positions, "
        f"{hidden_size} hidden dimensions, {data.num_items:,} items"
    )


def recording(workspace: Workspace) -> OnEpoch:
    """A callback that keeps the latest epoch's report, for those who watch, and its checkpoint."""

    def record(report: EpochReport) -> None:
        workspace.record(report.to_dict())

    return record


def _judged(
    workspace: Workspace, before: Mapping[str, Any] | None, start: Reached, trial: TrialConfig, judge: Judge
) -> OnEpoch:
    """As `recording`, and a judge is told of each epoch once its checkpoint is kept.

    A retraining that is resumed is judged before it goes on, by what it had reached: its process may have
    died before it was.

    Args:
        workspace: of the retraining.
        before: the report of the last epoch whose checkpoint is kept; None before any.
        start: what is retrained, before its first epoch.
        trial: of the retraining.
        judge: to be told.
    """
    best, best_epoch = start.accuracy, 0

    def tell(epoch: int) -> None:
        ends = epoch == trial.retrain.max_epochs or epoch - best_epoch >= trial.retrain.patience
        judge.report(dataclasses.replace(start, epoch=epoch, accuracy=best, last=ends))

    if before is not None:
        # One without a best epoch is of another sweep, that did not halve: its last epoch stands for that.
        best, best_epoch = before.get("best") or (_validation(before["metrics"]), before["epoch"])
        tell(before["epoch"])

    def record(report: EpochReport) -> None:
        nonlocal best, best_epoch
        accuracy = _validation(report.metrics)
        if accuracy > best:
            best, best_epoch = accuracy, report.epoch
        workspace.record(report.to_dict() | {"best": [best, best_epoch]})
        tell(report.epoch)

    return record


def _validation(metrics: Mapping[str, float]) -> float:
    """The NDCG@10 that an epoch of a retraining is judged by: it has that of one protocol alone."""
    (accuracy,) = (value for name, value in metrics.items() if name.endswith("/ndcg_at_10"))
    return accuracy


def _costs(trial: TrialConfig, architecture: Architecture, store: Store) -> dict[str, float]:
    """What is known of a derived network's costs before it is retrained, as `Reached` has them."""
    costs: dict[str, float] = {"flops": network_flops(architecture, trial.search.max_length)}
    if trial.search.resource == "latency":
        searched = store.entry("search", trial.search_key).value()
        costs["latency_ms"] = architecture.num_layers * searched["latencies_ms"][searched["candidate"]]
    return costs


def _warm_up(trial: TrialConfig, data: SplitData, state: Path, on_epoch: OnEpoch | None = None) -> WarmUp:
    """Train the warm supernet, or take up where its state left it: nothing remains of a finished one."""
    return warm_up(
        data, trial.space, trial.search, device=trial.device, checkpoint_dir=state, on_epoch=on_epoch
    )


def warm_stage(trial: TrialConfig, data: SplitData, store: Store) -> None:
    """Train the warm supernet of a trial's seed and space, unless the store has it.

    Raises:
        StoredFailureError: when the warm-up failed in a way that would repeat itself.
    """

    def compute(workspace: Workspace) -> dict[str, Any]:
        sizes = sizes_text(trial.search.max_length, data, trial.search.batch_size, trial.space.hidden_size)
        with memory_explained("the warm-up", sizes):
            warm = _warm_up(trial, data, workspace.directory / WARM_STATE, recording(workspace))
            warm.supernet.save(workspace.directory / SUPERNET)
        return {
            "epochs": [report.to_dict() for report in warm.epochs],
            "warmup_s": sum(report.duration_s for report in warm.epochs),
            "micro_batch_size": warm.micro_batch_size,
        }

    store.get_or_compute("warm", trial.warm_key, compute, failures=FAILURES)


def latency_stage(trial: TrialConfig, store: Store) -> tuple[float, ...]:
    """The median time of a layer of each candidate in ms, measured here unless the store has it; (K,)."""

    def compute(workspace: Workspace) -> dict[str, Any]:
        table = layer_latencies_ms(trial.space, trial.search.max_length, device=trial.measure_device)
        return {"latencies_ms": list(table), "hardware": hardware(trial.measure_device)}

    return tuple(store.get_or_compute("latency", trial.latency_key, compute)["latencies_ms"])


def _search_config(trial: TrialConfig, store: Store) -> SearchConfig:
    """The settings of a search, with the table of latencies that all searches of a sweep share."""
    if trial.search.resource != "latency" or trial.search.latencies_ms:
        return trial.search
    if trial.measure_on is not None and store.entry("latency", trial.latency_key).result() is None:
        raise RuntimeError(
            f"the layers have not been measured on {trial.measure_on}, and a search may run elsewhere"
        )
    return dataclasses.replace(trial.search, latencies_ms=latency_stage(trial, store))


def search_stage(trial: TrialConfig, data: SplitData, store: Store) -> Architecture:
    """Search from the warm supernet, which must be there; returns the derived architecture.

    Raises:
        StoredFailureError: when the warm-up or the search failed in a way that would repeat itself.
    """
    warmed = store.entry("warm", trial.warm_key)
    warmed.value()

    def compute(workspace: Workspace) -> dict[str, Any]:
        config = _search_config(trial, store)
        sizes = sizes_text(trial.search.max_length, data, config.batch_size, trial.space.hidden_size)
        with memory_explained("the search", sizes):
            result = alternate(
                trial.method or EasRec(),
                data,
                trial.space,
                config,
                warm=_warm_up(trial, data, warmed.path(WARM_STATE)),
                device=trial.device,
                checkpoint_dir=workspace.checkpoints,
                on_epoch=recording(workspace),
            )
            if trial.transfer_from == "searched":
                result.supernet.save(workspace.directory / SUPERNET)
        return {
            "architecture": result.architecture.to_dict(),
            "candidate": result.candidate,
            "epochs": [report.to_dict() for report in result.epochs],
            "search_s": result.search_s,
            "latencies_ms": list(config.latencies_ms),
            "micro_batch_size": result.micro_batch_size,
        }

    value = store.get_or_compute("search", trial.search_key, compute, failures=FAILURES)
    return Architecture.from_dict(value["architecture"])


def _initial_network(
    trial: TrialConfig, architecture: Architecture, store: Store
) -> SequentialRecommender | None:
    if trial.transfer_from == "fresh":
        return None
    origin = (
        store.entry("warm", trial.warm_key)
        if trial.transfer_from == "warm"
        else store.entry("search", trial.search_key)
    )
    supernet = Supernet.load(origin.path(SUPERNET), device=trial.device)
    return supernet.extract(architecture)


def _retrain(
    trial: TrialConfig,
    architecture: Architecture,
    data: SplitData,
    store: Store,
    workspace: Workspace,
    on_epoch: OnEpoch,
) -> dict[str, Any]:
    result = retrain(
        architecture,
        data,
        trial.retrain,
        initial=_initial_network(trial, architecture, store),
        device=trial.device,
        checkpoint_dir=workspace.checkpoints,
        on_epoch=on_epoch,
    )
    return keep_network(result, data, workspace, device=trial.device)


def keep_network(
    result: RetrainResult, data: SplitData, workspace: Workspace, *, device: str
) -> dict[str, Any]:
    """Leave a trained network and the ranks that it gives in a workspace; returns the entry's value."""
    save_network(result.model, workspace.directory / NETWORK)
    write_json(workspace.directory / ARCHITECTURE, result.model.architecture.to_dict())
    # Read back, so that the figures are those of the file.
    model = load_network(workspace.directory / NETWORK, device=device)
    ranks = rank_table(model.scores, data, max_length=model.max_length, device=device)
    write_ranks(ranks, workspace.directory / RANKS)
    return {
        "epochs": [report.to_dict() for report in result.epochs],
        "best_epoch": result.best_epoch,
        "metrics": rank_metrics(ranks),
        "retrain_s": result.retrain_s,
        "micro_batch_size": result.micro_batch_size,
    }


def retrain_stage(
    trial: TrialConfig,
    architecture: Architecture,
    data: SplitData,
    store: Store,
    *,
    on_busy: OnBusy = "wait",
    judge: Judge | None = None,
) -> None:
    """Retrain an architecture and evaluate it on validation and test under every protocol.

    Args:
        trial: its settings.
        architecture: what to retrain.
        data: what to train on.
        store: where the result goes.
        on_busy: see `Store.get_or_compute`.
        judge: may stop it; None: nobody.

    Raises:
        EntryBusyError: with `on_busy="defer"`, when another trial is retraining it at this moment.
        StoppedError: when the judge has stopped it, now or earlier.
        StoredFailureError: when the retraining failed in a way that would repeat itself.
    """
    key = trial.retrain_key(architecture)
    entry = store.entry("retrain", key)

    def compute(workspace: Workspace) -> dict[str, Any]:
        on_epoch = recording(workspace)
        if judge is not None:
            judge.check(key)  # it may have been stopped while this trial waited for it
            activity = entry.activity()
            before = None if activity is None else activity.report
            start = Reached(
                subject=key,
                architecture=architecture.architecture_id,
                seed=trial.seed,
                epoch=0,
                accuracy=-math.inf,
                costs=_costs(trial, architecture, store),
            )
            on_epoch = _judged(workspace, before, start, trial, judge)
        sizes = sizes_text(trial.search.max_length, data, trial.retrain.batch_size, architecture.hidden_size)
        with memory_explained("the retraining", sizes):
            return _retrain(trial, architecture, data, store, workspace, on_epoch)

    if judge is not None:
        judge.check(key)
    store.get_or_compute("retrain", key, compute, on_busy=on_busy, failures=FAILURES)


def run_trial(
    trial: TrialConfig,
    data: SplitData,
    store: Store,
    *,
    on_busy: OnBusy = "wait",
    judge: Judge | None = None,
) -> None:
    """Search, derive, retrain, evaluate; all results go to the store. See `search_stage`, `retrain_stage`.

    A network over the trial's budget is not retrained.
    """
    architecture = search_stage(trial, data, store)
    if trial.refusal(architecture) is None:
        retrain_stage(trial, architecture, data, store, on_busy=on_busy, judge=judge)
