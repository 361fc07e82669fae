"""Coverage and the share of popular items, by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from easrec.data.interactions import load_interactions
from easrec.data.sequences import SplitData, leave_one_out
from easrec.data.synthetic import synthetic_interactions
from sweeps.coverage import COVERAGE, POPULAR, popular_items, popular_targets, recommended


@pytest.fixture
def data() -> SplitData:
    return leave_one_out(synthetic_interactions(30, 20, 6, seed=0))


def always(*items: int, num_items: int = 20):  # type: ignore[no-untyped-def]
    """A scorer that ranks these items first, in this order, then the rest by their ids."""

    def scores(item_ids: Tensor, lengths: Tensor) -> Tensor:
        values = -torch.arange(num_items + 1, dtype=torch.float32)
        for place, item in enumerate(items):
            values[item] = 100.0 - place
        return values.repeat(len(item_ids), 1)

    return scores


def test_popular_are_the_items_with_the_most_training_interactions(data: SplitData) -> None:
    popular = popular_items(data)
    counts = data.training_counts()
    assert popular.sum() == 2 and not popular[0]  # a tenth of 20
    assert counts[popular].min() >= counts[1:][~popular[1:]].max()
    targets = data.target_items("test")
    assert popular_targets(data) == pytest.approx(np.isin(targets, np.flatnonzero(popular)).mean())


def test_every_user_gets_the_best_items_that_it_has_not_met(data: SplitData) -> None:
    found = recommended(always(7), data, max_length=5, k=1)
    # Item 7, or for those who have met it the first of 1, 2, ... that they have not.
    expected = []
    for row, position in zip(data.test.rows, data.test.positions, strict=True):
        met = set(data.items[data.starts[row] : position].tolist())
        expected.append(next(item for item in [7, *range(1, 21)] if item not in met))
    popular = popular_items(data)
    assert found[COVERAGE] == pytest.approx(len(set(expected)) / 20)
    assert found[POPULAR] == pytest.approx(np.mean([popular[item] for item in expected]))


def test_who_has_met_nearly_all_is_recommended_what_is_left(tmp_path: Path) -> None:
    orders = ["1234", "2341", "3421", "1243", "4321"]
    rows = [f"u{user},{item},{at}" for user, order in enumerate(orders) for at, item in enumerate(order)]
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    data = leave_one_out(load_interactions(log))
    found = recommended(always(1, num_items=4), data, max_length=4, k=4)
    # Three of four are met before the test, so each gets its target alone.
    targets = data.target_items("test")
    assert found[COVERAGE] == len(set(targets.tolist())) / 4
    assert found[POPULAR] == pytest.approx(popular_targets(data))
