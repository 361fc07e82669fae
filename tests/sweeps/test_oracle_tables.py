import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.oracle_tables import COST, SUPERNET, Truth, best_by_supernet, random_search

ACCURACY = "valid/unseen/ndcg_at_10"


def table(rows, *, cost=1.0):
    """rows: (architecture_id, seed, accuracy, flops, accuracy on the supernet)."""
    frame = pd.DataFrame(rows, columns=["architecture_id", "seed", ACCURACY, "flops", SUPERNET])
    return frame.assign(**{COST: cost})


SMALL = table(
    [
        ("a", 0, 0.10, 1.0, 0.02),
        ("b", 0, 0.08, 2.0, 0.03),
        ("c", 0, 0.14, 4.0, 0.01),
        ("d", 0, 0.12, 8.0, 0.04),
    ]
)


def test_front_regret_and_share_of_a_small_space_by_hand():
    truth = Truth.of(SMALL, ACCURACY)
    assert truth.front == ["a", "c"]
    assert truth.reference == (0.08, 8.0)
    # Lost at equal FLOPs: b to a, d to c.
    assert [round(truth.regret(name), 6) for name in "abcd"] == [0, 0.02, 0, 0.02]
    # The front's area above (0.08, 8): a covers 0.02 x 7, c adds 0.04 x 4.
    whole = 0.02 * 7 + 0.04 * 4
    assert truth.hypervolume_share(["a"]) == pytest.approx(0.02 * 7 / whole)
    assert truth.hypervolume_share(["c", "d"]) == pytest.approx(0.06 * 4 / whole)
    assert truth.hypervolume_share(["a", "b", "c", "d"]) == pytest.approx(1)
    assert truth.hypervolume_share([]) == 0
    # d is no choice beside c, so its regret does not count.
    assert truth.mean_regret(["b", "c", "d"]) == pytest.approx(0.01)


def test_seeds_are_averaged_before_anything_is_judged():
    rows = [
        ("a", 0, 0.1, 1.0, 0.1),
        ("a", 1, 0.3, 1.0, 0.1),
        ("b", 0, 0.25, 1.0, 0.2),
        ("b", 1, 0.05, 1.0, 0.2),
    ]
    truth = Truth.of(table(rows), ACCURACY)
    assert truth.front == ["a"]
    assert truth.regret("b") == pytest.approx(0.05)


def test_the_supernets_ranking_is_judged_by_kendalls_tau():
    rows = [
        (name, 0, value, 1.0, 2 * value) for name, value in zip("abcd", (0.1, 0.2, 0.3, 0.4), strict=True)
    ]
    agreeing, opposing = table(rows), table(rows)
    opposing[SUPERNET] = -opposing[SUPERNET]
    assert Truth.of(agreeing, ACCURACY).rank_correlation()[0] == pytest.approx(1)
    assert Truth.of(opposing, ACCURACY).rank_correlation()[0] == pytest.approx(-1)


def test_the_supernets_own_choice_peels_its_fronts():
    truth = Truth.of(SMALL, ACCURACY)
    # Read off the supernet a, b and d are a front: d has the best accuracy, a the fewest FLOPs.
    assert best_by_supernet(truth, 4) == ["d", "b", "a", "c"]
    assert best_by_supernet(truth, 1) == ["d"]


def test_random_search_equals_the_mean_over_all_orders():
    frame = SMALL.copy()
    frame[COST] = [1.0, 2.0, 3.0, 4.0]
    truth = Truth.of(frame, ACCURACY)
    costs = dict(zip("abcd", (1.0, 2.0, 3.0, 4.0), strict=True))
    budget = 5.0
    shares, counts, regrets = [], [], []
    for order in itertools.permutations("abcd"):
        chosen, spent = [], 0.0
        for name in order:
            if spent + costs[name] > budget:
                break
            spent += costs[name]
            chosen.append(name)
        shares.append(truth.hypervolume_share(chosen))
        regrets.append(truth.mean_regret(chosen))
        counts.append(len(chosen))
    found = random_search(truth, budget, share=0.5, draws=20_000)
    assert found.share == pytest.approx(np.mean(shares), abs=0.01)
    assert found.regret == pytest.approx(np.mean(regrets), abs=0.001)
    assert found.num_architectures == pytest.approx(np.mean(counts), abs=0.02)
    assert found.beaten == pytest.approx(np.mean(np.array(shares) < 0.5), abs=0.02)
    assert (found.share_low, found.share_high) == (min(shares), max(shares))


def test_a_draw_that_finds_as_much_is_beaten_by_half() -> None:
    truth = Truth.of(SMALL, ACCURACY)
    # With all retrained every draw finds the whole front, as the search did.
    assert random_search(truth, 100.0, share=truth.hypervolume_share(list("abcd")), draws=10).beaten == 0.5


def test_the_first_architecture_is_retrained_whatever_it_costs():
    found = random_search(Truth.of(SMALL, ACCURACY), 0.0, share=2.0, draws=200)
    assert found.num_architectures == 1
    assert found.beaten == 1


@st.composite
def spaces(draw):
    size = draw(st.integers(2, 9))
    number = st.integers(1, 6)
    return table(
        [(str(k), 0, draw(number) / 10, float(draw(number)), draw(number) / 10) for k in range(size)]
    )


@given(frame=spaces(), chosen=st.sets(st.integers(0, 8), min_size=1))
@settings(max_examples=200, deadline=None)
def test_shares_and_regrets_against_plain_loops(frame, chosen):
    truth = Truth.of(frame, ACCURACY)
    points = {row["architecture_id"]: (row[ACCURACY], row["flops"]) for row in frame.to_dict("records")}
    names = [str(k) for k in chosen if str(k) in points] or ["0"]

    def beaten(name, others):
        accuracy, flops = points[name]
        return any(
            points[o][0] >= accuracy and points[o][1] <= flops and points[o] != points[name] for o in others
        )

    assert set(truth.front) == {name for name in points if not beaten(name, points)}
    assert set(truth.front_of(names)) == {name for name in names if not beaten(name, names)}
    for name in points:
        best = max(a for a, f in points.values() if f <= points[name][1])
        assert truth.regret(name) == pytest.approx(best - points[name][0])
        assert (truth.regret(name) < 1e-12) or name not in truth.front
    # The area by counting cells: accuracies are tenths, FLOPs whole numbers.
    low, dear = truth.reference

    def area(some):
        cells = 0
        for tenth in range(round(low * 10), 6):
            for flops in range(1, int(dear)):
                cells += any(points[n][0] * 10 >= tenth + 1 - 1e-9 and points[n][1] <= flops for n in some)
        return cells

    whole = area(points)
    share = truth.hypervolume_share(names)
    assert np.isnan(share) if whole == 0 else share == pytest.approx(area(names) / whole)
