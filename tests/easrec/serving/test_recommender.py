import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from easrec.data.items import Items
from easrec.errors import InputError
from easrec.models.architecture import Architecture
from easrec.models.transformer import SequentialRecommender
from easrec.serving import Recommender, UserStates, recommender, save_bundle
from tests.randomise import randomise

NUM_ITEMS = 30
MAX_LENGTH = 6
RNG = np.random.default_rng(0)
COUNTS = np.concatenate([[0], RNG.integers(0, 9, NUM_ITEMS)])
NUMBERS = np.concatenate([[-1], RNG.permutation(1000)[:NUM_ITEMS]])
TEXTS = np.array(["", *(f"item {number}" for number in NUMBERS[1:])], dtype=object)


def _recommender(own_ids=NUMBERS, *, attention="linear", num_layers=2, seed=0, **settings):
    architecture = Architecture(8, 12, num_layers, 2, attention)
    model = randomise(SequentialRecommender(architecture, NUM_ITEMS, MAX_LENGTH), seed=seed)
    return Recommender(model, Items(own_ids, COUNTS), **settings)


def _history(*numbers, own_ids=NUMBERS):
    """Own ids of the network's item ids."""
    return own_ids[list(numbers)].tolist()


@torch.no_grad()
def _expected(service, history, k, exclude_seen=True):
    """Item ids and scores by the network itself and a sort."""
    own_ids = service.items.own_ids.tolist()
    numbers = [own_ids.index(item) for item in history if item in own_ids[1:]]
    recent = torch.tensor([numbers[-MAX_LENGTH:]])
    scores = service.model.scores(recent, torch.tensor([recent.shape[1]]))[0].tolist()
    allowed = [n for n in range(1, NUM_ITEMS + 1) if not (exclude_seen and n in numbers)]
    best = sorted(allowed, key=lambda number: (-scores[number], number))[:k]
    return [own_ids[number] for number in best], [scores[number] for number in best]


def _assert_answers(service, found, histories, k, exclude_seen=True):
    for user, history in enumerate(histories):
        items, scores = _expected(service, history, k, exclude_seen)
        assert found.items[user] == items
        assert found.scores[user] == pytest.approx(scores, abs=1e-4)
        assert not found.by_popularity[user]


@pytest.mark.parametrize("attention", ["linear", "linear_bidirectional", "softmax"])
@pytest.mark.parametrize("own_ids", [NUMBERS, TEXTS], ids=["numbers", "texts"])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_recommendations_are_the_best_items_by_the_networks_scores(own_ids, attention, exclude_seen):
    service = _recommender(own_ids, attention=attention)
    histories = [
        _history(*numbers, own_ids=own_ids) for numbers in ([3], [5, 5, 1], range(30, 2, -2), [9, 8])
    ]
    found = service.recommend(histories, 7, exclude_seen=exclude_seen)
    _assert_answers(service, found, histories, 7, exclude_seen)
    assert found.unknown == [[], [], [], []]
    json.dumps([found.items, found.scores, found.by_popularity])  # nothing of numpy in it


def test_all_of_a_history_is_left_out_and_its_last_items_are_read():
    service = _recommender()
    long = _history(*range(1, 26))
    found = service.recommend([long], NUM_ITEMS)
    assert sorted(found.items[0]) == sorted(_history(*range(26, 31)))
    _assert_answers(service, found, [long], NUM_ITEMS)
    everything = service.recommend([_history(*range(1, 31))])
    assert (everything.items, everything.scores) == ([[]], [[]])
    assert everything.by_popularity == [False]


def test_unknown_items_are_passed_over_and_reported():
    service = _recommender()
    history = [-5, *_history(4, 7), 100_000, *_history(9), -5, -1]
    found = service.recommend([history, _history(4, 7, 9)])
    assert found.unknown == [[-5, 100_000, -5, -1], []]
    assert found.items[0] == found.items[1]
    assert found.scores[0] == found.scores[1]
    texts = _recommender(TEXTS).recommend([["", "nothing", TEXTS[3]]])
    assert texts.unknown == [["", "nothing"]]
    assert [service.knows(item) for item in (int(NUMBERS[1]), -1, -5)] == [True, False, False]


