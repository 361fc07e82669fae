"""Another network of a finished sweep: retrained from its warm supernet, without a new search."""

import dataclasses
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.evaluation.profile import ProfileConfig, profile_network
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.nas.resources import network_flops, network_parameters, scoring_flops
from sweeps.records import MEASURED
from sweeps.reporter import duration_text
from sweeps.source import SweepSource, Trained
from sweeps.store import Entry, Store, StoredFailureError, Workspace, code_version, training_version
from sweeps.trainable import measure_key
from sweeps.trial import NETWORK, SUPERNET, TrialConfig, retrain_stage

_POLL_S = 0.5
_MIB = 2**20
_BYTES_PER_PARAMETER = 4  # float32


def parse_architecture(text: str, space: CandidateSpace) -> Architecture:
    """The architecture of a space that a user names.

    >>> space = CandidateSpace(64, 256, 4, 4, (0, 0.5), (0, 0.5))
    >>> parse_architecture("2x32/128", space) == parse_architecture("h32-i128-l2-a4-linear-column-g2", space)
    True

    Args:
        text: LAYERSxHIDDEN/INNER, or an architecture_id.
        space: what the sweep chose from.

    Raises:
        InputError: the space has no such architecture; the message names its candidates.
    """
    for architecture in space.architectures():
        if re.sub(r"\s", "", text) in (_short(architecture), architecture.architecture_id):
            return architecture
    sizes = ", ".join("{}/{}".format(*space.sizes(candidate)) for candidate in range(len(space)))
    raise InputError(
        f"--architecture {text} is none that the sweep's supernet holds: write LAYERSxHIDDEN/INNER with 1 to "
        f"{space.num_layers} layers and HIDDEN/INNER out of {sizes}"
    )


def _short(architecture: Architecture) -> str:
    return f"{architecture.num_layers}x{architecture.hidden_size}/{architecture.inner_size}"


def resize(
    source: SweepSource, architecture: Architecture, seed: int, store: Store, say: Callable[[str], None]
) -> Trained:
    """Retrain an architecture from the warm supernet of a seed, as the sweep retrains, and measure it.

    What the store has is not done again: neither a retraining that finished, nor the epochs of one that was
    stopped. In the store of the sweep itself, a retraining that a trial shares is that trial's.

    Args:
        source: the finished sweep.
        architecture: one of its space.
        seed: one of its seeds.
        store: where the retraining is kept.
        say: prints a line.

    Raises:
        InputError: the sweep has no such seed, its supernet is missing, it was trained on a GPU and there is
            none, or the retraining failed in a way that would repeat itself.
    """
    recorded = _trial_of(source, seed, source.facts.program)
    # Keys name the program: a network that one version warmed and another retrains is neither's alone.
    program = source.facts.program
    if training_version(program) == training_version(code_version()):
        program = code_version()  # what only measures may have changed since
    else:
        say(f"the sweep was made by easrec {program}; the retraining is by {code_version()}")
        program = f"{program}, retrained by {code_version()}"
    trial = _trial_of(source, seed, program)
    if trial.device == "cuda" and not torch.cuda.is_available():
        raise InputError("the sweep trained on a GPU and this machine has none; export from one that has")
    data = source.data.split
    entry = store.entry("retrain", trial.retrain_key(architecture))
    threads = torch.get_num_threads()
    torch.set_num_threads(trial.threads)  # sums in another order give other last digits
    try:
        _import_supernet(source, recorded, trial, store)
        with _progress(entry, trial, architecture, say):
            retrain_stage(trial, architecture, data, store)
        value = entry.value()
    except StoredFailureError as error:
        raise InputError(
            f"{architecture.architecture_id}, seed {seed}, could not be retrained: {error}"
        ) from error
    finally:
        torch.set_num_threads(threads)
    params = network_parameters(architecture, data.num_items, trial.search.max_length)
    flops = network_flops(architecture, trial.search.max_length)
    return Trained(
        trial_id=None,
        tradeoff=None,
        seed=seed,
        architecture=architecture,
        network=entry.path(NETWORK),
        metrics={
            **value["metrics"],
            "flops": flops,
            "flops_total": flops + scoring_flops(architecture, data.num_items),
            "params": params,
            "weights_mib": params * _BYTES_PER_PARAMETER / _MIB,
            "retrain_s": value["retrain_s"],
            "best_epoch": value["best_epoch"],
            **_measured(trial, architecture, source, store, say),
        },
        transfer_from=trial.transfer_from,
        program=program,
        key=trial.retrain_key(architecture),
    )


