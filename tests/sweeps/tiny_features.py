"""Made-up features of items."""

import numpy as np

from easrec.data.feature_table import FeatureTable


def tiny_features(num_items: int, *, seed: int = 0) -> FeatureTable:
    """One or two of five genres for each item."""
    rng = np.random.default_rng(seed)
    first = rng.integers(1, 6, num_items + 1)
    second = np.where(rng.random(num_items + 1) < 0.5, 0, first % 5 + 1)
    values = np.stack([first, second], axis=1).astype(np.int64)
    values[0] = 0
    return FeatureTable("genres", values, 5)
