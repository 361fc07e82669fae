"""Logs made up from a seed, and smaller parts of real ones: for tests, smoke runs and examples."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from easrec.data.interactions import Interactions, content_checksum
from easrec.data.logs import NOTHING_MALFORMED, Malformed

SHORTEST_HISTORY = 5
NUM_SUCCESSORS = 3
FOLLOW_PROBABILITY = 0.6
POPULARITY_EXPONENT = 0.8


def synthetic_interactions(num_users: int, num_items: int, mean_length: float, *, seed: int) -> Interactions:
    """A log with skewed popularity and an order worth learning.

    With probability 0.6 a user's next item is one of three fixed successors of the present one, else
    it is drawn by popularity (Zipf, exponent 0.8). No user meets an item twice. Lengths are at least
    5 and geometric above it; their mean is a little under `mean_length` where `num_items` is small.
    All `num_items` items are in the catalogue, whether drawn or not.

    >>> log = synthetic_interactions(100, 50, 12, seed=0)
    >>> log.num_users, log.num_items
    (100, 50)
    """
    if num_users < 1 or mean_length < SHORTEST_HISTORY or num_items < 2 * mean_length:
        raise ValueError(
            f"needs at least one user, mean_length >= {SHORTEST_HISTORY} and num_items >= "
            f"2 * mean_length, got {num_users=}, {num_items=}, {mean_length=}"
        )
    generator = np.random.default_rng(np.random.SeedSequence((seed, num_users, num_items)))
    above_shortest = generator.geometric(1 / (mean_length - SHORTEST_HISTORY + 1), num_users) - 1
    lengths = np.minimum(SHORTEST_HISTORY + above_shortest, num_items // 2)
    users, items = _walk(generator, lengths, num_items)
    gaps = generator.integers(0, 3600, size=len(users))  # seconds; zero makes ties, as real logs do
    return _interactions(
        f"synthetic-{num_users}x{num_items}-seed{seed}",
        users,
        items,
        1_000_000_000 + np.cumsum(gaps),
        user_ids=np.arange(num_users),
        item_ids=np.arange(-1, num_items),
        dropped={"users": 0, "interactions": 0},
    )


def subsample(interactions: Interactions, num_users: int, *, seed: int) -> Interactions:
    """The whole histories of `num_users` users drawn at random; users and items are renumbered.

    Asking for at least as many users as there are gives `interactions` itself.
    """
    if num_users < 1:
        raise ValueError(f"num_users must be at least 1, got {num_users}")
    if num_users >= interactions.num_users:
        return interactions
    generator = np.random.default_rng(np.random.SeedSequence((seed, num_users)))
    chosen = np.sort(generator.choice(interactions.num_users, size=num_users, replace=False))
    rows = np.isin(interactions.users, chosen)
    # Sorted, so that items keep their relative order, which is random already.
    kept_items, items = np.unique(interactions.items[rows], return_inverse=True)
    return _interactions(
        f"{interactions.name}-{num_users}-users",
        np.searchsorted(chosen, interactions.users[rows]),
        items.astype(np.int32) + 1,
        interactions.timestamps[rows],
        user_ids=interactions.user_ids[chosen],
        item_ids=interactions.item_ids[np.concatenate(([0], kept_items))],
        dropped=interactions.dropped,
        malformed=interactions.malformed,
    )


def _walk(
    generator: np.random.Generator, lengths: npt.NDArray[np.int64], num_items: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Walks over the items without a repeat: users and item ids, row after row."""
    popularity = np.arange(1, num_items + 1) ** -POPULARITY_EXPONENT
    thresholds = np.cumsum(generator.permutation(popularity))
    successors = generator.integers(0, num_items, size=(num_items, NUM_SUCCESSORS))
    # Repeats are dropped afterwards, so each walk goes further than it needs to.
    steps = 2 * lengths + 20
    num_users = len(lengths)
    by_length = np.argsort(-steps, kind="stable")
    num_walking = num_users - np.searchsorted(np.sort(steps), np.arange(steps.max()), side="right")
    present = np.zeros(num_users, dtype=np.int64)
    walked = []
    for step, walking in enumerate(num_walking):
        drawn = np.searchsorted(thresholds, generator.random(walking) * thresholds[-1])
        follows = generator.random(walking) < FOLLOW_PROBABILITY if step else np.False_
        successor = successors[present[:walking], generator.integers(0, NUM_SUCCESSORS, walking)]
        present[:walking] = np.where(follows, successor, np.minimum(drawn, num_items - 1))
        walked.append(present[:walking].astype(np.int32))
    items = np.concatenate(walked)
    users = np.concatenate([by_length[:walking] for walking in num_walking])
    order = np.argsort(users, kind="stable")
    users, items = users[order], items[order]
    new = ~pd.Index(users * num_items + items).duplicated(keep="first")
    users, items = users[new], items[new]
    first_of_user = np.searchsorted(users, np.arange(num_users))
    wanted = np.arange(len(users)) - first_of_user[users] < lengths[users]
    return users[wanted], items[wanted] + 1


def _interactions(
    name: str,
    users: npt.NDArray[np.int64],
    items: npt.NDArray[np.int32],
    timestamps: npt.NDArray[np.int64] | npt.NDArray[np.float64],
    *,
    user_ids: npt.NDArray[np.generic],
    item_ids: npt.NDArray[np.generic],
    dropped: dict[str, int],
    malformed: Malformed = NOTHING_MALFORMED,
) -> Interactions:
    return Interactions(
        name=name,
        users=users,
        items=items,
        timestamps=timestamps,
        user_ids=user_ids,
        item_ids=item_ids,
        dropped=dict(dropped),
        checksum=content_checksum(users, items, user_ids, item_ids),
        malformed=malformed,
    )