def _trial_of(source: SweepSource, seed: int, program: str) -> TrialConfig:
    """Any trial of a seed: with the transfer from the warm supernet, no tradeoff is in a retraining's key."""
    trials = source.trials(program)
    for trial in trials:
        if trial.seed == seed:
            if trial.transfer_from == "searched":
                # There is no searched supernet without a search.
                return dataclasses.replace(trial, transfer_from="warm")
            return trial
    seeds = sorted({trial.seed for trial in trials})
    raise InputError(f"--seed {seed} is none of the sweep, whose seeds are {', '.join(map(str, seeds))}")


def _import_supernet(source: SweepSource, recorded: TrialConfig, trial: TrialConfig, store: Store) -> None:
    """Put the sweep's warm supernet where the retraining looks for it, unless it is there."""

    def compute(workspace: Workspace) -> dict[str, Any]:
        shutil.copyfile(source.supernet(recorded), workspace.directory / SUPERNET)
        return {"epochs": [], "warmup_s": 0.0, "imported_from": source.facts.program}

    if trial.transfer_from == "warm":
        store.get_or_compute("warm", trial.warm_key, compute)


def _measured(
    trial: TrialConfig,
    architecture: Architecture,
    source: SweepSource,
    store: Store,
    say: Callable[[str], None],
) -> dict[str, float]:
    """What the network costs on this machine, or nothing when it cannot be measured."""
    trial = dataclasses.replace(trial, measure_on=None)  # this is not the node that the sweep measured on
    settings = ProfileConfig(
        threads=source.facts.config.latency_threads, repeats=source.facts.preset().latency_repeats
    )
    network = store.entry("retrain", trial.retrain_key(architecture)).path(NETWORK)
    data: SplitData = source.data.split

    def compute(workspace: Workspace) -> dict[str, Any]:
        say("measuring latency and memory; nothing else should run meanwhile")
        profile = profile_network(
            network, data, settings, device=trial.device, train_batch_size=trial.retrain.batch_size
        )
        return dataclasses.asdict(profile)

    try:
        profile = store.get_or_compute("measure", measure_key(trial, architecture, settings), compute)
    except RuntimeError as error:
        say(f"latency and memory could not be measured: {str(error).splitlines()[0]}")
        return {}
    return {name: profile[name] for name in MEASURED}


@contextmanager
def _progress(
    entry: Entry, trial: TrialConfig, architecture: Architecture, say: Callable[[str], None]
) -> Iterator[None]:
    """Print a line for each epoch that a retraining ends, whichever process does it."""
    if entry.result() is not None:
        say(f"{architecture.architecture_id}, seed {trial.seed}, has been retrained before")
        yield
        return
    stop = threading.Event()

    def watch() -> None:
        shown = 0
        while True:
            ended = stop.wait(_POLL_S)
            activity = entry.activity()
            report = activity.report if activity is not None else None
            if report is not None and report["epoch"] > shown:
                shown = report["epoch"]
                say(_epoch_line(report))
            if ended:
                return

    say(
        f"retraining {architecture.architecture_id}, seed {trial.seed}: at most {trial.retrain.max_epochs} "
        f"epochs; {trial.retrain.patience} without progress end it"
    )
    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _epoch_line(report: dict[str, Any]) -> str:
    accuracy = [
        f"{name} {value:.4f}; " for name, value in report["metrics"].items() if name.endswith("ndcg_at_10")
    ]
    left_s = (report["num_epochs"] - report["epoch"]) * report["duration_s"]
    return (
        f"epoch {report['epoch']}/{report['num_epochs']}: loss {report['metrics']['loss']:.4f}; "
        f"{''.join(accuracy)}at most {duration_text(left_s)} left"
    )
