"""The contestants of a comparison: each method with each seed, on equal terms.

Equal are data, split, optimiser, early stopping, seeds, and the epochs that a search may take: a method
without a warm-up searches for as many more. Methods keep what makes them what they are: their own steps, and
fresh weights after the search where their papers have it so.
"""

import dataclasses
import math
from typing import get_args

from easrec.baselines import Baseline, attention_dropout_of, baseline_architecture
from easrec.data.feature_table import FeatureTable
from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.models.architecture import Architecture, Attention, CandidateSpace
from easrec.nas.methods import OtherSearch, method_of, method_settings, method_space
from easrec.nas.resources import network_flops, smallest_flops
from easrec.nas.search import SearchConfig
from easrec.nas.training_cost import EpochSize
from easrec.retrain import RetrainConfig
from easrec.training import training_form
from sweeps.compare_config import LABELS, CompareConfig
from sweeps.compare_trial import Contestant, Searched, Trained, Tried
from sweeps.plan import trials_of_seeds
from sweeps.presets import Preset
from sweeps.trial import TrialConfig

_BASELINES: dict[str, Baseline] = {"sasrec": "sasrec", "fdsa": "fdsa", "sasrecf": "sasrecf"}
_LINREC = "-linrec"


def contestants_of(
    config: CompareConfig,
    preset: Preset,
    data: SplitData,
    features: FeatureTable | None,
    *,
    device: str,
    code_version: str,
) -> list[Contestant]:
    """All methods with all seeds, in the order in which they are started.

    Args:
        config: which methods.
        preset: EASRec's settings, its tradeoff in them.
        data: what is trained on.
        features: what FDSA and SASRecF read.
        device: where networks are trained.
        code_version: of the program.

    Raises:
        InputError: sizes do not fit a method, or a bound of FLOPs leaves it nothing.
    """
    trials = trials_of_seeds(config, preset, data, device=device, code_version=code_version)
    found: list[Contestant] = []
    # Random search begins with what EASRec's trial does, so it comes last.
    for name in sorted(config.chosen, key=lambda name: name == "random"):
        for trial in trials:
            if name == "easrec":
                found.append(Searched(method=name, trial=trial))
            elif name in get_args(OtherSearch):
                found.append(Searched(method=name, trial=searching(name, trial, data, config.recnas_budget)))
            elif name in ("random", "exhaustive"):
                found.append(Tried(method=name, trial=trial, which="random" if name == "random" else "all"))
            else:
                found.append(_trained(name, trial, config, data, features))
    return found


def searching(name: str, trial: TrialConfig, data: SplitData, recnas_budget: float) -> TrialConfig:
    """The trial of another search: over EASRec's sizes with softmax attention and without gates.

    Args:
        name: of the search.
        trial: EASRec's.
        data: what is trained on.
        recnas_budget: see `_recnas_terms`.

    Raises:
        InputError: no network of the space keeps to the bound of FLOPs.
    """
    method, space = method_of(name), method_space(trial.space)
    search = method_settings(method, trial.search)
    if name == "recnas":
        search = _recnas_terms(search, space, recnas_budget)
    _check_bound(name, search, space)
    # The epochs of EASRec's warm-up, where a method has none: to search for, and before it may end.
    more = trial.search.warmup_epochs - search.warmup_epochs
    search = dataclasses.replace(
        equal_steps(search, trial.space, space, data),
        search_epochs=search.search_epochs + more,
        stable_epochs=search.stable_epochs + more,
        ndcg_patience=search.ndcg_patience + more,
    )
    return dataclasses.replace(
        trial,
        space=space,
        search=search,
        retrain=dataclasses.replace(
            trial.retrain, batch_size=equal_batch(trial.retrain, trial.space, space, data)
        ),
        transfer_from="fresh",
        method=method,
    )


def _recnas_terms(search: SearchConfig, space: CandidateSpace, budget: float) -> SearchConfig:
    """What RecNAS is not without: a bound on resources, and a temperature that falls to its floor.

    Args:
        search: the settings so far.
        space: what it chooses from.
        budget: bound of FLOPs where `max_flops` names none, as a share of the largest network of the space.
    """
    bound = search.max_flops
    if bound is None:
        largest = max(network_flops(one, search.max_length) for one in space.architectures())
        bound = math.floor(budget * largest)
    annealed = search.temperature
    # A fall by a fixed rate is made for EASRec's number of steps, and may hardly begin here.
    kind = "linear" if annealed.kind == "constant" else annealed.kind
    return dataclasses.replace(
        search, max_flops=bound, temperature=dataclasses.replace(annealed, kind=kind, rate=None)
    )


def _check_bound(name: str, search: SearchConfig, space: CandidateSpace) -> None:
    """Refuse a bound that leaves a search nothing, before anything is trained."""
    smallest = smallest_flops(space, search.max_length)
    if search.max_flops is not None and search.max_flops < smallest:
        raise InputError(
            f"a bound of {search.max_flops} FLOPs leaves {LABELS[name]} no network: the smallest of its "
            f"space, of softmax attention, needs {smallest}; raise --max-flops"
            + (" or --recnas-budget" if name == "recnas" else "")
            + ", or leave it out of --methods"
        )


def equal_batch(
    settings: SearchConfig | RetrainConfig,
    space: CandidateSpace,
    other: Architecture | CandidateSpace,
    data: SplitData,
) -> int:
    """Sequences in a batch of another form of training, so that a step has about as many targets.

    Bidirectional attention trains on prefixes, of one target each; causal attention on windows, of many.
    """
    if training_form(space) == training_form(other):
        return settings.batch_size
    sizes = [EpochSize.of(data, settings.max_length, one) for one in (space, other)]
    ours, theirs = (size.targets / size.sequences for size in sizes)
    return max(1, round(settings.batch_size * ours / theirs))


def equal_steps(
    search: SearchConfig, space: CandidateSpace, other: CandidateSpace, data: SplitData
) -> SearchConfig:
    """A search's settings for another form of training: as many targets in the steps of the weights, see
    `equal_batch`, and in those of the controllers, whose sequences have one target in either form.
    """
    batch_size = equal_batch(search, space, other, data)
    if batch_size == search.batch_size:
        return search
    return dataclasses.replace(
        search, batch_size=batch_size, controller_batch_size=search.validation_batch_size
    )


def _trained(
    name: str, trial: TrialConfig, config: CompareConfig, data: SplitData, features: FeatureTable | None
) -> Trained:
    baseline = _BASELINES[name.removesuffix(_LINREC)]
    # Causal like the softmax that it replaces, whatever EASRec's own attention is.
    attention: Attention = "linear" if name.endswith(_LINREC) else "softmax"
    try:
        architecture = baseline_architecture(trial.space, attention=attention, size=config.size)
    except InputError as error:
        raise InputError(
            f"{LABELS[name]} at --size {config.size}: {error}; give another --hidden-size or --size, or "
            "leave it out of --methods"
        ) from error
    batch_size = equal_batch(trial.retrain, trial.space, architecture, data)
    reads = None if baseline == "sasrec" else features
    return Trained(
        method=name,
        trial=dataclasses.replace(trial, retrain=dataclasses.replace(trial.retrain, batch_size=batch_size)),
        baseline=baseline,
        architecture=architecture,
        attention_dropout=attention_dropout_of(config.size, attention),
        features=None if reads is None else reads.checksum,
        num_values=0 if reads is None else reads.num_values,
    )