def test_unknown_items_do_not_take_the_place_of_known_ones():
    """The last N known items count, however many unknown ones lie between them."""
    service = _recommender()
    known = _history(*range(1, 8))
    mixed = [item for own_id in known for item in (own_id, -7)]
    assert service.recommend([mixed]).scores == service.recommend([known]).scores


def test_users_of_whom_nothing_is_known_get_what_is_popular_in_training():
    service = _recommender()
    found = service.recommend([[], _history(3), [-5, -6]], 12)
    order = sorted(range(1, NUM_ITEMS + 1), key=lambda number: (-COUNTS[number], number))[:12]
    for user in (0, 2):
        assert found.items[user] == _history(*order)
        assert found.scores[user] == COUNTS[order].tolist()
    assert found.by_popularity == [True, False, True]
    assert found.unknown == [[], [], [-5, -6]]
    _assert_answers(service, service.recommend([_history(3)], 12), [_history(3)], 12)
    states = service.start_many([[], _history(3)])
    assert service.recommend(states, 12).items == found.items[:2]
    assert len(service.recommend([[]], 500).items[0]) == NUM_ITEMS
    assert service.recommend([]).items == []
    assert service.recommend(service.start_many([])).items == []


def test_ties_come_in_the_order_of_the_networks_item_ids():
    service = _recommender()
    with torch.no_grad():
        service.model.item_embedding.weight[11:21] = service.model.item_embedding.weight[11]
    tied = Recommender(service.model, service.items)
    items = tied.recommend([_history(3)], NUM_ITEMS).items[0]
    numbers = [NUMBERS.tolist().index(item) for item in items if item in NUMBERS[11:21]]
    assert numbers == list(range(11, 21))


def test_ids_may_come_as_arrays_series_and_numpy_scalars():
    service, history = _recommender(), _history(4, 7, 9)
    expected = service.recommend([history])
    forms = [
        np.array(history),
        np.array(history, dtype=np.int32),
        pd.Series(history),
        tuple(np.int16(item) for item in history),
        np.array(history, dtype=object),
    ]
    for form in forms:
        assert service.recommend([form]) == expected
        assert service.recommend(service.start(form)).items == expected.items
    state = service.update(service.start(history[:2]), np.int64(history[2]))
    assert service.recommend(state).items == expected.items
    texts = np.array(_history(4, 7, 9, own_ids=TEXTS))  # numpy's own texts
    of_texts = _recommender(TEXTS)
    assert of_texts.recommend([texts]) == of_texts.recommend([texts.tolist()])
    assert of_texts.recommend([list(texts)]) == of_texts.recommend([texts.tolist()])


@pytest.mark.parametrize("wrong", [3.0, np.float64(3), "3", None, True, b"3", (3,)])
def test_ids_of_a_wrong_type_are_refused(wrong):
    service = _recommender()
    with pytest.raises(InputError, match=r"item ids of this network are whole numbers, got .*\("):
        service.recommend([[*_history(4), wrong]])
    with pytest.raises(InputError, match="item ids of this network are whole numbers"):
        service.start([wrong])
    if wrong is not None:
        with pytest.raises(InputError, match="item ids of this network are whole numbers"):
            service.update(service.start(), wrong)
        with pytest.raises(InputError, match="item ids of this network are whole numbers"):
            service.knows(wrong)


@pytest.mark.parametrize("wrong", [3, 3.0, None, True, b"item 3"])
def test_ids_that_are_no_texts_are_refused_where_ids_are_texts(wrong):
    with pytest.raises(InputError, match=r"item ids of this network are texts, got .*\("):
        _recommender(TEXTS).recommend([[wrong]])


