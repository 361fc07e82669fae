"""Contestants on a tiny log, without Ray: what each ends with, and that nothing is done twice."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from easrec.data.feature_table import FeatureTable
from easrec.data.sequences import SplitData, leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.evaluation.profile import ProfileConfig
from easrec.models.features import FDSA
from easrec.models.saving import load_network
from easrec.nas.training_cost import retraining_flops, search_flops, warmup_flops
from sweeps.compare import Comparison
from sweeps.compare_config import LABELS, CompareConfig
from sweeps.compare_methods import contestants_of
from sweeps.compare_trial import (
    Contestant,
    Outcome,
    Tried,
    coverage_place,
    coverage_stage,
    measured_together,
    timing_key,
)
from sweeps.coverage import COVERAGE, POPULAR
from sweeps.records import trial_architecture
from sweeps.store import Store, StoredFailureError
from sweeps.trial import NETWORK, warm_stage
from sweeps.user_ranks import RANKS, rank_metrics, rank_table
from tests.sweeps.tiny_features import tiny_features

ACCURACY = "valid/unseen/ndcg_at_10"


@dataclasses.dataclass(frozen=True)
class Finished:
    data: SplitData
    features: FeatureTable
    store: Store
    contestants: dict[str, Contestant]

    def outcome(self, method: str) -> Outcome:
        found = self.contestants[method].outcome(self.data, self.store)
        assert found is not None
        return found


def make_contestants(data: SplitData, features: FeatureTable, **options: Any) -> dict[str, Contestant]:
    config = CompareConfig(
        preset="smoke",
        hidden_size=16,
        inner_size=16,
        num_heads=2,
        max_length=10,
        batch_size=16,
        hidden_intensities=(0.0, 0.5),
        inner_intensities=(0.0, 0.5),
        warmup_epochs=1,
        search_epochs=1,
        retrain_epochs=1,
        exhaustive=True,
        **options,
    )
    config.check()
    preset = Comparison.preset_for(config)
    found = contestants_of(config, preset, data, features, device="cpu", code_version="x")
    return {one.method: one for one in found}


def run(one: Contestant, data: SplitData, features: FeatureTable, store: Store) -> None:
    for trial in one.warm_ups:
        warm_stage(trial, data, store)
    one.run(data, features, store, "wait")
    coverage_stage(one, data, store)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    data = leave_one_out(synthetic_interactions(40, 30, 8, seed=0))
    features = tiny_features(30)
    store = Store(tmp_path_factory.mktemp("contest"))
    contestants = make_contestants(data, features)
    for one in contestants.values():
        assert one.outcome(data, store) is None or one.method in ("random", "exhaustive")
        run(one, data, features, store)
    return Finished(data, features, store, contestants)


@pytest.mark.parametrize("method", LABELS)
def test_every_method_ends_with_a_network_whose_figures_are_those_of_its_file(
    method: str, finished: Finished
) -> None:
    outcome, one = finished.outcome(method), finished.contestants[method]
    entry = finished.store.entry(*outcome.place)
    network = load_network(entry.path(NETWORK))
    assert network.architecture == outcome.architecture
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert outcome.metrics["params"] == parameters
    assert outcome.metrics["flops"] > 0
    again = rank_metrics(rank_table(network.scores, finished.data, max_length=10))
    for name, value in again.items():
        assert outcome.metrics[name] == value
    assert entry.path(RANKS).is_file()
    recommended = finished.store.entry(*coverage_place(outcome.place)).value()
    assert 0 < recommended[COVERAGE] <= 1 and 0 <= recommended[POPULAR] <= 1
    assert isinstance(network, FDSA) == method.startswith("fdsa")
    assert one.params()["seed"] == 0 and one.params()["retrain.max_epochs"] == 1
    # What was searched says how.
    assert ("search.search_epochs" in one.params()) == (finished.contestants[method].warm_ups != ())
    assert outcome.architecture.attention == (
        "linear" if method in ("easrec", "random", "exhaustive") or "linrec" in method else "softmax"
    )


def test_exhaustive_search_is_no_worse_than_any_other_over_the_space(finished: Finished) -> None:
    best = finished.outcome("exhaustive")
    assert best.notes == {"architectures_tried": 2 * 2}
    for method in ("easrec", "random"):
        assert best.metrics[ACCURACY] >= finished.outcome(method).metrics[ACCURACY]


def test_random_search_spends_no_more_than_easrecs_search(finished: Finished) -> None:
    one, data, store = finished.contestants["random"], finished.data, finished.store
    assert isinstance(one, Tried)
    trial = one.trial
    derived = trial_architecture(trial, store)
    assert derived is not None
    budget = search_flops(trial.space, data, trial.search, 1) + retraining_flops(derived, data, 10, 1)
    order = np.random.default_rng(0).permutation(4)
    space = [trial.space.architecture(k, layers) for k in (0, 1) for layers in (1, 2)]
    spent = np.cumsum([retraining_flops(space[at], data, 10, 1) for at in order])
    affordable = max(1, int((spent <= budget).sum()))
    assert finished.outcome("random").notes == {"architectures_tried": affordable}
    tried = [store.entry("retrain", trial.retrain_key(space[at])) for at in order[:affordable]]
    best = max(entry.value()["metrics"][ACCURACY] for entry in tried)
    assert finished.outcome("random").metrics[ACCURACY] == best


def test_what_is_finished_is_not_trained_again(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    for name in ("alternate", "retrain", "warm_up"):
        monkeypatch.setattr(f"sweeps.trial.{name}", refuse)
    monkeypatch.setattr("sweeps.compare_trial.train_baseline", refuse)
    for one in make_contestants(finished.data, finished.features).values():
        before = finished.outcome(one.method)
        run(one, finished.data, finished.features, finished.store)
        assert finished.outcome(one.method) == before
    # The stand-ins are in the way of those who do train.
    other = make_contestants(finished.data, tiny_features(30, seed=3))["fdsa"]
    with pytest.raises(AssertionError, match="trained again"):
        run(other, finished.data, finished.features, finished.store)


def test_networks_that_cost_the_same_are_measured_once(finished: Finished) -> None:
    settings = ProfileConfig()
    found = {method: (one, finished.outcome(method)) for method, one in finished.contestants.items()}
    together = measured_together(found.values())
    keys = {method: timing_key(*pair, settings, 0, together) for method, pair in found.items()}
    best = finished.outcome("exhaustive").architecture
    for method in ("easrec", "random"):
        same = finished.outcome(method).architecture == best
        assert (keys[method] == keys["exhaustive"]) == same
    baselines = [name for name in keys if name.startswith(("sasrec", "fdsa"))]
    assert len({keys[name] for name in baselines}) == len(baselines) == 6
    assert timing_key(*found["sasrec"], settings, 1, together) != keys["sasrec"]
    # One more method that ended with the same network changes nothing; another network measures all anew.
    assert measured_together([*found.values(), found["sasrec"]]) == together
    fewer = measured_together(pair for method, pair in found.items() if method != "fdsa")
    assert fewer != together
    assert timing_key(*found["sasrec"], settings, 0, fewer) != keys["sasrec"]


def test_a_failure_that_would_repeat_itself_is_named_and_can_be_forgotten(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("the loss is a fish")

    store = Store(tmp_path)
    one = finished.contestants["sasrec"]
    with monkeypatch.context() as patched, pytest.raises(StoredFailureError, match="the loss is a fish"):
        patched.setattr("sweeps.compare_trial.train_baseline", fail)
        run(one, finished.data, finished.features, store)
    assert one.outcome(finished.data, store) is None
    (place,) = one.places(finished.data, store)
    result = store.entry(*place).result()
    assert result is not None and result.error == "the loss is a fish"
    store.forget_failure(*place)
    run(one, finished.data, finished.features, store)
    assert one.outcome(finished.data, store) is not None


def test_where_easrec_takes_searched_weights_random_search_begins_afresh_and_has_the_price_of_the_warm_up(
    finished: Finished, tmp_path: Path
) -> None:
    data, store = finished.data, Store(tmp_path)
    found = make_contestants(data, finished.features, transfer_from="searched")
    for method in ("easrec", "random"):
        run(found[method], data, finished.features, store)
    one = found["random"]
    outcome = one.outcome(data, store)
    assert outcome is not None and outcome.metrics["warmup_s"] == 0
    assert one.params()["transfer_from"] == "fresh"
    trial = dataclasses.replace(one.trial, transfer_from="fresh")
    assert outcome.place == ("retrain", trial.retrain_key(outcome.architecture))
    derived = trial_architecture(one.trial, store)
    assert derived is not None
    budget = search_flops(trial.space, data, trial.search, 1) + retraining_flops(derived, data, 10, 1)
    budget += warmup_flops(trial.space, data, 10, 1)
    order = np.random.default_rng(0).permutation(4)
    space = [trial.space.architecture(k, layers) for k in (0, 1) for layers in (1, 2)]
    spent = np.cumsum([retraining_flops(space[at], data, 10, 1) for at in order])
    assert outcome.notes == {"architectures_tried": max(1, int((spent <= budget).sum()))}
