"""Splits of a log into training histories and questions, by name; `leave_one_out` is in `sequences`.

Legend: M interactions, U user rows, Q questions of a split.
"""

import hashlib
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from easrec.data.interactions import Interactions
from easrec.data.sequences import Int64s, SplitData, Targets, describe_split, leave_one_out
from easrec.errors import InputError

SplitMethod = Literal["leave_one_out", "temporal"]
Asked = Literal["all", "first", "last"]


def split_interactions(interactions: Interactions, method: SplitMethod = "leave_one_out") -> SplitData:
    """Split a log by a method, with the defaults of `leave_one_out` or `temporal_split`.

    Raises:
        InputError: the log cannot be split so.
    """
    if method not in get_args(SplitMethod):
        raise ValueError(f"method must be one of {get_args(SplitMethod)}, got {method!r}")
    return leave_one_out(interactions) if method == "leave_one_out" else temporal_split(interactions)


def temporal_split(
    interactions: Interactions,
    *,
    valid_share: float = 0.1,
    test_share: float = 0.1,
    boundaries: tuple[float, float] | None = None,
    asked: Asked = "all",
) -> SplitData:
    """Split at two points of time that are the same for all users.

    What happened before the first boundary is training, what happened from it on and before the second one
    is asked for at validation, and what happened from the second one on at test: nothing that is trained on
    is later than, or at the same time as, anything that is asked of anybody. The history of a question is all
    that the same user did before it, also after a boundary. A user's very first interaction cannot be asked
    for, since there is no history to answer from; it is counted as `questions_without_history`. Users whom
    training does not know (`cold_users`) are asked from their second interaction on.

    Args:
        interactions: the log; its timestamps must be comparable between users.
        valid_share: share of all interactions between the boundaries, as far as equal times allow.
        test_share: share of all interactions from the second boundary on.
        boundaries: the two times themselves, in the unit of the log, instead of the shares.
        asked: of each user's interactions in a period ask for "all", or for the "first" or "last" alone.

    Raises:
        InputError: there is nothing to train on, or nothing to ask for, before or after a boundary.
    """
    if asked not in get_args(Asked):
        raise ValueError(f"asked must be one of {get_args(Asked)}, got {asked!r}")
    first, second = boundaries or _quantiles(interactions, valid_share, test_share)
    if not first < second:
        raise InputError(
            f"data set {interactions.name!r} cannot be split at the times {first} and {second}, which must "
            "ascend; give other times or shares"
        )
    users, num_users = interactions.users, interactions.num_users
    starts = np.searchsorted(users, np.arange(num_users))
    # 0 before the first boundary, 1 between them, 2 from the second one on.
    periods = np.searchsorted(np.array([first, second]), interactions.timestamps, side="right")
    train_ends = starts + np.bincount(users[periods == 0], minlength=num_users)
    has_history = np.diff(users, prepend=-1) == 0
    valid, test = (_targets(users, (periods == period) & has_history, asked) for period in (1, 2))
    split = SplitData(
        name=interactions.name,
        checksum=_checksum(interactions, train_ends, valid, test),
        num_items=interactions.num_items,
        items=interactions.items,
        starts=starts,
        train_ends=train_ends,
        valid=valid,
        test=test,
        statistics={},
    )
    described = describe_split(split)
    for what, number in (
        ("training targets before the first", described["training_targets"]),
        ("validation questions between them", len(valid.rows)),
        ("test questions after the second", len(test.rows)),
    ):
        if not number:
            raise InputError(
                f"data set {interactions.name!r} has no {what} of the boundaries {first} and {second}; give "
                "other times or shares"
            )
    statistics = described | {
        "dropped_users": interactions.dropped.get("users", 0),
        "cold_users": int((train_ends == starts).sum()),
        "questions_without_history": int(((periods > 0) & ~has_history).sum()),
        "valid_from": first,
        "test_from": second,
    }
    return replace(split, statistics=statistics)


def _quantiles(interactions: Interactions, valid_share: float, test_share: float) -> tuple[Any, Any]:
    """The times from which on such shares of all interactions are validation and test."""
    if not (valid_share > 0 and test_share > 0 and valid_share + test_share < 1):
        raise ValueError(
            f"the shares must be above 0 and below 1 together, got {valid_share=}, {test_share=}"
        )
    times = interactions.timestamps
    ranks = [int(len(times) * (1 - valid_share - test_share)), int(len(times) * (1 - test_share))]
    first, second = np.partition(times, ranks)[ranks].tolist()
    return first, second


def _targets(users: Int64s, chosen: npt.NDArray[np.bool_], asked: Asked) -> Targets:
    positions = np.flatnonzero(chosen)
    rows = users[positions]
    if asked == "first":
        kept = np.diff(rows, prepend=-1) != 0
    elif asked == "last":
        kept = np.diff(rows, append=-1) != 0
    else:
        kept = np.ones(len(rows), dtype=np.bool_)
    return Targets(rows[kept], positions[kept])


def _checksum(interactions: Interactions, train_ends: Int64s, valid: Targets, test: Targets) -> str:
    """The log's own checksum knows the order of its times, not the times that the split depends on."""
    digest = hashlib.sha256(f"temporal_split {interactions.checksum}".encode())
    for positions in (train_ends, valid.positions, test.positions):
        digest.update(hashlib.sha256(np.ascontiguousarray(positions, dtype="<i8").data).digest())
    return digest.hexdigest()