@pytest.mark.parametrize("wrong", [[3, 4], ["item 3"], "item 3", [None], 7])
def test_what_is_no_list_of_histories_is_refused(wrong):
    with pytest.raises(InputError, match="users are given as a list of histories, each a list of item ids"):
        _recommender().recommend(wrong)


@pytest.mark.parametrize("k", [0, -1, 1.0, True, "10", None])
def test_k_that_is_no_number_of_items_is_refused(k):
    service = _recommender()
    with pytest.raises(InputError, match="k must be a whole number of at least 1, got"):
        service.recommend([_history(3)], k)
    assert len(service.recommend([_history(3)], np.int64(2)).items[0]) == 2


def test_foreign_items_and_unknown_tables_are_refused():
    model = _recommender().model
    with pytest.raises(InputError, match="the network ranks 30 items, but the list of items has 29"):
        Recommender(model, Items(NUMBERS[:-1], COUNTS[:-1]))
    with pytest.raises(InputError, match="item_table must be one of"):
        Recommender(model, Items(NUMBERS, COUNTS), item_table="float8")


def test_a_model_in_training_mode_answers_without_dropout():
    service = _recommender()
    expected = service.recommend([_history(3, 4)])
    again = Recommender(service.model.train(), service.items)
    assert again.recommend([_history(3, 4)]) == expected
    assert again.recommend(again.start(_history(3, 4))).items == expected.items


histories = st.lists(st.integers(1, NUM_ITEMS) | st.just(0), max_size=15)


@settings(deadline=None, max_examples=40)
@given(st.lists(histories, max_size=5), st.integers(1, NUM_ITEMS), st.booleans())
def test_users_of_a_batch_are_answered_as_alone(numbers, k, exclude_seen):
    """0 stands for an item that the network does not know."""
    users = [[int(NUMBERS[number]) for number in history] for history in numbers]
    found = SERVICE.recommend(users, k, exclude_seen=exclude_seen)
    for user, history in enumerate(users):
        alone = SERVICE.recommend([history], k, exclude_seen=exclude_seen)
        assert found.items[user] == alone.items[0]
        assert found.scores[user] == pytest.approx(alone.scores[0], abs=1e-5)
        assert found.by_popularity[user] == alone.by_popularity[0] == (not any(numbers[user]))
        assert found.unknown[user] == alone.unknown[0] == [-1] * numbers[user].count(0)


SERVICE = _recommender()


def test_large_batches_are_scored_in_parts(monkeypatch):
    users = [_history(*np.random.default_rng(user).integers(1, 31, user % 7)) for user in range(50)]
    whole = _recommender().recommend(users)
    monkeypatch.setattr(recommender, "SCORES_AT_ONCE", 4 * 31)
    service = _recommender()
    largest = []
    monkeypatch.setattr(
        service._table,
        "scores",
        lambda outputs, scores=service._table.scores: _noted(scores(outputs), largest),
    )
    parts = service.recommend(users)
    assert parts.items == whole.items
    assert (parts.by_popularity, parts.unknown) == (whole.by_popularity, whole.unknown)
    assert service.recommend(service.start_many(users)).items == whole.items
    assert max(largest) == 4


def _noted(scores, sizes):
    sizes.append(len(scores))
    return scores


@pytest.mark.parametrize("num_layers", [1, 3])
def test_a_state_is_answered_as_its_history(num_layers):
    service = _recommender(num_layers=num_layers)
    history = _history(4, 17, 4, 25, 9, 30)
    state = service.start()
    for end, item in enumerate(history, 1):
        state = service.update(state, item)
        for exclude_seen in (True, False):
            found = service.recommend(state, 9, exclude_seen=exclude_seen)
            _assert_answers(service, found, [history[:end]], 9, exclude_seen)
            assert found.unknown == [[]]


