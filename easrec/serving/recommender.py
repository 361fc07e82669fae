"""Recommendations to users: item ids as the data set has them in, item ids and scores out.

Shapes: B users, N positions, D hidden size, V items; the network's own item ids are 1..V, 0 is padding.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from easrec.data.items import Items
from easrec.data.sequences import Int64s
from easrec.errors import InputError
from easrec.models.features import check_plain
from easrec.models.transformer import SequentialRecommender
from easrec.serving.best_items import Best, best_items
from easrec.serving.bundle import load_bundle
from easrec.serving.history_encoder import HistoryEncoder
from easrec.serving.item_table import Precision
from easrec.serving.item_table import item_table as table_of
from easrec.serving.states import UserStates
from easrec.serving.streaming import StreamingNetwork

ItemId = int | str
"""An item as the data set has it; numpy's integers are taken too."""

SCORES_AT_ONCE = 1 << 22
"""Elements of the score matrix that are held at once, 16 MiB."""


@dataclass(frozen=True, slots=True)
class Recommendations:
    """What B users were recommended."""

    items: list[list[ItemId]]
    """Of each user the items, best first: k, or as many as there are that may be recommended."""
    scores: list[list[float]]
    """The scores of these items; comparable within a user, not between users."""
    by_popularity: list[bool]
    """Of each user, whether nothing is known of them, so that they got the most popular items of training;
    the scores are then how often these occur in it."""
    unknown: list[list[ItemId]]
    """Of each user the items given that the network does not know; it has passed over them."""


