import dataclasses

import pytest
import torch

from easrec.data.batches import validation_batches
from easrec.errors import InputError
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.nas.alternating import alternate
from easrec.nas.candidates import IndependentLayer
from easrec.nas.darts import Darts
from easrec.nas.resources import candidate_costs
from easrec.nas.search import SearchConfig
from easrec.nas.supernet import Supernet
from tests.easrec.chains import LENGTH, chains
from tests.randomise import randomise
from tests.reference.relaxation import relaxed_loss

SPACE = CandidateSpace(16, 32, 2, 1, (0, 0.875), (0, 0.875), attention="softmax", gate_layers=0)
CONFIG = Darts().settings(
    SearchConfig(
        max_length=LENGTH,
        search_epochs=2,
        batch_size=32,
        learning_rate=3e-3,
        controller_learning_rate=0.02,
    )
)


def _started():
    supernet = randomise(Supernet(SPACE, 13, LENGTH)).double()
    batch = next(validation_batches(chains(8), LENGTH, 8, seed=0, epoch=0))
    choosing = Darts().start(supernet, CONFIG, candidate_costs(SPACE, "flops", LENGTH))
    return supernet, batch, choosing


def test_the_loss_is_that_of_the_plain_relaxation():
    supernet, batch, choosing = _started()
    p, q = torch.softmax(supernet.controllers.alpha, 0), torch.softmax(supernet.controllers.beta, 0)
    loss, parts, _ = choosing.gradients(batch)
    expected = relaxed_loss(supernet, batch, p, q)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    assert parts == {"validation_loss": loss.item()}


def test_the_architecture_gradient_equals_finite_differences():
    supernet, batch, choosing = _started()
    _, _, found = choosing.gradients(batch)
    step = 1e-5
    for gradient, logits in zip(found, supernet.controllers.parameters(), strict=True):
        for index in range(len(logits)):
            values = []
            for sign in (1, -1):
                moved = [p.detach().clone() for p in supernet.controllers.parameters()]
                for one, parameter in zip(moved, supernet.controllers.parameters(), strict=True):
                    if parameter is logits:
                        one[index] += sign * step
                width, depth = (torch.softmax(one, 0) for one in moved)
                values.append(relaxed_loss(supernet, batch, width, depth).item())
            slope = (values[0] - values[1]) / (2 * step)
            assert gradient[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_every_candidate_and_exit_takes_part_in_every_step(monkeypatch):
    computed = {True: 0, False: 0}
    forward = IndependentLayer.forward

    def counted(self, *arguments, **options):
        computed[self.training] += 1
        return forward(self, *arguments, **options)

    monkeypatch.setattr(IndependentLayer, "forward", counted)
    alternate(Darts(), chains(96), SPACE, dataclasses.replace(CONFIG, search_epochs=1))
    steps = 3
    assert computed == {True: steps * 4, False: steps * 4}


def test_an_architecture_step_comes_before_each_weight_step_on_other_data(monkeypatch):
    turns, data = [], chains(96)
    loss = Supernet.loss

    def recorded(self, batch, *arguments):
        turns.append((self.training, batch.last_only))
        return loss(self, batch, *arguments)

    monkeypatch.setattr(Supernet, "loss", recorded)
    alternate(Darts(), data, SPACE, dataclasses.replace(CONFIG, search_epochs=1))
    assert turns == [(False, True), (True, False)] * 3


def test_the_argmax_is_derived_and_no_warm_up_is_needed():
    result = alternate(Darts(), chains(96), SPACE, CONFIG)
    controllers = result.supernet.controllers
    assert result.candidate == int(controllers.alpha.argmax())
    assert result.num_layers == int(controllers.beta.argmax()) + 1
    assert result.architecture == SPACE.architecture(result.candidate, result.num_layers)
    assert result.architecture.attention == "softmax" and result.architecture.gate_layers == 0
    assert [report.stage for report in result.epochs] == ["search", "search"]


def test_weight_decay_pulls_the_controllers_to_zero():
    data = chains(96)
    free, held = (alternate(Darts(weight_decay=decay), data, SPACE, CONFIG) for decay in (0.0, 100.0))
    sizes = [result.supernet.controllers.alpha.abs().max().item() for result in (free, held)]
    assert sizes[1] < 0.8 * sizes[0]


def test_what_darts_has_no_use_for_is_refused():
    data = chains(32)
    with pytest.raises(InputError, match=r"DARTS has no resource term: tradeoff must be 0, got 0\.1"):
        alternate(Darts(), data, SPACE, SearchConfig(max_length=LENGTH))
    frozen = dataclasses.replace(CONFIG, search_weights="freeze", warmup_epochs=1)
    with pytest.raises(InputError, match=r"DARTS has no search_weights: leave it .* got 'freeze'"):
        alternate(Darts(), data, SPACE, frozen)
    with pytest.raises(InputError, match=r"weight_decay must be .* at least 0, got -1"):
        Darts(weight_decay=-1)


def test_a_bound_holds_for_what_is_derived():
    smallest = Architecture(2, 4, 1, 1, "softmax", gate_layers=0)
    config = dataclasses.replace(CONFIG, max_flops=2_000, search_epochs=1)
    assert alternate(Darts(), chains(32), SPACE, config).architecture == smallest
