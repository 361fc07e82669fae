import dataclasses
import hashlib
import json

import numpy as np
import pytest

from easrec.errors import InputError
from easrec.models.architecture import Architecture
from easrec.models.transformer import SequentialRecommender
from easrec.serving.states import FORMAT_VERSION, MAGIC, UserStates
from easrec.serving.streaming import StreamingNetwork
from tests.randomise import randomise

HISTORIES = [[1, 2, 3], [], [20, 4, 4, 9, 7, 1, 2]]


def _streaming(seed=0, num_layers=2, key_norm="column"):
    architecture = Architecture(8, 12, num_layers, 2, key_norm=key_norm)
    return StreamingNetwork(randomise(SequentialRecommender(architecture, 20, 5), seed=seed))


def _assert_equal(first, second):
    assert first.format == second.format
    for field in dataclasses.fields(UserStates):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if field.name in ("sums", "squares"):
            assert len(one) == len(other)
            assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))
        elif field.name != "format":
            assert (one is None and other is None) or (
                np.array_equal(one, other) and one.dtype == other.dtype
            )


@pytest.mark.parametrize("remember_seen", [True, False])
@pytest.mark.parametrize("key_norm", ["column", "row"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_states_come_back_from_bytes(num_layers, key_norm, remember_seen):
    network = _streaming(num_layers=num_layers, key_norm=key_norm)
    states = network.start(HISTORIES, remember_seen=remember_seen)
    again = UserStates.from_bytes(states.to_bytes(), network.format)
    _assert_equal(again, states)
    _assert_equal(network.update(again, np.array([3, 0, 1])), network.update(states, np.array([3, 0, 1])))
    none = network.start([], remember_seen=remember_seen)
    _assert_equal(UserStates.from_bytes(none.to_bytes(), network.format), none)


def test_the_size_of_a_state_does_not_depend_on_its_history():
    network = _streaming()
    sizes = {len(network.start([[7] * length]).to_bytes()) for length in (0, 1, 5, 6, 300)}
    assert len(sizes) == 1
    forgetful = len(network.start([[7]], remember_seen=False).to_bytes())
    # "false" is a letter longer than "true"; 20 items and the padding are 3 bytes of bits
    assert sizes == {forgetful + 3 - 1}


def test_bytes_are_little_endian_and_of_a_fixed_layout():
    """Read by hand, as a program in another language would."""
    states = _streaming().start(HISTORIES)
    data = states.to_bytes()
    assert data[: len(MAGIC)] == MAGIC
    size = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 4], "little")
    start = len(MAGIC) + 4 + size
    header = json.loads(data[len(MAGIC) + 4 : start])
    assert header["num_users"] == 3
    assert header["format_version"] == FORMAT_VERSION == 1
    assert np.frombuffer(data, "<i8", 3, start).tolist() == states.phases.tolist()
    sums = np.frombuffer(data, "<f4", 2 * 3 * 2 * 2 * 4 * 4, start + 24)
    assert np.array_equal(sums.reshape(2, 3, 2, 2, 4, 4), np.stack(states.sums))
    assert data[-32:] == hashlib.sha256(data[:-32]).digest()


def test_damaged_bytes_are_refused():
    network = _streaming()
    data = network.start(HISTORIES).to_bytes()
    for position in (len(MAGIC), len(MAGIC) + 10, len(data) // 2, len(data) - 1):
        damaged = bytearray(data)
        damaged[position] ^= 1
        with pytest.raises(InputError, match=r"the stored states are damaged.*start them anew"):
            UserStates.from_bytes(bytes(damaged), network.format)
    for size in (len(MAGIC), len(MAGIC) + 1, len(data) - 1):
        with pytest.raises(InputError, match="the stored states are damaged"):
            UserStates.from_bytes(data[:size], network.format)
    for other in (b"", b"PK\x03\x04 something else", data[1:]):
        with pytest.raises(InputError, match="these bytes are not states"):
            UserStates.from_bytes(other, network.format)


def test_states_of_another_network_are_refused():
    data = _streaming(seed=0).start(HISTORIES).to_bytes()
    for other in (_streaming(seed=1), _streaming(num_layers=1), _streaming(key_norm="row")):
        with pytest.raises(InputError, match=r"belong to network [0-9a-f]{12}, not to the one in use"):
            UserStates.from_bytes(data, other.format)
    assert len(UserStates.from_bytes(data, _streaming(seed=0).format)) == 3


def test_states_of_another_version_are_refused(monkeypatch):
    network = _streaming()
    monkeypatch.setattr("easrec.serving.states.FORMAT_VERSION", 2)
    data = network.start(HISTORIES).to_bytes()
    monkeypatch.undo()
    with pytest.raises(InputError, match="are of format version 2, and this easrec reads version 1"):
        UserStates.from_bytes(data, network.format)


def test_a_batch_is_taken_apart_and_put_together():
    network = _streaming()
    states = network.start(HISTORIES)
    parts = [states.select([user]) for user in range(3)]
    _assert_equal(UserStates.concatenate(parts), states)
    _assert_equal(states.select([2, 0]), UserStates.concatenate([parts[2], parts[0]]))
    assert len(states.select([])) == 0
    replaced = states.with_users(np.array([1]), parts[0])
    _assert_equal(replaced, UserStates.concatenate([parts[0], parts[0], parts[2]]))


def test_states_that_do_not_fit_together_are_refused():
    network = _streaming()
    states = network.start(HISTORIES)
    with pytest.raises(InputError, match="no states to concatenate"):
        UserStates.concatenate([])
    with pytest.raises(InputError, match="states of different networks cannot be one batch"):
        UserStates.concatenate([states, _streaming(seed=1).start(HISTORIES)])
    with pytest.raises(InputError, match="with the same remember_seen"):
        UserStates.concatenate([states, network.start(HISTORIES, remember_seen=False)])
