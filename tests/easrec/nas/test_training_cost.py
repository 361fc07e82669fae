import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from easrec.data.batches import training_batches
from easrec.data.sequences import leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.packing import Packing
from easrec.models.transformer import SequentialRecommender
from easrec.nas.search import SearchConfig, search
from easrec.nas.training_cost import EpochSize, retraining_flops, search_flops, warmup_flops
from easrec.nas.warmup import paths
from easrec.training import training_form

SPACE = CandidateSpace(16, 32, 3, 4, (0, 0.5), (0, 0.5))


def _data(seed=0, users=60):
    return leave_one_out(synthetic_interactions(users, 40, 12, seed=seed))


@given(seed=st.integers(0, 30), max_length=st.integers(1, 30))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("attention", ["linear", "linear_bidirectional"])
def test_the_size_of_an_epoch_is_that_of_its_batches(attention, seed, max_length):
    data = _data(seed, users=20)
    architecture = Architecture(16, 32, 1, 4, attention=attention)
    size = EpochSize.of(data, max_length, architecture)
    form = training_form(architecture)
    sequences = []
    for epoch in range(1, 40):
        batches = list(training_batches(data, max_length, 7, form=form, seed=seed, epoch=epoch))
        assert size.targets == sum(int((batch.targets > 0).sum()) for batch in batches)
        assert size.positions == sum(int((batch.item_ids > 0).sum()) for batch in batches)
        sequences.append(sum(len(batch.item_ids) for batch in batches))
    # Windows are cut at random places: the formula gives the mean, and nothing varies without a cut.
    assert np.mean(sequences) == pytest.approx(size.sequences, rel=0.03, abs=4 * np.std(sequences) / 39**0.5)


@pytest.mark.parametrize(
    "architecture", [Architecture(16, 32, 1, 4, "softmax"), Architecture(24, 40, 3, 2, "softmax")]
)
def test_a_step_costs_what_torch_counts(architecture):
    """Softmax attention over full windows, as its closed form is exact there."""
    items, positions, windows = 30, 12, 5
    network = SequentialRecommender(architecture, items, positions, dropout=0.0).train()
    ids = torch.randint(1, items + 1, (windows, positions))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        outputs = network._encode(ids, Packing(ids > 0))
        logits = outputs @ network.item_embedding.weight[1:].T
        torch.nn.functional.cross_entropy(logits, torch.zeros(len(outputs), dtype=torch.int64)).backward()
    size = EpochSize(windows, windows * positions, windows * positions)
    assert counter.get_total_flops() == 3 * size.forward_flops(architecture, positions, items)


def test_epochs_add_up_and_larger_networks_cost_more():
    data = _data()
    small, large = Architecture(8, 16, 1, 4), Architecture(16, 32, 3, 4)
    assert retraining_flops(small, data, 10, 6) == 2 * retraining_flops(small, data, 10, 3)
    assert retraining_flops(small, data, 10, 1) < retraining_flops(large, data, 10, 1)
    # All candidates, but their outputs are scored once, by the width of the supernet.
    alone = [retraining_flops(SPACE.architecture(k, 3), data, 10, 1) for k in range(2)]
    scores_of_the_small_one = 3 * EpochSize.of(data, 10, SPACE).targets * 2 * data.num_items * 8
    assert warmup_flops(SPACE, data, 10, 1) == pytest.approx(sum(alone) - scores_of_the_small_one)


def test_a_sandwich_costs_its_three_networks():
    data, epochs = _data(), 400
    size = EpochSize.of(data, 10, SPACE)

    def trained(candidate, layers):  # scored by the width of the supernet, whatever its own
        own = retraining_flops(SPACE.architecture(candidate, layers), data, 10, 1)
        missing = SPACE.hidden_size - SPACE.sizes(candidate)[0]
        return own + 3 * size.targets * 2 * data.num_items * missing

    spent = 0.0
    torch.manual_seed(0)
    for _ in range(epochs):
        for width, depth in paths(SPACE, "sandwich"):
            spent += trained(int(width.argmax()), int(depth.argmax()) + 1)
    assert warmup_flops(SPACE, data, 10, epochs, "sandwich") == pytest.approx(spent, rel=0.02)
    alone = CandidateSpace(16, 32, 1, 4, (0,), (0,))
    three = 3 * retraining_flops(alone.architecture(0, 1), data, 10, 1)
    assert warmup_flops(alone, data, 10, 1, "sandwich") == pytest.approx(three)


@pytest.mark.parametrize("interval", [1, 3])
def test_a_search_costs_its_weights_steps_and_its_controllers(interval, monkeypatch):
    data = _data()
    config = SearchConfig(
        max_length=10, warmup_epochs=0, search_epochs=2, batch_size=4, controller_interval=interval
    )
    asked = []
    monkeypatch.setattr("easrec.nas.search.controller_loss", _counting(asked))
    search(data, SPACE, config)
    controllers = search_flops(SPACE, data, config, 2) - warmup_flops(SPACE, data, 10, 2)
    per_layer_position = sum(
        3 * (8 * d * d + 4 * d * d // 4 + 4 * d * f + 6 * d * d + 2 * d * f)
        for d, f in (SPACE.sizes(0), SPACE.sizes(1))
    )
    counted = sum(
        int((ids > 0).sum()) * per_layer_position + len(ids) * 2 * data.num_items * 16 for ids in asked
    )
    frozen = dataclasses.replace(config, warmup_epochs=1, search_weights="freeze")
    assert search_flops(SPACE, data, frozen, 2) == pytest.approx(controllers)
    # The last batch of an epoch is not full, and every few steps an epoch has one of the controllers' less.
    assert controllers == pytest.approx(2 * counted, rel=0.1)


def _counting(asked):
    from easrec.nas.search import controller_loss

    def counted(supernet, batch, config, **settings):
        asked.append(batch.item_ids)
        return controller_loss(supernet, batch, config, **settings)

    return counted
