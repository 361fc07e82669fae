"""Draws that depend on nothing but the study before them."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sweeps.samplers import SamplerName, distribution, make_sampler, num_startup, population_size
from sweeps.spaces import Choices, Interval, Parameter

PARAMETERS: dict[str, Parameter] = {
    "tradeoff": Interval(0.01, 10.0, log=True),
    "floor": Interval(0.0, 1.0),
    "pairing": Choices(("zip", "product")),
    "gates": Choices((0, 1, 2)),
}


def study_of(name: SamplerName, *, seed: int = 0) -> optuna.Study:
    sampler = make_sampler(name, seed=seed, parameters=list(PARAMETERS), startup=3, population=4)
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)


def values_of(params: Mapping[str, Any]) -> list[float]:
    return [params["floor"] - params["gates"], params["tradeoff"]]


def run(study: optuna.Study, count: int, batch: int, order: Sequence[int]) -> None:
    """Ask batches and tell each in an order of its own."""
    distributions = {name: distribution(parameter) for name, parameter in PARAMETERS.items()}
    for _ in range(count // batch):
        asked = [study.ask(distributions) for _ in range(batch)]
        for at in order:
            study.tell(asked[at], values_of(asked[at].params))


def params(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("name", ["random", "qmc"])
def test_what_looks_at_no_trial_is_the_same_whatever_runs_at_once_and_ends_first(name: SamplerName) -> None:
    one, four, backwards = study_of(name), study_of(name), study_of(name)
    run(one, 12, 1, [0])
    run(four, 12, 4, range(4))
    run(backwards, 12, 4, range(3, -1, -1))
    assert params(one) == params(four) == params(backwards)
    other = study_of(name, seed=1)
    run(other, 12, 1, [0])
    assert params(other) != params(one)


def test_random_draws_fill_their_ranges() -> None:
    study = study_of("random")
    run(study, 200, 1, [0])
    tradeoffs = [trial.params["tradeoff"] for trial in study.trials]
    assert all(0.01 <= value <= 10 for value in tradeoffs)
    # By ratios: a third of them in each power of ten.
    below = [sum(value < bound for value in tradeoffs) / 200 for bound in (0.1, 1.0)]
    assert below == pytest.approx([1 / 3, 2 / 3], abs=0.1)
    assert {trial.params["pairing"] for trial in study.trials} == {"zip", "product"}
    assert {trial.params["gates"] for trial in study.trials} == {0, 1, 2}


def test_qmc_spreads_evenly() -> None:
    """Of 16 points of a Sobol sequence, each sixteenth of every axis holds one."""
    study = study_of("qmc")
    run(study, 16, 1, [0])
    assert sorted(int(trial.params["floor"] * 16) for trial in study.trials) == list(range(16))
    assert sum(trial.params["pairing"] == "zip" for trial in study.trials) == 8


@pytest.mark.parametrize("name", ["tpe", "nsgaii", "gp"])
def test_what_learns_repeats_at_a_fixed_batch_in_a_new_process(name: SamplerName) -> None:
    """A process that takes a study over has samplers of its own; they draw what the old ones would have."""
    whole = study_of(name)
    run(whole, 8, 2, [0, 1])
    storage = optuna.storages.InMemoryStorage()
    first = study_of(name)
    begun = optuna.create_study(
        study_name="s", storage=storage, directions=["maximize", "minimize"], sampler=first.sampler
    )
    run(begun, 4, 2, [0, 1])
    resumed = optuna.load_study(study_name="s", storage=storage, sampler=study_of(name).sampler)
    run(resumed, 4, 2, [0, 1])
    assert params(resumed) == params(whole)
    # A child may equal a parent; that costs a sweep nothing, since it is trained once.
    assert len({str(point) for point in params(whole)}) >= (5 if name == "nsgaii" else 8)


def test_tpe_learns_from_what_was_refused() -> None:
    """Trials without values, only with how far they are beyond a budget, lead it back within."""
    study = study_of("tpe")
    distributions = {name: distribution(parameter) for name, parameter in PARAMETERS.items()}
    for _ in range(40):
        trial = study.ask(distributions)
        beyond = trial.params["floor"] - 0.3
        trial.set_constraint("floor", beyond)
        if beyond > 0:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, values_of(trial.params))
    within = [trial.state == TrialState.COMPLETE for trial in study.trials]
    # A random search is within 30 % of the time.
    assert sum(within[20:]) >= 12, within


def test_start_up_and_population_fit_the_number_of_trials() -> None:
    assert [num_startup(trials) for trials in (1, 6, 12, 30, 100)] == [2, 2, 4, 10, 10]
    assert [population_size(trials) for trials in (1, 30, 60, 1000)] == [4, 6, 12, 20]
