import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from easrec.evaluation.ranking import ranking_metrics, ranks, sampled_ranks

machine_independent = settings(deadline=None, max_examples=60)
BEST, MIDDLE, LOW, LOWEST = 0.9, 0.5, 0.3, -math.inf


def slow_rank(scores: list[float], target: int, excluded: set[int]) -> int:
    """By the words of the method: the rank of the last of the target's equals."""
    rivals = [item for item in range(1, len(scores)) if item != target and item not in excluded]
    return 1 + sum(not scores[item] < scores[target] for item in rivals)


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[list[float]], list[int], list[set[int]]]:
    """Scores of few distinct values, so that ties are common; column 0 may hold anything finite."""
    num_items = draw(st.integers(1, 8))
    batch = draw(st.integers(1, 5))
    row = st.lists(
        st.sampled_from([BEST, MIDDLE, LOW, LOWEST]), min_size=num_items + 1, max_size=num_items + 1
    )
    items = st.integers(1, num_items)
    return (
        draw(st.lists(row, min_size=batch, max_size=batch)),
        draw(st.lists(items, min_size=batch, max_size=batch)),
        draw(st.lists(st.sets(items), min_size=batch, max_size=batch)),
    )


@machine_independent
@given(questions())
def test_both_forms_of_exclusion_agree_with_a_slow_reference(
    drawn: tuple[list[list[float]], list[int], list[set[int]]],
) -> None:
    scores, targets, excluded = drawn
    expected = [slow_rank(*question) for question in zip(scores, targets, excluded, strict=True)]
    scores_BV, targets_B = torch.tensor(scores), torch.tensor(targets)
    mask_BV = torch.zeros(scores_BV.shape, dtype=torch.bool)
    ids_BM = torch.zeros(scores_BV.shape, dtype=torch.int64)
    for row, items in enumerate(excluded):
        for column, item in enumerate(items):
            mask_BV[row, item] = True
            ids_BM[row, column] = item
    for form in (mask_BV, ids_BM, ids_BM.int()):
        found = ranks(scores_BV, targets_B, excluded=form)
        assert found.dtype == torch.int64
        assert found.tolist() == expected


@pytest.mark.parametrize("excluded", [torch.tensor([[2, 1, 0]]), torch.ones(1, 4, dtype=torch.bool)])
def test_the_target_competes_even_where_it_is_excluded(excluded: torch.Tensor) -> None:
    # Item 3 stays where ids are given and beats target 2; the mask leaves nobody but the target.
    expected = 1 if excluded.dtype == torch.bool else 2
    scores = torch.tensor([[0.0, BEST, LOW, MIDDLE]])
    assert ranks(scores, torch.tensor([2]), excluded=excluded).tolist() == [expected]


def test_padding_never_competes() -> None:
    scores = torch.tensor([[BEST, LOW, MIDDLE], [MIDDLE, MIDDLE, LOW]])
    assert ranks(scores, torch.tensor([2, 1])).tolist() == [1, 1]


def test_a_constant_scorer_ranks_last() -> None:
    num_items = 7
    constant = torch.full((3, num_items + 1), 2.5)
    targets = torch.tensor([1, 4, num_items])
    assert ranks(constant, targets).tolist() == [num_items] * 3
    assert ranks(constant, targets, excluded=torch.tensor([[2, 3]] * 3)).tolist() == [num_items - 2] * 3
    assert sampled_ranks(constant, targets, torch.tensor([[2, 3]] * 3)).tolist() == [3] * 3


def test_minus_infinity_is_a_score_like_others() -> None:
    scores = torch.tensor([[LOWEST, LOWEST, LOWEST, LOW]])
    assert ranks(scores, torch.tensor([1])).tolist() == [3]
    assert ranks(scores, torch.tensor([3])).tolist() == [1]


def test_a_negative_that_comes_twice_counts_twice_and_padding_not_at_all() -> None:
    scores = torch.tensor([[BEST, LOW, MIDDLE, BEST, LOW]])
    negatives = torch.tensor([[2, 2, 3, 4, 0, 0]])
    # Items 2, 2 and 3 are ahead of target 1, and item 4 is its equal.
    assert sampled_ranks(scores, torch.tensor([1]), negatives).tolist() == [1 + 3 + 1]


