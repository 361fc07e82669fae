"""A small task with a known answer: chains whose step size an earlier item tells.

A user's first item is one of three class items, the rest walk round a circle of states with the step
size of the class: what follows a state is known only to a network that looks back at the class, or at the
state before, and has the width to hold both.
"""

import dataclasses

import numpy as np

from easrec.data.sequences import SplitData, Targets, describe_split

LENGTH = 12
STATES = 10
STEPS = np.array([1, 3, 7])


def chains(num_users: int = 400, *, seed: int = 0) -> SplitData:
    """`num_users` chains of LENGTH items, split leave-one-out."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, len(STEPS), num_users)
    begin = rng.integers(0, STATES, num_users)
    walked = begin[:, None] + STEPS[classes][:, None] * np.arange(LENGTH - 1)
    items = np.concatenate([STATES + 1 + classes[:, None], walked % STATES + 1], axis=1)
    rows = np.arange(num_users)
    starts = rows * LENGTH
    data = SplitData(
        name="chains",
        checksum=f"chains-{num_users}-{seed}",
        num_items=STATES + len(STEPS),
        items=items.astype(np.int32).reshape(-1),
        starts=starts,
        train_ends=starts + LENGTH - 2,
        valid=Targets(rows, starts + LENGTH - 2),
        test=Targets(rows, starts + LENGTH - 1),
        statistics={},
    )
    return dataclasses.replace(data, statistics=describe_split(data))