class Recommender:
    """A network, the items it knows, and what it needs to answer fast.

    Histories are lists of item ids, from old to new. Items that the network does not know are passed over.

    Args:
        model: the network; it is put into evaluation mode.
        items: what its item ids stand for.
        item_table: precision of the table that scores are computed with, see `easrec.serving.item_table`.

    Raises:
        InputError: the items are not those of the network, or there is no such table.
    """

    def __init__(
        self, model: SequentialRecommender, items: Items, *, item_table: Precision = "float32"
    ) -> None:
        check_plain(model, "serving")
        if items.num_items != model.num_items:
            raise InputError(
                f"the network ranks {model.num_items} items, but the list of items has {items.num_items}; "
                "give the items of the data set it was trained on"
            )
        self.model = model.eval()
        self.items = items
        self._table = table_of(model.item_embedding.weight, item_table)
        self._encoder = HistoryEncoder(self.model)
        self._users_at_once = max(1, SCORES_AT_ONCE // (model.num_items + 1))
        self._own_ids: list[ItemId] = items.own_ids.tolist()
        self._numbers = {own_id: number for number, own_id in enumerate(self._own_ids) if number}
        self._id_type: type = str if items.are_texts else int

    @classmethod
    def load(
        cls, directory: Path | str, *, device: str = "cpu", item_table: Precision = "float32"
    ) -> "Recommender":
        """The recommender of a bundle that `easrec.serving.save_bundle` wrote.

        Raises:
            InputError: the bundle is missing, damaged or foreign, or there is no such table.
        """
        bundle = load_bundle(directory, device)
        return cls(bundle.model, bundle.items, item_table=item_table)

    @cached_property
    def streaming(self) -> StreamingNetwork:
        """The network in its recurrent form.

        Raises:
            InputError: its attention has none.
        """
        return StreamingNetwork(self.model)

    def recommend(
        self, users: Sequence[Sequence[ItemId]] | UserStates, k: int = 10, *, exclude_seen: bool = True
    ) -> Recommendations:
        """The best items for each user.

        Args:
            users: histories, or states of `start` and `update`. Of a history the last N items count that the
                network knows.
            k: how many items.
            exclude_seen: whether items that a user has met are left out: all of the history, not its last N
                items alone.

        Raises:
            InputError: `k` is not a whole number of at least 1, an item is not of the type of the data set's
                ids, or seen items are to be left out but the states do not remember them.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k must be a whole number of at least 1, got {k!r}")
        if isinstance(users, UserStates):
            ranked = self._rank_states(users, int(k), exclude_seen)
            unknown: list[list[ItemId]] = [[] for _ in ranked]
        else:
            known, unknown = self._read(users)
            ranked = self._rank_histories(known, int(k), exclude_seen)
        answers = [self._popular(int(k)) if best is None else best for best in ranked]
        own_ids = self._own_ids
        return Recommendations(
            items=[[own_ids[number] for number in numbers] for numbers, _ in answers],
            scores=[scores for _, scores in answers],
            by_popularity=[best is None for best in ranked],
            unknown=unknown,
        )

    def start(self, history: Sequence[ItemId] = (), *, remember_seen: bool = True) -> UserStates:
        """The state of one user after a history, which `update` takes further at a constant cost.

        Args:
            history: from old to new; may be empty.
            remember_seen: whether the state remembers all items that the user meets, V / 8 bytes, so that
                `recommend` can leave them out.

        Raises:
            InputError: the network's attention has no state of fixed size, or an item is of a wrong type.
        """
        return self.start_many([history], remember_seen=remember_seen)

    def start_many(self, histories: Sequence[Sequence[ItemId]], *, remember_seen: bool = True) -> UserStates:
        """The states of many users as one batch; as `start`."""
        return self.streaming.start(self._read(histories)[0], remember_seen=remember_seen)

    def update(self, state: UserStates, item: ItemId | None) -> UserStates:
        """The state after one more item; the state given stays as it is.

        Nothing changes where the item is None or one that the network does not know (see `knows`).

        Raises:
            InputError: the state is of several users or of another network, or the item is of a wrong type.
        """
        return self.update_many(state, [item])

    def update_many(self, states: UserStates, items: Sequence[ItemId | None]) -> UserStates:
        """The states after one more item of each user; as `update`."""
        self._check(states)
        if len(items) != len(states):
            raise InputError(
                f"there must be one item for each user (None for none), got {len(items)} items for "
                f"{len(states)} users"
            )
        numbers = [0 if item is None else self._numbers.get(self._own_id(item), 0) for item in items]
        return self.streaming.update(states, np.array(numbers, dtype=np.int64))

    def knows(self, item: ItemId) -> bool:
        """Whether the network knows an item."""
        return self._own_id(item) in self._numbers

    def states_from_bytes(self, data: bytes) -> UserStates:
        """Read what `UserStates.to_bytes` wrote.

        Raises:
            InputError: the bytes are no states, are damaged, or are those of another version or network.
        """
        return UserStates.from_bytes(data, self.streaming.format)

    def _own_id(self, item: Any) -> ItemId:
        """An item id of the type that the data set's have."""
        if self.items.are_texts and isinstance(item, str):
            return str(item)
        if not self.items.are_texts and isinstance(item, int | np.integer) and not isinstance(item, bool):
            return int(item)
        kind = "texts" if self.items.are_texts else "whole numbers"
        raise InputError(f"the item ids of this network are {kind}, got {item!r} ({type(item).__name__})")

    def _read(self, histories: Any) -> tuple[list[list[int]], list[list[ItemId]]]:
        """The network's item ids of each history, and the items that it does not know."""
        if not isinstance(histories, Iterable):
            raise InputError(
                f"users are given as a list of histories, each a list of item ids, got {histories!r}"
            )
        known, unknown = [], []
        for history in histories:
            own_ids = self._own_ids_of(history)
            numbers = [self._numbers.get(own_id, 0) for own_id in own_ids]
            if 0 in numbers:
                unknown.append([own_id for own_id in own_ids if own_id not in self._numbers])
                numbers = [number for number in numbers if number]
            else:
                unknown.append([])
            known.append(numbers)
        return known, unknown

    def _own_ids_of(self, history: Any) -> list[ItemId]:
        if hasattr(history, "tolist"):  # arrays and series: their elements as Python's
            history = history.tolist()
        if isinstance(history, str | bytes) or not isinstance(history, Iterable):
            raise InputError(
                "users are given as a list of histories, each a list of item ids, but one of these is "
                f"{history!r}"
            )
        own_ids = list(history)
        if set(map(type, own_ids)) <= {self._id_type}:
            return own_ids
        return [self._own_id(item) for item in own_ids]

    def _rank_histories(self, histories: list[list[int]], k: int, exclude_seen: bool) -> list[Best | None]:
        """The best of each user; None for those of whom nothing is known."""
        limit = self.model.max_length
        ranked: list[Best | None] = [None] * len(histories)
        met = [user for user, history in enumerate(histories) if history]
        for start in range(0, len(met), self._users_at_once):
            users = met[start : start + self._users_at_once]
            recent = [histories[user][-limit:] for user in users]
            scores = self._table.scores(self._encoder.outputs(recent))
            if exclude_seen:
                self._exclude(scores, [histories[user] for user in users])
            for user, best in zip(users, best_items(scores, k), strict=True):
                ranked[user] = best
        return ranked

    def _rank_states(self, states: UserStates, k: int, exclude_seen: bool) -> list[Best | None]:
        """As `_rank_histories`."""
        self._check(states)
        if exclude_seen and states.seen is None:
            raise InputError(
                "these states do not remember seen items: start them with remember_seen=True, or recommend "
                "with exclude_seen=False"
            )
        ranked: list[Best | None] = [None] * len(states)
        met = states.phases.nonzero()[0]
        for start in range(0, len(met), self._users_at_once):
            users = met[start : start + self._users_at_once]
            chosen = states if len(users) == len(states) else states.select(users)
            scores = self._table.scores(self.streaming.outputs(chosen).to(self._device))
            if exclude_seen and chosen.seen is not None:
                seen = np.unpackbits(chosen.seen, axis=1, count=scores.shape[1], bitorder="little")
                scores.masked_fill_(torch.from_numpy(seen.view(np.bool_)).to(self._device), -torch.inf)
            for user, best in zip(users.tolist(), best_items(scores, k), strict=True):
                ranked[user] = best
        return ranked

    def _exclude(self, scores: Tensor, histories: list[list[int]]) -> None:
        """Let no item of a history be recommended: -inf in its row of the scores (B, V + 1)."""
        if self._device.type == "cpu":
            # For a single user numpy takes half of torch's time.
            for row, history in zip(scores.numpy(), histories, strict=True):
                row[history] = -np.inf
            return
        width = scores.shape[1]
        seen = np.concatenate([np.array(history) + row * width for row, history in enumerate(histories)])
        scores.view(-1).index_fill_(0, torch.from_numpy(seen).to(self._device), -torch.inf)

    def _check(self, states: UserStates) -> None:
        if states.format != self.streaming.format:
            raise InputError(
                f"these states belong to network {states.format.network[:12]}, not to this one, "
                f"{self.streaming.format.network[:12]}; start them anew from the histories"
            )

    @cached_property
    def _device(self) -> torch.device:
        return self.model.item_embedding.weight.device

    @cached_property
    def _by_popularity(self) -> Int64s:
        """All items, the most popular first; of equals the lower id comes first."""
        return np.argsort(-self.items.training_counts[1:], kind="stable") + 1

    def _popular(self, k: int) -> Best:
        best = self._by_popularity[:k]
        return best.tolist(), self.items.training_counts[best].astype(float).tolist()