def test_ranks_do_not_change_their_arguments() -> None:
    scores, targets = torch.tensor([[0.0, LOW, MIDDLE]]), torch.tensor([1])
    mask, negatives = torch.zeros(1, 3, dtype=torch.bool), torch.tensor([[2]])
    before = [value.clone() for value in (scores, targets, mask, negatives)]
    ranks(scores, targets, excluded=mask)
    sampled_ranks(scores, targets, negatives)
    for value, unchanged in zip((scores, targets, mask, negatives), before, strict=True):
        torch.testing.assert_close(value, unchanged, rtol=0, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("column", [0, 1, 2, 3])
def test_nan_and_infinity_raise_wherever_they_are(bad: float, column: int) -> None:
    scores = torch.tensor([[0.0, LOW, MIDDLE, BEST]] * 2)
    scores[1, column] = bad
    targets, excluded = torch.tensor([2, 2]), torch.tensor([[3], [3]])
    with pytest.raises(ValueError, match=f"got {bad}"):
        ranks(scores, targets, excluded=excluded)
    with pytest.raises(ValueError, match=f"got {bad}"):
        sampled_ranks(scores, targets, excluded)


@pytest.mark.parametrize("target", [0, -1, 4])
def test_a_target_that_is_no_item_raises(target: int) -> None:
    with pytest.raises(ValueError, match=rf"targets must lie in 1\.\.3, got {target}"):
        ranks(torch.zeros(2, 4), torch.tensor([1, target]))


def test_ids_and_shapes_that_do_not_fit_raise() -> None:
    scores, targets = torch.zeros(2, 4), torch.tensor([1, 2])
    with pytest.raises(ValueError, match=r"excluded must lie in 0\.\.3, got 4"):
        ranks(scores, targets, excluded=torch.tensor([[1], [4]]))
    with pytest.raises(ValueError, match=r"shape of scores, \(2, 4\), got \(2, 3\)"):
        ranks(scores, targets, excluded=torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="one row per question, got 1 for 2"):
        sampled_ranks(scores, targets, torch.tensor([[3]]))
    with pytest.raises(ValueError, match=r"got \(2, 4\) and \(3,\)"):
        ranks(scores, torch.tensor([1, 2, 3]))


def test_metrics_of_known_ranks() -> None:
    metrics = ranking_metrics(torch.tensor([1, 2, 3, 4, 11]), k=3)
    assert metrics == {
        "recall_at_3": pytest.approx(3 / 5),
        "mrr_at_3": pytest.approx((1 + 1 / 2 + 1 / 3) / 5),
        "ndcg_at_3": pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(4)) / 5),
    }


def test_metrics_of_a_tie_are_those_of_the_last_equal() -> None:
    # Target 1 shares its score with items 2 and 3, and item 4 is ahead: rank 4.
    rank = ranks(torch.tensor([[0.0, LOW, LOW, LOW, BEST]]), torch.tensor([1]))
    assert ranking_metrics(rank) == {
        "recall_at_10": 1.0,
        "mrr_at_10": pytest.approx(1 / 4),
        "ndcg_at_10": pytest.approx(1 / math.log2(5)),
    }


def test_nothing_within_the_cutoff_is_worth_zero() -> None:
    assert set(ranking_metrics(np.array([11, 500])).values()) == {0.0}


def test_metrics_of_no_rank_or_an_impossible_one_raise() -> None:
    with pytest.raises(ValueError, match="there are none"):
        ranking_metrics(np.array([], dtype=np.int64))
    with pytest.raises(ValueError, match="ranks count from 1, got 0"):
        ranking_metrics(np.array([3, 0]))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        ranking_metrics(np.array([1]), k=0)


@pytest.mark.filterwarnings("ignore")  # ranx's and numba's
def test_metrics_equal_those_of_ranx_without_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling ranx takes over a minute
    from ranx import Qrels, Run
    from ranx import evaluate as ranx_evaluate

    generator = np.random.default_rng(3)
    num_questions, num_items = 40, 25
    scores = np.stack([generator.permutation(num_items + 1) for _ in range(num_questions)]).astype(np.float64)
    targets = generator.integers(1, num_items + 1, num_questions)
    qrels = Qrels({f"q{row}": {f"i{target}": 1} for row, target in enumerate(targets)})
    run = Run(
        {f"q{row}": {f"i{item}": scores[row, item] for item in range(1, num_items + 1)} for row in range(40)}
    )
    rank = ranks(torch.from_numpy(scores), torch.from_numpy(targets))
    for k in (1, 5, 10):
        expected = ranx_evaluate(qrels, run, [f"recall@{k}", f"mrr@{k}", f"ndcg@{k}"])
        found = ranking_metrics(rank, k)
        for name in ("recall", "mrr", "ndcg"):
            assert found[f"{name}_at_{k}"] == pytest.approx(expected[f"{name}@{k}"], rel=1e-9)
