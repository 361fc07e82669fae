"""Epochs of RecBole's trainings, ranked under all protocols by the code that ranks ours."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from peers.client import Worker
from torch import Tensor

from easrec.data.interactions import Interactions
from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.evaluation.protocols import PROTOCOLS, Scorer, protocol_ranks
from easrec.evaluation.ranking import ranking_metrics
from easrec.files import read_json

MAX_LENGTH = 50
LARGEST_DIFFERENCE = 5e-4
"""Between RecBole's own figure and ours of the same scores: one tie at the head of a list, which we count
against the target."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch of RecBole's."""

    seconds: float
    """Of its training alone."""
    loss: float
    full: float
    """NDCG@10 as RecBole gives it."""
    ndcg: dict[str, float]
    """NDCG@10 of its scores by protocol, as we give it."""
    full_standard_error: float
    """Of the one under `full`."""


def ranked(
    found: dict[str, float], directory: Path, number: int, order: tuple[Tensor, Tensor], data: SplitData
) -> Epoch:
    """What RecBole says of an epoch, with our figures of the scores that it left in `directory`.

    Args:
        found: seconds, loss and its own NDCG@10 under `full`.
        directory: of the training.
        number: of the epoch, from 1.
        order: rows and columns of the scores, see `order_of`.
        data: whose validation questions were scored.

    Raises:
        RuntimeError: its figure and ours of the same scores differ.
    """
    scores = torch.from_numpy(np.load(scores_path(directory, number), allow_pickle=False))
    scores = scores[order[0]][:, order[1]]
    ranks = protocol_ranks(lookup(scores), data, "valid", max_length=MAX_LENGTH)
    ndcg = {protocol: ranking_metrics(ranks[protocol])["ndcg_at_10"] for protocol in PROTOCOLS}
    if not abs(ndcg["full"] - found["full"]) <= LARGEST_DIFFERENCE:
        raise RuntimeError(
            f"RecBole gives NDCG@10 {found['full']} under `full` and its scores give {ndcg['full']}"
        )
    gains = np.where(ranks["full"] <= 10, 1 / np.log2(ranks["full"] + 1), 0)
    error = float(gains.std(ddof=1) / math.sqrt(len(gains)))
    return Epoch(**found, ndcg=ndcg, full_standard_error=error)


def read_owned(path: Path, owner: str) -> dict[str, Any] | None:
    """The records that an earlier run left, None where there are none.

    Raises:
        InputError: their "owner" is another: they belong to other settings.
    """
    if not path.is_file():
        return None
    found: dict[str, Any] = read_json(path)
    if found["owner"] != owner:
        raise InputError(
            f"{path} belongs to a run on other data, threads or versions; use another --directory, or delete "
            "this one"
        )
    return found


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other runs from training in a directory for the length of a `with`; it is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"another run trains in {directory}; wait for it, or use another --directory"
        ) from error


def scores_path(directory: Path, number: int) -> Path:
    """Where an epoch leaves its scores."""
    return directory / f"scores-{number}.npy"


def lookup(scores: Tensor) -> Scorer:
    """A scorer that gives rows of a matrix, (questions, V + 1), in the order in which they are asked for."""
    given = 0

    def scorer(item_ids: Tensor, _: Tensor) -> Tensor:
        nonlocal given
        given += len(item_ids)
        return scores[given - len(item_ids) : given]

    return scorer


def answer(worker: Worker, contestant: str, request: Any) -> Any:
    """What a worker answers to one request."""
    worker.ask(do="requests", name="asked", requests=[request])
    return worker.ask(do="answer", of=contestant, requests="asked")["answers"][0]


def order_of(tokens: dict[str, list[str]], interactions: Interactions) -> tuple[Tensor, Tensor]:
    """Rows and columns of RecBole's scores in our order of users and items."""
    rows = {token: row for row, token in enumerate(tokens["users"])}
    columns = {token: column for column, token in enumerate(tokens["items"])}
    users = [rows[str(user)] for user in interactions.user_ids]
    items = [columns[str(item)] for item in interactions.item_ids[1:]]
    if len(users) != len(rows) or len(items) != len(columns) - 1:
        raise RuntimeError("RecBole has other users or items than we have")
    return torch.tensor(users), torch.tensor([0, *items])
