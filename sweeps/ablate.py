"""Ablations: EASRec with one setting changed at a time, as trials of a comparison."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from rich.console import Console

from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.models.architecture import Attention, Weights
from easrec.nas.resources import DepthCost
from easrec.nas.search_config import WarmupPaths
from sweeps.ablate_config import AblateConfig
from sweeps.cluster import Cluster
from sweeps.compare import Comparison
from sweeps.compare_methods import equal_batch, equal_steps
from sweeps.compare_paper import gates_beside_paper
from sweeps.compare_report import Section
from sweeps.compare_tables import Contest
from sweeps.compare_text import Grid
from sweeps.compare_trial import Contestant, Searched
from sweeps.plan import trials_of_seeds, warmup_paths
from sweeps.presets import Preset
from sweeps.store import code_version
from sweeps.summary import counted
from sweeps.sweep import run_sweep

_DEFAULT = "default"
_WARM_UP = 5
"""Epochs of a warm-up that is set beside a preset without one, if the search has more."""

_TITLES = {
    "gates": "layers of the gates",
    "attention": "attention",
    "key-norm": "norm of the keys",
    "depth-cost": "depth in the resource term",
    "weights": "weights of the candidates",
    "search-weights": "weights during the search",
    "warmup": "warm-up",
}

_OF_PATHS: dict[WarmupPaths, str] = {
    "mixture": "of all candidates, mixed",
    "sandwich": "of three networks a step",
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A value of a setting."""

    group: str
    value: str | int
    """What tells it from the others of its group."""
    label: str
    preset: Preset
    """All settings with this one changed."""

    @property
    def method(self) -> str:
        """Its name among contestants, unless it is the default."""
        return f"{self.group}-{self.value}"


def variants(preset: Preset, groups: tuple[str, ...], data: SplitData) -> list[Variant]:
    """The variants of some groups; those that change nothing have the preset itself.

    Args:
        preset: what is changed.
        groups: some of `sweeps.ablate_config.Group`.
        data: what is trained on; batches of other attention are made of as many targets.

    Raises:
        InputError: the preset's attention has not what a group changes.
    """
    space, search = preset.space, preset.search
    if space.attention == "softmax" and (
        no := [name for name in groups if name in ("attention", "key-norm")]
    ):
        raise InputError(
            f"--groups {no[0]} compares forms of linear attention; leave out that or --attention softmax"
        )
    found = []
    for group in groups:
        if group == "gates":
            found += [
                Variant(
                    group,
                    layers,
                    f"gates of {counted(layers, 'layer')}",
                    _with_space(preset, gate_layers=layers),
                )
                for layers in (2, 1, 0)
            ]
        elif group == "attention":
            forms: dict[Attention, str] = {"linear": "causal", "linear_bidirectional": "bidirectional"}
            for form, label in forms.items():
                other = dataclasses.replace(space, attention=form)
                changed = dataclasses.replace(
                    preset,
                    space=other,
                    search=equal_steps(search, space, other, data),
                    retrain=dataclasses.replace(
                        preset.retrain, batch_size=equal_batch(preset.retrain, space, other, data)
                    ),
                )
                found.append(Variant(group, form, label, changed))
        elif group == "key-norm":
            found += [
                Variant(group, value, label, _with_space(preset, key_norm=value))
                for value, label in (("column", "norm of a feature"), ("row", "norm of a position"))
            ]
        elif group == "depth-cost":
            for cost in get_args(DepthCost):
                changed = _with_search(preset, depth_cost=cost)
                found.append(Variant(group, cost, cost.replace("_", " "), changed))
        elif group == "weights":
            kinds: tuple[Weights, ...] = get_args(Weights)
            for value in kinds:
                changed = preset if value == space.weights else _with_weights(preset, value)
                label = f"{value} weights"
                # Their warm-up differs too, and is named with them.
                if changed.search.warmup_epochs and changed.search.warmup_paths != search.warmup_paths:
                    label += f", warm-up {_OF_PATHS[changed.search.warmup_paths]}"
                found.append(Variant(group, value, label, changed))
        elif group == "search-weights":
            # Weights that stay as a warm-up left them need one.
            warm = _warmed(preset, group)
            found += [
                Variant(group, "train", "weights that learn", _with_search(preset, search_weights="train")),
                Variant(group, "freeze", "weights at rest", _with_search(warm, search_weights="freeze")),
            ]
        else:
            warm = _warmed(preset, group)
            found += [
                Variant(
                    group,
                    kind,
                    f"warm-up of {counted(warm.search.warmup_epochs, 'epoch')}, {label}",
                    _with_search(warm, warmup_paths=kind),
                )
                for kind, label in _OF_PATHS.items()
            ]
            if search.search_weights == "train":  # weights at rest are always those of a warm-up
                label = "no warm-up"
                if preset.transfer_from == "warm":  # there is no supernet that has learnt before the search
                    label += ", retrained from fresh weights"
                found.append(Variant(group, 0, label, _with_warm_up(preset, 0)))
    return found


