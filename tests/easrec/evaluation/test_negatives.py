import numpy as np
import pytest
from numpy.testing import assert_array_equal

from easrec.data.sequences import SplitData, Targets
from easrec.errors import InputError
from easrec.evaluation.negatives import Distribution, sample_negatives

DISTRIBUTIONS: tuple[Distribution, ...] = ("uniform", "popularity")


def leave_one_out_of(histories: list[list[int]], num_items: int) -> SplitData:
    lengths = np.array([len(history) for history in histories])
    ends = np.cumsum(lengths)
    rows = np.arange(len(histories))
    return SplitData(
        name="by hand",
        checksum="none",
        num_items=num_items,
        items=np.concatenate(histories).astype(np.int32),
        starts=ends - lengths,
        train_ends=ends - 2,
        valid=Targets(rows, ends - 2),
        test=Targets(rows, ends - 1),
        statistics={"repeat_share": 0.0},
    )


def random_split(num_users: int = 60, num_items: int = 40, seed: int = 0) -> SplitData:
    generator = np.random.default_rng(seed)
    histories = [
        generator.permutation(np.arange(1, num_items + 1))[: generator.integers(3, num_items - 3)].tolist()
        for _ in range(num_users)
    ]
    return leave_one_out_of(histories, num_items)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("split", ["valid", "test"])
def test_negatives_are_items_outside_history_and_target(
    split: str, distribution: Distribution, replacement: bool
) -> None:
    data = random_split()
    drawn = sample_negatives(data, split, distribution=distribution, replacement=replacement)  # type: ignore[arg-type]
    assert drawn.shape == (60, 100)
    assert drawn.dtype == np.int64
    questions = data.targets(split)  # type: ignore[arg-type]
    for row, position, negatives in zip(questions.rows, questions.positions, drawn, strict=True):
        known = set(data.items[data.starts[row] : position + 1].tolist())
        remaining = set(range(1, data.num_items + 1)) - known
        if replacement:
            assert set(negatives.tolist()) <= remaining
        else:  # all that remain, once each: there are under 100 of them
            assert sorted(negatives[negatives > 0].tolist()) == sorted(remaining)
            assert not negatives[len(remaining) :].any()


@pytest.mark.parametrize("replacement", [True, False])
def test_the_test_item_can_be_a_negative_at_validation_only(replacement: bool) -> None:
    data = leave_one_out_of([[1, 2, 3, 4], [1, 2, 3, 4]], num_items=5)
    at_validation, at_test = (
        sample_negatives(data, split, distribution="uniform", replacement=replacement)
        for split in ("valid", "test")
    )
    assert set(at_validation[at_validation > 0].tolist()) == {4, 5}
    assert set(at_test[at_test > 0].tolist()) == {5}


def test_questions_of_one_row_have_each_its_own_history() -> None:
    """A split by time asks one user several times, and others never."""
    data = SplitData(
        name="by hand",
        checksum="none",
        num_items=6,
        items=np.array([1, 2, 3, 4, 5, 1, 6], dtype=np.int32),
        starts=np.array([0, 5]),
        train_ends=np.array([1, 7]),
        valid=Targets(np.array([0, 0]), np.array([1, 3])),
        test=Targets(np.array([0, 1]), np.array([4, 6])),
        statistics={},
    )
    drawn = sample_negatives(data, "valid", distribution="uniform")
    assert [set(row.tolist()) for row in drawn] == [{3, 4, 5, 6}, {5, 6}]
    drawn = sample_negatives(data, "test", distribution="uniform")
    assert [set(row.tolist()) for row in drawn] == [{6}, {2, 3, 4, 5}]


def popular_split() -> tuple[SplitData, np.ndarray]:
    """Popularity 1, 2, 3, ... 8 of items 1..8 in training; the askers' own history is item 9."""
    training = [item for item in range(1, 9) for _ in range(item)]
    histories = [[9, 9, 10, 11]] * 30 + [[*training, 10, 11]]
    data = leave_one_out_of(histories, num_items=12)
    counts = np.zeros(13)
    counts[1:9] = np.arange(1, 9)
    assert_array_equal(data.training_counts()[:9], counts[:9])
    return data, counts / counts.sum()


