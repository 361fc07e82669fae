"""From a finished sweep to a folder that can be served, and to a version in MLflow's model registry."""

import dataclasses
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from easrec.errors import InputError
from easrec.evaluation.protocols import selection_protocol
from easrec.models.saving import load_network
from easrec.models.transformer import SequentialRecommender
from easrec.serving import save_bundle
from sweeps.addresses import masked, without_credentials
from sweeps.choice import Pick, best_trial, choose
from sweeps.export_config import ExportConfig
from sweeps.intervals import Estimate, accuracy_estimates, largest_difference
from sweeps.mlflow_store import create_store
from sweeps.model_card import CardFacts, model_card
from sweeps.output import STORE
from sweeps.plan import preset_of
from sweeps.registry import CARD, Registered, mlflow_at, network_run, register, signature_text
from sweeps.resize import parse_architecture, resize
from sweeps.source import SweepDirectory, SweepFacts, SweepSource, Trained, open_run
from sweeps.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TOLERANCE = 0.002
"""How far a figure may be from the recorded one: another machine may rank near ties otherwise."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """The sweep that the user named."""

    source: SweepSource
    trial_id: str | None
    """The trial whose run was named, if it was one."""
    home: Path
    """Where folders and stores of this export go by default."""
    store: Store
    """Where retrainings are kept."""


def run_export(config: ExportConfig, *, console: Console | None = None) -> int:
    """Export what the options name and report it; returns the exit status, 0.

    Raises:
        InputError: something that the user can put right; MLflow's registry is as it was then, unless it was
            MLflow that failed on the way.
    """
    config.check()
    console = console or Console(width=None if sys.stdout.isatty() else 120)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    with (
        tempfile.TemporaryDirectory(prefix="easrec-export-") as scratch,
        _mlflow(config) as client,
    ):
        opened = _open(config, client, Path(scratch))
        trained, reason = _network(config, opened, say)
        say(f"{trained.architecture.architecture_id}, seed {trained.seed}: {reason}")
        folder = config.to or opened.home / f"{trained.architecture.architecture_id}-seed{trained.seed}"
        say("evaluating on validation and test")
        model = load_network(trained.network)
        estimates = _evaluate(opened.source, trained, model)
        run_id = None
        if client is not None and not config.no_register:
            run_id = network_run(client, opened.source.facts, trained)
        facts = _card_facts(opened.source, trained, model, estimates, reason=reason, run_id=run_id)
        # The default folder is named after what is in it, so what it holds is replaced.
        overwrite = config.overwrite or config.to is None
        files = {CARD: model_card(facts), "signature.json": signature_text(facts.items)}
        save_bundle(folder, model, facts.items, files=files, overwrite=overwrite)
        say(f"folder: {folder.resolve()}")
        if client is not None and run_id is not None:
            registered = _register(config, client, opened.source, trained, folder, run_id)
            _say_registered(registered, config, client, say)
    return 0


@contextmanager
def _mlflow(config: ExportConfig) -> Iterator["MlflowClient | None"]:
    """A client of the MLflow store that the options name, or None where MLflow is not needed."""
    if config.no_register and config.run is None:
        yield None
        return
    uri = config.store_uri()
    if uri is None:
        assert config.output is not None  # else `store_uri` has refused
        uri = create_store(config.output)
    # Imported here: `create_store` sets what MLflow reads on import.
    import mlflow

    with mlflow_at(uri):
        client = mlflow.MlflowClient(tracking_uri=uri)
        _check_reachable(client, uri)
        with _hidden_password(uri):
            yield client


@contextmanager
def _hidden_password(uri: str) -> Iterator[None]:
    """Errors of MLflow's in a sentence, and none with the password: its messages hold whole addresses."""
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except InputError as error:
        raise InputError(without_credentials(str(error), uri)) from error
    except (MlflowException, requests.RequestException) as error:
        reason = without_credentials(" ".join(str(error).split()), uri)[:300]
        raise InputError(
            f"MLflow at {masked(uri)} did not take the export ({reason}); put that right and export again"
        ) from error