def test_past_max_length_all_items_ever_met_are_left_out():
    service = _recommender()
    history = _history(*range(1, 21))
    state = service.start(history)
    assert sorted(service.recommend(state, NUM_ITEMS).items[0]) == sorted(_history(*range(21, 31)))
    updated = service.start()
    for item in history:
        updated = service.update(updated, item)
    assert service.recommend(updated, NUM_ITEMS).items == service.recommend(state, NUM_ITEMS).items


def test_many_users_are_updated_as_each_alone():
    service = _recommender()
    users = [_history(1, 2), [], _history(*range(5, 15)), _history(3)]
    states = service.start_many(users)
    for items in ([int(NUMBERS[7]), int(NUMBERS[8]), None, -77], [None, -77, int(NUMBERS[1]), None]):
        states = service.update_many(states, items)
        for history, item in zip(users, items, strict=True):
            history.extend([item] if item is not None else [])
    found, alone = service.recommend(states), [service.recommend(service.start(user)) for user in users]
    assert found.items == [answer.items[0] for answer in alone]
    assert found.by_popularity == [False] * 4
    with pytest.raises(InputError, match=r"one item for each user .* got 2 items for 4 users"):
        service.update_many(states, [None, None])
    with pytest.raises(InputError, match="one item for each user"):
        service.update(states, int(NUMBERS[1]))


def test_states_that_do_not_remember_cannot_leave_seen_items_out():
    service = _recommender()
    state = service.start(_history(3, 4), remember_seen=False)
    with pytest.raises(
        InputError, match=r"do not remember seen items.*remember_seen=True.*exclude_seen=False"
    ):
        service.recommend(state)
    found = service.recommend(state, 5, exclude_seen=False)
    _assert_answers(service, found, [_history(3, 4)], 5, exclude_seen=False)


def test_stored_states_go_on():
    service = _recommender()
    state = service.start(_history(*range(1, 9)))
    again = service.states_from_bytes(state.to_bytes())
    assert service.recommend(again) == service.recommend(state)
    with pytest.raises(InputError, match=r"belong to network .* not to the one in use"):
        _recommender(seed=1).states_from_bytes(state.to_bytes())
    for foreign in (_recommender(seed=1), _recommender(num_layers=1)):
        with pytest.raises(InputError, match=r"these states belong to network .* not to this one"):
            foreign.update(state, int(NUMBERS[1]))
        with pytest.raises(InputError, match=r"these states belong to network .* not to this one"):
            foreign.recommend(state)


@pytest.mark.parametrize("attention", ["softmax", "linear_bidirectional"])
def test_attention_without_states_is_refused(attention):
    service = _recommender(attention=attention)
    with pytest.raises(InputError, match=r"has no state of fixed size.*use recommend\(histories\)"):
        service.start(_history(3))
    state = _recommender().start(_history(3))
    with pytest.raises(InputError, match="has no state of fixed size"):
        service.recommend(state)


@pytest.mark.parametrize("item_table", ["float32", "float16", "int8"])
def test_a_bundle_is_served_with_every_item_table(item_table, tmp_path):
    service = _recommender(TEXTS)
    save_bundle(tmp_path / "bundle", service.model, service.items)
    loaded = Recommender.load(tmp_path / "bundle", item_table=item_table)
    users = [_history(3, 4, own_ids=TEXTS), _history(*range(1, 12), own_ids=TEXTS), []]
    expected, found = service.recommend(users, 20), loaded.recommend(users, 20)
    assert found.by_popularity == expected.by_popularity
    assert found.items[2] == expected.items[2]
    tolerance = {"float32": 1e-5, "float16": 0.01, "int8": 0.2}[item_table]
    for user in (0, 1):
        assert found.scores[user] == pytest.approx(expected.scores[user], abs=tolerance)
    assert isinstance(loaded.start(users[0]), UserStates)
    with pytest.raises(InputError):
        Recommender.load(tmp_path / "nothing")
