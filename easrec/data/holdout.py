"""Part of the training targets held out, so that a search leaves validation untouched."""

import hashlib
from dataclasses import replace

import numpy as np

from easrec.data.sequences import SplitData, Targets

_FEWEST_TARGETS = 2
"""A user with fewer training targets keeps them all."""


def hold_out_last_targets(data: SplitData) -> SplitData:
    """The split of a search that may see training data alone.

    Its validation is each user's last training target, which leaves the training history. The validation and
    test questions of `data` are gone. Users with a single training target keep it and are asked nothing.
    """
    num_targets = data.train_ends - data.starts - 1
    rows = np.flatnonzero(num_targets >= _FEWEST_TARGETS)
    train_ends = data.train_ends.copy()
    train_ends[rows] -= 1
    nothing = np.zeros(0, dtype=np.int64)
    return replace(
        data,
        checksum=hashlib.sha256(f"hold_out_last_targets {data.checksum}".encode()).hexdigest(),
        train_ends=train_ends,
        valid=Targets(rows, train_ends[rows]),
        test=Targets(nothing, nothing),
    )