def _with_space(preset: Preset, **changes: object) -> Preset:
    return dataclasses.replace(preset, space=dataclasses.replace(preset.space, **changes))  # type: ignore[arg-type]


def _with_weights(preset: Preset, weights: Weights) -> Preset:
    """The other kind of weights, with the warm-up that a sweep gives them."""
    return _with_search(_with_space(preset, weights=weights), warmup_paths=warmup_paths(weights))


def _with_search(preset: Preset, **changes: object) -> Preset:
    return dataclasses.replace(preset, search=dataclasses.replace(preset.search, **changes))  # type: ignore[arg-type]


def _warmed(preset: Preset, group: str) -> Preset:
    """The preset, or where it has no warm-up, one with as much of its search taken for that."""
    search = preset.search
    if search.warmup_epochs:
        return preset
    if search.search_epochs < 2:
        raise InputError(
            f"--groups {group} sets a warm-up beside a search without one, the same epochs in sum; "
            f"--search-epochs {search.search_epochs} leaves none for it: give 2 or more"
        )
    return _with_warm_up(preset, min(_WARM_UP, search.search_epochs - 1))


def _with_warm_up(preset: Preset, epochs: int) -> Preset:
    """Another warm-up, and a search that is as much shorter or longer: in sum as many epochs."""
    search = preset.search
    more = search.warmup_epochs - epochs
    return dataclasses.replace(
        preset,
        search=dataclasses.replace(
            search,
            warmup_epochs=epochs,
            search_epochs=search.search_epochs + more,
            stable_epochs=max(1, search.stable_epochs + more),
            ndcg_patience=max(1, search.ndcg_patience + more),
        ),
    )


def run_ablate(config: AblateConfig, *, console: Console | None = None) -> int:
    """Run or resume ablations and report them; status and errors as of `sweeps.sweep.run_sweep`."""
    return run_sweep(config, console=console, kind=Ablation)


class Ablation(Comparison):
    """One run of the program over an ablation's directory."""

    NAME = "ablate"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # What cannot be varied is said before Ray is started.
        self.sections()

    @property
    def variants(self) -> list[Variant]:
        """All of them; the one that changes nothing is there once for each group."""
        return variants(self.preset, cast(AblateConfig, self.config).chosen, self.data)

    def make_contestants(self, cluster: Cluster) -> list[Contestant]:
        """See `Comparison.make_contestants`; the default is run once, whatever the groups."""
        presets = {_DEFAULT: self.preset}
        presets |= {one.method: one.preset for one in self.variants if one.preset != self.preset}
        return [
            Searched(method=method, trial=trial)
            for method, preset in presets.items()
            for trial in trials_of_seeds(
                self.config, preset, self.data, device=cluster.device, code_version=code_version()
            )
        ]

    @property
    def labels(self) -> Mapping[str, str]:
        """See `Comparison.labels`."""
        return {_DEFAULT: "the preset", **{one.method: one.label for one in self.variants}}

    def sections(self) -> list[Section]:
        """See `Comparison.sections`: one for each group."""
        groups: dict[str, dict[str, str]] = {}
        for one in self.variants:
            unchanged = one.preset == self.preset
            name = _DEFAULT if unchanged else one.method
            groups.setdefault(one.group, {})[name] = f"{one.label}{' (the preset)' if unchanged else ''}"
        return [Section(_TITLES[group], labels, _DEFAULT) for group, labels in groups.items()]

    def extra_grids(self, contest: Contest) -> list[Grid]:
        """See `Comparison.extra_grids`: the paper's Table V."""
        if not cast(AblateConfig, self.config).beside_paper:
            return []
        methods = {
            _DEFAULT if one.preset == self.preset else one.method: int(one.value)
            for one in self.variants
            if one.group == "gates"
        }
        found = gates_beside_paper(contest, methods, differs=self.differs())
        return [] if found is None else [found]