def test_negatives_follow_popularity() -> None:
    data, expected = popular_split()
    drawn = sample_negatives(data, "valid", distribution="popularity", num_negatives=2000, seed=5)[:30]
    shares = np.bincount(drawn.ravel(), minlength=13) / drawn.size
    # Five standard deviations of a share of 60,000 draws.
    np.testing.assert_array_less(np.abs(shares - expected), 5 * np.sqrt(0.25 / drawn.size))
    assert shares[9] == shares[10] == shares[11] == shares[12] == 0


def test_uniform_negatives_are_uniform() -> None:
    data, _ = popular_split()
    drawn = sample_negatives(data, "valid", distribution="uniform", num_negatives=2000, seed=5)[:30]
    shares = np.bincount(drawn.ravel(), minlength=13) / drawn.size
    # Items 9 (history) and 10 (target) are out; 11, the test item, and 12, never met, are in.
    expected = np.array([0, *[1 / 10] * 8, 0, 0, 1 / 10, 1 / 10])
    np.testing.assert_array_less(np.abs(shares - expected), 5 * np.sqrt(0.25 / drawn.size))


def test_draws_that_are_refused_again_and_again_keep_the_distribution() -> None:
    """Items 1 and 2 are nearly all of the popularity and in the history of the user who asks."""
    popular = [1] * 40_000 + [2] * 40_000
    data = leave_one_out_of([[*popular, 5, 6], [3, 3, 3, 4, 5, 6]], num_items=6)
    drawn = sample_negatives(data, "valid", distribution="popularity", num_negatives=4000, seed=1)[0]
    share = (drawn == 3).mean()
    assert set(drawn.tolist()) == {3, 4}
    assert abs(share - 3 / 4) < 5 * np.sqrt(3 / 4 / 4 / 4000)


def test_the_first_draw_without_replacement_follows_popularity() -> None:
    data, expected = popular_split()
    first, second = np.concatenate(
        [
            sample_negatives(data, "valid", distribution="popularity", seed=seed, replacement=False)[:30, :2]
            for seed in range(200)
        ]
    ).T
    shares = np.bincount(first, minlength=13) / len(first)
    np.testing.assert_array_less(np.abs(shares - expected), 5 * np.sqrt(0.25 / len(first)))
    # The second is drawn from what the first has left.
    given_8 = np.bincount(second[first == 8], minlength=13) / (first == 8).sum()
    remaining = np.where(np.arange(13) == 8, 0, expected)
    remaining /= remaining.sum()
    np.testing.assert_array_less(np.abs(given_8 - remaining), 5 * np.sqrt(0.25 / (first == 8).sum()))


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_negatives_depend_on_the_seed_alone(distribution: Distribution, replacement: bool) -> None:
    data = random_split()

    def draw(seed: int) -> np.ndarray:
        return sample_negatives(
            data, "test", distribution=distribution, seed=seed, replacement=replacement, num_negatives=4
        )

    first = draw(1)
    np.random.seed(0)
    np.random.random(3)
    assert_array_equal(draw(1), first)
    assert (draw(2) != first).any()


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_user_who_knows_every_item_is_refused(distribution: Distribution, replacement: bool) -> None:
    data = leave_one_out_of([[1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 3]], num_items=4)
    with pytest.raises(InputError, match="no negatives for user row 0 of the test split"):
        sample_negatives(data, "test", distribution=distribution, replacement=replacement)


@pytest.mark.parametrize("replacement", [True, False])
def test_popularity_without_training_interactions_is_refused(replacement: bool) -> None:
    data = leave_one_out_of([[1, 2], [3, 4]], num_items=4)
    with pytest.raises(InputError, match="no negatives for user row 0"):
        sample_negatives(data, "valid", distribution="popularity", replacement=replacement)


def test_wrong_arguments_are_named() -> None:
    data = random_split()
    with pytest.raises(ValueError, match="got 'zipf'"):
        sample_negatives(data, "valid", distribution="zipf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_negatives must be at least 1, got 0"):
        sample_negatives(data, "valid", distribution="uniform", num_negatives=0)
    with pytest.raises(ValueError, match="'train'"):
        sample_negatives(data, "train", distribution="uniform")  # type: ignore[arg-type]
