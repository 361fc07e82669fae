import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from easrec.serving.best_items import best_items


@given(st.data())
def test_best_items_are_those_of_a_sort_by_score_and_id(data):
    """Few different scores, so that there are ties everywhere, and some items left out."""
    num_items = data.draw(st.integers(1, 12))
    row = st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]), min_size=num_items, max_size=num_items)
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    k = data.draw(st.integers(1, 15))
    scores = torch.tensor([[-np.inf, *row] for row in rows], dtype=torch.float32)
    for (ids, values), row in zip(best_items(scores, k), rows, strict=True):
        order = sorted((-score, item) for item, score in enumerate(row, 1) if score > -np.inf)[:k]
        assert ids == [item for _, item in order]
        assert values == [-negated for negated, _ in order]


def test_best_items_of_many():
    scores = torch.rand(3, 5000, generator=torch.Generator().manual_seed(0))
    scores[:, 0] = -torch.inf
    for (ids, values), row in zip(best_items(scores, 10), scores.numpy(), strict=True):
        assert ids == np.argsort(-row)[:10].tolist()
        assert values == row[ids].tolist()
        assert all(type(item) is int for item in ids)
        assert all(type(value) is float for value in values)
