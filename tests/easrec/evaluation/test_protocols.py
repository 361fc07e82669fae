import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import Tensor

from easrec.data.sequences import Split, SplitData, Targets, leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from easrec.evaluation.protocols import (
    PROTOCOLS,
    evaluate,
    protocol_ranks,
    sample_negatives,
    selection_protocol,
    usable_protocols,
)

MAX_LENGTH = 6


@pytest.fixture(scope="module")
def data() -> SplitData:
    """Histories of 5 to 30 items, so that many are longer than `MAX_LENGTH`."""
    return leave_one_out(synthetic_interactions(50, 60, 12, seed=2))


def hashed_scorer(item_ids: Tensor, lengths: Tensor) -> Tensor:
    """Scores with many ties that depend on all that a scorer is given."""
    weights = torch.arange(1, item_ids.shape[1] + 1)
    salt = (item_ids * weights).sum(dim=1) + 1000 * lengths
    return ((salt[:, None] + 1) * torch.arange(7, 68) ** 2 % 31).float()


def slow_ranks(data: SplitData, split: Split, protocol: str) -> list[int]:
    """By the words of the method, one question and one rival after the other."""
    sampled = {"uni100": "uniform", "pop100": "popularity"}
    negatives = (
        sample_negatives(data, split, distribution=sampled[protocol])  # type: ignore[arg-type]
        if protocol in sampled
        else None
    )
    found = []
    questions = data.targets(split)
    for number, (row, position) in enumerate(zip(questions.rows, questions.positions, strict=True)):
        history = data.items[data.starts[row] : position].tolist()
        target = int(data.items[position])
        shown = history[-MAX_LENGTH:]
        padded = shown + [0] * (MAX_LENGTH - len(shown))
        scores = hashed_scorer(torch.tensor([padded]), torch.tensor([len(shown)]))[0].tolist()
        if negatives is not None:
            rivals = negatives[number].tolist()
        else:
            masked = set(history) if protocol == "unseen" else set()
            rivals = [item for item in range(1, data.num_items + 1) if item not in masked | {target}]
        found.append(1 + sum(scores[rival] >= scores[target] for rival in rivals))
    return found


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ranks_equal_a_slow_reference(data: SplitData, split: Split, protocol: str) -> None:
    found = protocol_ranks(hashed_scorer, data, split, max_length=MAX_LENGTH, batch_size=7)
    assert tuple(found) == PROTOCOLS
    assert found[protocol].dtype == np.int64
    assert found[protocol].tolist() == slow_ranks(data, split, protocol)


@pytest.mark.parametrize("batch_size", [1, 13, 50, 1000])
def test_batch_size_and_company_change_no_rank(data: SplitData, batch_size: int) -> None:
    together = protocol_ranks(hashed_scorer, data, "test", max_length=MAX_LENGTH)
    for protocol in PROTOCOLS:
        alone = protocol_ranks(
            hashed_scorer,
            data,
            "test",
            max_length=MAX_LENGTH,
            protocols=(protocol,),
            batch_size=batch_size,
        )
        assert list(alone) == [protocol]
        assert_array_equal(alone[protocol], together[protocol])