def _check_reachable(client: "MlflowClient", uri: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.search_experiments(max_results=1)
    except MlflowException as error:
        reason = without_credentials(" ".join(str(error).split()), uri)[:200]
        raise InputError(f"no MLflow answers at {masked(uri)} ({reason}); check the address") from error


def _open(config: ExportConfig, client: "MlflowClient | None", scratch: Path) -> _Opened:
    if config.run is not None:
        assert client is not None  # `_mlflow` gives one with --run
        source, trial_id = open_run(client, config.run, scratch, log=config.data)
        if trial_id is not None and config.pick is not None:
            raise InputError(
                f"--run {config.run} is the run of one trial, so there is nothing to --pick from"
            )
        if config.output is None:
            home = Path("runs", "exports", source.run.info.run_id)
            return _Opened(source, trial_id, home, Store(home / STORE))
        return _Opened(source, trial_id, config.output / "export", SweepDirectory(config.output).store)
    assert config.output is not None  # `check` has seen to it
    directory = SweepDirectory(config.output, log=config.data)
    return _Opened(directory, None, config.output / "export", directory.store)


def _network(config: ExportConfig, opened: _Opened, say: Callable[[str], None]) -> tuple[Trained, str]:
    """The network to ship, retrained if need be, and why it is the one."""
    source = opened.source
    if config.architecture is not None:
        return _named_network(config.architecture, config.seed, opened, say)
    if opened.trial_id is not None:
        return source.trained(opened.trial_id), f"the network of run {config.run}"
    choice = choose(source.frame, Pick.parse(config.pick or "knee"))
    return source.trained(choice.trial_id), choice.reason


def _named_network(
    text: str, seed: int | None, opened: _Opened, say: Callable[[str], None]
) -> tuple[Trained, str]:
    source = opened.source
    architecture = parse_architecture(text, preset_of(source.facts.config).space)
    reason = "named by its architecture"
    frame = source.frame if seed is None else source.frame[source.frame["seed"] == seed]
    if (frame["architecture_id"] == architecture.architecture_id).any():
        choice = best_trial(frame, architecture.architecture_id, reason=reason)
        return source.trained(choice.trial_id), choice.reason
    seed = source.facts.config.seed if seed is None else seed
    return resize(source, architecture, seed, opened.store, say), reason


def _evaluate(source: SweepSource, trained: Trained, model: SequentialRecommender) -> dict[str, Estimate]:
    """The network's accuracy, with intervals.

    Raises:
        InputError: it is not what was recorded: weights, items or data are not those of the sweep.
    """
    if not np.array_equal(source.items.own_ids, source.data.items.own_ids):
        raise InputError(f"the items of {source.where} are not those of its data; run the sweep again")
    estimates = accuracy_estimates(model.scores, source.data.split, max_length=model.max_length)
    worst = largest_difference(estimates, trained.metrics)
    if worst is not None and worst[1] > _TOLERANCE:
        name, _ = worst
        raise InputError(
            f"{trained.architecture.architecture_id} of {source.where} has {name} "
            f"{estimates[name].value:.4f}, but {trained.metrics[name]:.4f} was recorded: its weights are not "
            "the recorded ones; run the sweep again"
        )
    return estimates


def _card_facts(
    source: SweepSource,
    trained: Trained,
    model: SequentialRecommender,
    estimates: dict[str, Estimate],
    *,
    reason: str,
    run_id: str | None,
) -> CardFacts:
    facts = source.facts
    return CardFacts(
        trained=trained,
        model=model,
        items=source.items,
        data=source.data.split,
        licence=facts.licence,
        estimates=estimates,
        config=facts.config,
        settings=_settings(facts, trained),
        sweep_id=facts.sweep_id,
        run_id=run_id,
        reason=reason,
    )


def _settings(facts: SweepFacts, trained: Trained) -> dict[str, Any]:
    """What the network was made with; the preset's name alone where this version's preset is another one."""
    if not facts.has_same_preset():
        return {"preset": facts.config.preset}
    preset = facts.preset()
    settings: dict[str, Any] = {"preset": facts.config.preset, "space": preset.space.to_dict()}
    search = dataclasses.replace(preset.search, seed=trained.seed, tradeoff=trained.tradeoff or 0.0)
    settings |= {"search": search.to_dict()} if trained.trial_id else {"search": search.warmup_settings()}
    settings["retrain"] = dataclasses.replace(preset.retrain, seed=trained.seed).to_dict()
    return settings | {"device": facts.device, "threads": facts.config.cpus_per_trial}


def _register(
    config: ExportConfig,
    client: "MlflowClient",
    source: SweepSource,
    trained: Trained,
    folder: Path,
    run_id: str,
) -> Registered:
    data, architecture = source.data.split, trained.architecture
    accuracy = f"{selection_protocol(data)}/ndcg_at_10"
    figures = [
        f"{split}/{accuracy} {trained.metrics[f'{split}/{accuracy}']:.4f}" for split in ("valid", "test")
    ]
    return register(
        client,
        folder,
        source.items,
        run_id=run_id,
        name=config.name or "easrec-" + re.sub(r"[^\w.-]+", "-", data.name),
        description=f"{architecture.architecture_id}, seed {trained.seed}, trained on {data.name}: "
        + ", ".join([*figures, f"{trained.metrics['flops'] / 1e6:.2f} MFLOPs"]),
        tags={
            "architecture_id": architecture.architecture_id,
            "seed": str(trained.seed),
            "data": data.name,
            "data_checksum": data.checksum,
            "easrec.sweep_id": source.facts.sweep_id,
        },
        alias=config.alias,
    )


def _say_registered(
    registered: Registered, config: ExportConfig, client: "MlflowClient", say: Callable[[str], None]
) -> None:
    new = "registered as" if registered.is_new else "has the content of"
    say(f"{new} version {registered.version} of {registered.name}")
    if config.alias is not None and registered.alias_from is not None:
        say(f"alias {config.alias}: moved from version {registered.alias_from} to {registered.version}")
    elif config.alias is not None:
        say(f"alias {config.alias}: version {registered.version}")
    uri = client.tracking_uri
    python = shlex.quote(sys.executable)
    hidden = "" if masked(uri) == uri else ", with what *** hides put in,"
    # MLflow starts uvicorn by name, so the environment's programs must be found.
    say(
        f"to serve it{hidden} at http://127.0.0.1:5001:\n"
        f"  PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH "
        f"MLFLOW_TRACKING_URI={shlex.quote(masked(uri))} {python} -m mlflow models serve "
        f"--model-uri {shlex.quote(registered.uri)} --env-manager local --host 127.0.0.1 --port 5001"
    )
