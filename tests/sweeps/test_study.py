"""The study of a sweep: batches, processes that die, budgets, and what one study begins with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from easrec.errors import InputError
from sweeps.samplers import SamplerName, make_sampler
from sweeps.spaces import Choices, Interval, Parameter
from sweeps.study import JOURNAL, Outcome, SweepStudy, check_comparable, load_study, open_storage
from tests.cluster.postgres_server import binaries, postgres_server

PARAMETERS: dict[str, Parameter] = {
    "tradeoff": Interval(0.01, 10.0, log=True),
    "gate_layers": Choices((0, 1, 2)),
    "pairing": Choices(("zip", "product")),
}
FACTS = {"data checksum": "abc", "objectives": ["accuracy", "flops"]}


def open_study(
    directory: Path,
    *,
    sampler: SamplerName = "tpe",
    batch: int = 3,
    name: str = "easrec-1",
    parameters: Mapping[str, Parameter] = PARAMETERS,
    address: str | None = None,
) -> SweepStudy:
    """As a process that begins or resumes opens it."""
    return SweepStudy(
        open_storage(address, directory),
        name,
        objectives=("accuracy", "flops"),
        parameters=parameters,
        settings={"batch": batch, "startup": 2, "population": 4},
        facts=FACTS,
        sampler=lambda settings: make_sampler(
            sampler,
            seed=0,
            parameters=list(parameters),
            startup=settings["startup"],
            population=settings["population"],
        ),
    )


def outcome(trial: FrozenTrial) -> Outcome:
    params = trial.params
    accuracy = 0.1 * (1 + params["gate_layers"]) / (1 + params["tradeoff"])
    return Outcome((accuracy, 1e6 / params["tradeoff"]), {}, {"trials": [f"id{trial.number}"]})


def finish(study: SweepStudy, num_trials: int) -> None:
    while batch := study.ask(num_trials):
        for trial in batch:
            study.tell(trial, outcome(trial))


def told(study: SweepStudy) -> list[tuple[int, TrialState, dict[str, Any], list[float] | None]]:
    return [(trial.number, trial.state, trial.params, trial.values) for trial in study.own_trials()]


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "random", "qmc"])
def test_a_study_whose_process_dies_anywhere_is_the_undisturbed_one(
    tmp_path: Path, sampler: SamplerName
) -> None:
    (tmp_path / "whole").mkdir()
    whole = open_study(tmp_path / "whole", sampler=sampler)
    finish(whole, 8)
    expected = told(whole)
    assert [number for number, *_ in expected] == list(range(8))
    assert all(state == TrialState.COMPLETE for _, state, *_ in expected)
    for died in range(6):
        directory = tmp_path / f"died {died}"
        directory.mkdir()
        # One batch is told, then the process dies in the next one: while it asks (after none, one whole
        # trial, or in the middle of the second), once all are asked for, or after telling one or two of them.
        study = open_study(directory, sampler=sampler)
        for trial in study.ask(8):
            study.tell(trial, outcome(trial))
        if died in (1, 2):
            study._suggest(study.study.ask())
        if died == 2:
            study.study.ask().suggest_float("tradeoff", 0.01, 10.0, log=True)
        if died >= 3:
            asked = study.ask(8)
            for trial in asked[: died - 3]:
                study.tell(trial, outcome(trial))
        resumed = open_study(directory, sampler=sampler)
        finish(resumed, 8)
        assert told(resumed) == expected, died
        # What the file holds is what another process reads.
        assert not load_study("easrec-1", open_storage(None, directory)).get_trials(
            states=(TrialState.RUNNING,)
        )


def test_a_process_that_dies_between_a_constraint_and_its_trials_end_tells_it_once(tmp_path: Path) -> None:
    study = open_study(tmp_path, batch=1)
    (trial,) = study.ask(2)
    Trial(study.study, trial._trial_id).set_constraint("flops", 0.5)
    resumed = open_study(tmp_path, batch=1)
    (again,) = resumed.ask(2)
    assert (again.number, again.params) == (trial.number, trial.params)
    resumed.tell(again, Outcome(None, {"flops": 0.5}, {"refused": "too large"}, pruned=True))
    (done,) = resumed.own_trials()
    assert (done.state, done.constraints) == (TrialState.PRUNED, {"flops": 0.5})
    assert done.user_attrs["refused"] == "too large"


def test_what_is_not_finite_fails_with_its_name(tmp_path: Path) -> None:
    study = open_study(tmp_path, batch=2)
    first, second = study.ask(2)
    study.tell(first, Outcome((float("nan"), 1.0), {}, {}))
    study.tell(second, Outcome((0.1, float("inf")), {}, {}))
    states = [trial.state for trial in study.own_trials()]
    assert states == [TrialState.FAIL, TrialState.FAIL]
    errors = [trial.user_attrs["error"] for trial in study.own_trials()]
    assert errors == ["accuracy is nan", "flops is inf"]
    assert study.ask(2) == []


def test_a_resumed_study_keeps_the_batch_that_it_began_with(tmp_path: Path) -> None:
    open_study(tmp_path, batch=3)
    assert open_study(tmp_path, batch=2).batch == 3


def test_batches_end_where_they_would_have_and_more_trials_may_be_asked_later(tmp_path: Path) -> None:
    study = open_study(tmp_path, batch=3)
    assert [trial.number for trial in study.ask(4)] == [0, 1, 2]
    for trial in study.ask(4):
        study.tell(trial, outcome(trial))
    assert [trial.number for trial in study.ask(4)] == [3]
    for trial in study.ask(4):
        study.tell(trial, outcome(trial))
    assert study.ask(4) == []
    assert [trial.number for trial in study.ask(9)] == [4, 5]


def test_a_study_begins_with_the_finished_trials_of_another_and_keeps_them_apart(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    earlier = open_study(old, name="easrec-old")
    for trial in earlier.ask(3):
        end = outcome(trial) if trial.number != 1 else Outcome(None, {}, {"error": "it broke"})
        earlier.tell(trial, end)
    study = open_study(new, name="easrec-new")
    source = load_study("easrec-old", open_storage(None, old, ours=False))
    check_comparable(source, FACTS)
    assert study.start_from(source, lambda _: {"flops": -0.5}) == (2, 0)
    assert study.start_from(source, lambda _: {"flops": -0.5}) == (2, 0)  # nothing twice
    assert len(study.study.trials) == 2 and study.own_trials() == []
    assert [trial.constraints for trial in study.study.trials] == [{"flops": -0.5}] * 2
    # Its own three are counted from one.
    assert [trial.number for trial in study.ask(3)] == [2, 3, 4]
    # The earlier study is as it was.
    assert len(load_study("easrec-old", open_storage(None, old)).trials) == 3


def test_points_that_the_space_does_not_have_are_left_out(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    earlier = open_study(old, name="easrec-old", sampler="qmc")
    finish(earlier, 6)
    narrow: dict[str, Parameter] = {**PARAMETERS, "tradeoff": Interval(0.01, 0.3, log=True)}
    study = open_study(new, name="easrec-new", parameters=narrow)
    fitting = sum(trial.params["tradeoff"] <= 0.3 for trial in earlier.own_trials())
    assert 0 < fitting < 6
    source = load_study("easrec-old", open_storage(None, old))
    assert study.start_from(source, lambda _: {}) == (fitting, 6 - fitting)
    finish(study, 4)


def test_nsgaii_takes_trials_of_another_study_for_its_first_generation(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    finish(open_study(old, name="easrec-old"), 6)
    study = open_study(new, name="easrec-new", sampler="nsgaii")
    study.start_from(load_study("easrec-old", open_storage(None, old)), lambda _: {})
    (first, *_) = study.ask(3)
    assert first.system_attrs["NSGAIISampler:generation"] == 1
    # A child: each of its values is a parent's, unless it mutated.
    parents = [trial.params for trial in study.study.trials[:6]]
    inherited = [any(first.params[name] == one[name] for one in parents) for name in PARAMETERS]
    assert sum(inherited) >= 2


def test_only_studies_that_compare_are_begun_with(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    with pytest.raises(InputError, match="the data checksum was 'abc' and is now 'xyz'"):
        check_comparable(study.study, {**FACTS, "data checksum": "xyz"})
    with pytest.raises(InputError, match="was made by no sweep of easrec"):
        check_comparable(optuna.create_study(), FACTS)
    with pytest.raises(InputError, match="--resume goes on with it"):
        study.start_from(study.study, lambda _: {})
    with pytest.raises(InputError, match="there is no study 'easrec-2' there; known: easrec-1"):
        load_study("easrec-2", open_storage(None, tmp_path))


def test_a_journal_that_a_full_disk_cut_short_is_read_up_to_there(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    for trial in study.ask(3):
        study.tell(trial, outcome(trial))
    before = told(study)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 5, "worker_id": "x", "tri')
    resumed = open_study(tmp_path)
    assert told(resumed) == before
    finish(resumed, 5)
    assert len(told(open_study(tmp_path))) == 5


def test_a_study_in_a_database_is_the_one_in_a_journal(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'study.db'}"
    study = SweepStudy(
        open_storage(address, tmp_path),
        "easrec-1",
        objectives=("accuracy", "flops"),
        parameters=PARAMETERS,
        settings={"batch": 3, "startup": 2, "population": 4},
        facts=FACTS,
        sampler=lambda settings: make_sampler(
            "tpe", seed=0, parameters=list(PARAMETERS), startup=2, population=4
        ),
    )
    finish(study, 6)
    journal = open_study(tmp_path)
    finish(journal, 6)
    assert [state for _, state, *_ in told(study)] == [TrialState.COMPLETE] * 6
    assert told(study) == told(journal)


def test_a_database_that_cannot_be_used_is_refused_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no study can be kept at --study sqlite:///.*nowhere"):
        open_storage(f"sqlite:///{tmp_path}/nowhere/study.db", tmp_path)
    with pytest.raises(InputError) as refused:
        open_storage("postgresql+psycopg://ann:secret@127.0.0.1:1/x?connect_timeout=1", tmp_path)
    assert "secret" not in str(refused.value)


@pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed (Debian's package: postgresql)")
def test_a_study_in_postgresql_goes_on_where_a_process_left_it(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    journal = open_study(tmp_path / "journal")
    finish(journal, 6)
    with postgres_server() as address:
        study = open_study(tmp_path, address=address)
        first, *asked = study.ask(6)
        study.tell(first, outcome(first))
        # The process ends here; another one opens the database, and gets what was asked and not told.
        resumed = open_study(tmp_path, address=address)
        again = resumed.ask(6)
        assert [trial.number for trial in again] == [trial.number for trial in asked]
        assert [trial.params for trial in again] == [trial.params for trial in asked]
        for trial in again:
            resumed.tell(trial, outcome(trial))
        finish(resumed, 6)
        assert told(resumed) == told(journal)
        # A second exploration there begins with nothing, until it is told to begin with the first.
        other = open_study(tmp_path, address=address, name="easrec-2")
        assert other.trials(TrialState.COMPLETE) == []
        earlier = load_study("easrec-1", open_storage(address, tmp_path))
        assert other.start_from(earlier, lambda attributes: {}) == (6, 0)
        assert len(other.trials(TrialState.COMPLETE)) == 6 and other.own_trials() == []
        assert told(resumed) == told(journal), "the earlier study stays as it is"
        for opened in (study.study, resumed.study, other.study, earlier):
            opened._storage._backend.engine.dispose()  # type: ignore[attr-defined]