def test_one_pass_of_the_scorer_serves_all_protocols(data: SplitData) -> None:
    calls = []

    def scorer(item_ids: Tensor, lengths: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        assert item_ids.dtype == lengths.dtype == torch.int64
        assert_array_equal((item_ids > 0).sum(dim=1), lengths)
        calls.append(tuple(item_ids.shape))
        return hashed_scorer(item_ids, lengths)

    protocol_ranks(scorer, data, "valid", max_length=MAX_LENGTH, batch_size=20)
    assert calls == [(20, MAX_LENGTH), (20, MAX_LENGTH), (10, MAX_LENGTH)]


def test_the_seed_of_negatives_changes_sampled_protocols_alone(data: SplitData) -> None:
    first, second = (
        protocol_ranks(hashed_scorer, data, "test", max_length=MAX_LENGTH, negatives_seed=seed)
        for seed in (0, 1)
    )
    for protocol in PROTOCOLS:
        assert (first[protocol] == second[protocol]).all() == (protocol in ("full", "unseen"))


def test_a_constant_scorer_ranks_last_under_every_protocol(data: SplitData) -> None:
    found = protocol_ranks(lambda ids, _: torch.zeros(len(ids), 61), data, "test", max_length=MAX_LENGTH)
    history_lengths = data.test.positions - data.starts
    assert_array_equal(found["full"], np.full(50, 60))
    assert_array_equal(found["unseen"], 60 - history_lengths)
    assert_array_equal(found["uni100"], np.full(50, 101))
    assert_array_equal(found["pop100"], np.full(50, 101))


def repeating() -> SplitData:
    """Two users; the first one's validation target is in its history."""
    return SplitData(
        name="by hand",
        checksum="none",
        num_items=5,
        items=np.array([1, 2, 1, 3, 2, 4, 3, 1], dtype=np.int32),
        starts=np.array([0, 4]),
        train_ends=np.array([2, 6]),
        valid=Targets(np.array([0, 1]), np.array([2, 6])),
        test=Targets(np.array([0, 1]), np.array([3, 7])),
        statistics={"repeat_share": 0.5},
    )


def test_unseen_is_omitted_or_refused_where_histories_repeat() -> None:
    data = repeating()
    found = protocol_ranks(lambda ids, _: torch.zeros(len(ids), 6), data, "valid", max_length=3)
    assert tuple(found) == ("full", "uni100", "pop100")
    with pytest.raises(InputError, match=r"'unseen' does not fit data set 'by hand': 50\.0% of its"):
        evaluate(hashed_scorer, data, "valid", max_length=3, protocols=("unseen",))


def test_unseen_ranks_a_repeated_target_all_the_same() -> None:
    # Few repeats, so the data set counts as one without; item 1 is target and history of user 0.
    data = replace(repeating(), statistics={"repeat_share": 0.01})
    scores = torch.tensor([[0.0, 0.1, 0.9, 0.5, 0.2, 0.0], [0.0, 0.1, 0.9, 0.5, 0.2, 0.0]])
    found = protocol_ranks(lambda ids, _: scores, data, "valid", max_length=3, protocols=("unseen",))
    # User 0: items 3 and 4 are ahead of 1. User 1 has 2 and 4 in its history, so 3 is first.
    assert found["unseen"].tolist() == [3, 1]


def test_networks_are_chosen_by_unseen_or_by_full_with_repeats(data: SplitData) -> None:
    assert selection_protocol(data) == "unseen"
    assert selection_protocol(repeating()) == "full"


def test_evaluation_is_worked_out_by_hand() -> None:
    data = replace(repeating(), statistics={"repeat_share": 0.01})
    scores = torch.tensor([[0.0, 0.1, 0.9, 0.5, 0.2, 0.0], [0.0, 0.1, 0.9, 0.5, 0.2, 0.0]])
    found = evaluate(
        lambda ids, _: scores,
        data,
        "valid",
        max_length=3,
        protocols=("full", "unseen"),
        cutoffs=(2, 10),
    )
    # Ranks: full 4 and 2, unseen 3 and 1.
    log2 = math.log2
    assert found == {
        "full/recall_at_2": pytest.approx(1 / 2),
        "full/mrr_at_2": pytest.approx((1 / 2) / 2),
        "full/ndcg_at_2": pytest.approx((1 / log2(3)) / 2),
        "full/recall_at_10": pytest.approx(1),
        "full/mrr_at_10": pytest.approx((1 / 4 + 1 / 2) / 2),
        "full/ndcg_at_10": pytest.approx((1 / log2(5) + 1 / log2(3)) / 2),
        "unseen/recall_at_2": pytest.approx(1 / 2),
        "unseen/mrr_at_2": pytest.approx(1 / 2),
        "unseen/ndcg_at_2": pytest.approx(1 / 2),
        "unseen/recall_at_10": pytest.approx(1),
        "unseen/mrr_at_10": pytest.approx((1 / 3 + 1) / 2),
        "unseen/ndcg_at_10": pytest.approx((1 / 2 + 1) / 2),
    }


def test_the_protocols_of_a_split_by_time_take_questions_as_they_come() -> None:
    """User 0 is asked twice at test time, user 1 never; the second history holds the first target."""
    data = replace(repeating(), test=Targets(np.array([0, 0]), np.array([1, 3])))
    scores = torch.tensor([[0.0, 0.4, 0.3, 0.2, 0.1, 0.0]])
    found = protocol_ranks(
        lambda ids, _: scores.expand(len(ids), -1),
        replace(data, statistics={"repeat_share": 0.0}),
        "test",
        max_length=3,
        protocols=("full", "unseen"),
        batch_size=2,
    )
    assert found["full"].tolist() == [2, 3]
    assert found["unseen"].tolist() == [1, 1]


def test_scores_that_are_not_finite_or_of_another_shape_raise(data: SplitData) -> None:
    with pytest.raises(ValueError, match="got nan"):
        evaluate(lambda ids, _: torch.full((len(ids), 61), math.nan), data, "test", max_length=3)
    with pytest.raises(ValueError, match=r"shape \(50, 61\), got \(50, 60\)"):
        evaluate(lambda ids, _: torch.zeros(len(ids), 60), data, "test", max_length=3)


def test_wrong_arguments_are_named(data: SplitData) -> None:
    with pytest.raises(ValueError, match="got 'uni99'"):
        evaluate(hashed_scorer, data, "test", max_length=3, protocols=("full", "uni99"))
    with pytest.raises(ValueError, match=r"a sequence of names .* got 'full'"):
        evaluate(hashed_scorer, data, "test", max_length=3, protocols="full")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluate(hashed_scorer, data, "test", max_length=3, batch_size=0)


def test_protocols_without_negatives_are_left_out_and_refused_when_asked_for():
    """One user has met every item; the others have not."""
    log = synthetic_interactions(30, 40, 8, seed=0)
    everything = np.concatenate([log.items, np.arange(1, 41, dtype=np.int32)])
    users = np.concatenate([log.users, np.full(40, 30)])
    whole = replace(
        log,
        users=users,
        items=everything,
        timestamps=np.arange(len(users)),
        user_ids=np.arange(31),
        checksum="with one who knows all",
    )
    data = leave_one_out(whole)
    assert usable_protocols(data) == ("full", "unseen")
    assert usable_protocols(leave_one_out(log)) == PROTOCOLS

    def constant(item_ids, lengths):
        return torch.zeros(len(item_ids), data.num_items + 1)

    found = evaluate(constant, data, "test", max_length=10)
    assert {name.split("/")[0] for name in found} == {"full", "unseen"}
    with pytest.raises(InputError, match="leaves no negatives"):
        evaluate(constant, data, "test", max_length=10, protocols=("uni100",))
