import numpy as np
import pytest
import torch

from easrec.models.architecture import Architecture
from easrec.models.features import FEATURE_NETWORKS
from easrec.models.transformer import SequentialRecommender
from easrec.serving import history_encoder
from easrec.serving.history_encoder import HistoryEncoder
from tests.randomise import randomise

NUM_ITEMS = 60


def _model(attention="linear", key_norm="column", num_layers=2, max_length=40, gate_layers=2):
    architecture = Architecture(8, 12, num_layers, 2, attention, key_norm, gate_layers)
    return randomise(SequentialRecommender(architecture, NUM_ITEMS, max_length))


def _histories(lengths):
    rng = np.random.default_rng(0)
    return [rng.integers(1, NUM_ITEMS + 1, length).tolist() for length in lengths]


@torch.no_grad()
def _expected(model, histories):
    return torch.cat([model.last_outputs(torch.tensor([history])) for history in histories])


@pytest.mark.parametrize("key_norm", ["column", "row"])
@pytest.mark.parametrize("attention", ["linear", "linear_bidirectional", "softmax"])
@pytest.mark.parametrize(("num_layers", "max_length"), [(1, 5), (2, 40), (3, 150)])
def test_outputs_are_those_of_the_network(num_layers, max_length, attention, key_norm):
    model = _model(attention, key_norm, num_layers, max_length)
    edges = {1, 2, 15, 16, 17, 31, 32, 33, 64, 65, 128, 129, max_length - 1, max_length}
    histories = _histories(sorted(length for length in edges if length <= max_length)[::-1])
    expected = _expected(model, histories)
    encoder = HistoryEncoder(model)
    torch.testing.assert_close(encoder.outputs(histories), expected, rtol=1e-5, atol=1e-5)
    for row, history in enumerate(histories):
        alone = encoder.outputs([history])
        torch.testing.assert_close(alone, expected[row : row + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gate_layers", [0, 1, 2])
def test_outputs_with_every_number_of_gate_layers(gate_layers):
    model, histories = _model(gate_layers=gate_layers), _histories((3, 20, 40))
    torch.testing.assert_close(
        HistoryEncoder(model).outputs(histories), _expected(model, histories), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("attention", ["linear", "softmax"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("kind", ["sasrecf", "fdsa"])
def test_outputs_of_networks_that_read_features(kind, num_layers, attention):
    rng = np.random.default_rng(2)
    # Items with no value, with one, and with several.
    counts = rng.integers(0, 4, NUM_ITEMS + 1)
    values = np.where(np.arange(3) < counts[:, None], rng.integers(1, 8, (NUM_ITEMS + 1, 3)), 0)
    values[0] = 0
    architecture = Architecture(8, 12, num_layers, 2, attention, gate_layers=1)
    network = FEATURE_NETWORKS[kind]
    model = randomise(
        network(architecture, NUM_ITEMS, 40, item_values=torch.from_numpy(values), num_values=7)
    )
    histories = _histories((3, 20, 40))
    expected = _expected(model, histories)
    torch.testing.assert_close(HistoryEncoder(model).outputs(histories), expected, rtol=1e-5, atol=1e-5)
    # It is their features that are read.
    with torch.no_grad():
        model.value_embedding.weight[1:] += 1
    assert not torch.allclose(HistoryEncoder(model).outputs(histories), expected, atol=1e-2)


def test_many_users_are_computed_in_parts(monkeypatch):
    monkeypatch.setattr(history_encoder, "POSITIONS_AT_ONCE", 3 * 16)
    model, histories = _model(), _histories(np.random.default_rng(1).integers(1, 41, 50))
    torch.testing.assert_close(
        HistoryEncoder(model).outputs(histories), _expected(model, histories), rtol=1e-5, atol=1e-5
    )
    assert HistoryEncoder(model).outputs([]).shape == (0, 8)


def test_a_graph_serves_all_histories_of_about_its_length():
    encoder = HistoryEncoder(_model())
    encoder.outputs(_histories(range(1, 41)))
    assert sorted(encoder._sessions) == [16, 32, 40]


def test_outputs_do_not_depend_on_the_number_of_threads():
    model, histories = _model(), _histories((3, 40))
    encoder, threads = HistoryEncoder(model), torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.testing.assert_close(
                encoder.outputs(histories), _expected(model, histories), rtol=1e-5, atol=1e-5
            )
    finally:
        torch.set_num_threads(threads)
