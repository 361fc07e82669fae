import dataclasses

import pytest
import torch

from easrec.data.batches import validation_batches
from easrec.errors import InputError
from easrec.models.architecture import CandidateSpace
from easrec.nas.alternating import Progress, alternate
from easrec.nas.candidates import IndependentLayer
from easrec.nas.controllers import TemperatureSchedule
from easrec.nas.recnas import RecNas
from easrec.nas.resources import candidate_costs, network_flops
from easrec.nas.search import SearchConfig
from easrec.nas.supernet import Supernet
from tests.easrec.chains import LENGTH, chains
from tests.randomise import randomise
from tests.reference.relaxation import relaxed_loss

INTENSITIES = (0, 0.5, 0.75, 0.875)
SPACE = CandidateSpace(16, 32, 3, 1, INTENSITIES, INTENSITIES, attention="softmax", gate_layers=0)
CONFIG = RecNas().settings(
    SearchConfig(
        max_length=LENGTH,
        search_epochs=8,
        batch_size=32,
        learning_rate=3e-3,
        controller_learning_rate=0.1,
        controller_interval=1,
        stable_epochs=10,
        tradeoff=3.0,
    )
)
BATCH = next(validation_batches(chains(8), LENGTH, 8, seed=0, epoch=0))


def _started(method=None, config=CONFIG):
    supernet = randomise(Supernet(SPACE, 13, LENGTH)).double()
    costs = candidate_costs(SPACE, "flops", LENGTH).double()
    return supernet, costs, (method or RecNas()).start(supernet, config, costs)


def _set(supernet, alpha, beta):
    with torch.no_grad():
        supernet.controllers.alpha.copy_(torch.tensor(alpha))
        supernet.controllers.beta.copy_(torch.tensor(beta))


def test_the_loss_and_its_gradient_are_those_of_the_annealed_relaxation_of_what_is_left():
    supernet, costs, choosing = _started()
    choosing.candidates, choosing.depths = [0, 2], [1, 3]
    choosing.begin_step(Progress(4, 10))
    temperature = CONFIG.temperature.at(4, planned_steps=10)
    assert temperature == pytest.approx(0.55)
    loss, parts, found = choosing.gradients(BATCH)

    def value(alpha, beta):
        width, depth = torch.zeros(4, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for weights, logits, left in ((width, alpha, [0, 2]), (depth, beta, [0, 2])):
            exponentials = torch.exp(logits[left] / temperature)
            weights[left] = exponentials / exponentials.sum()
        cost = (width * costs).sum() * (depth * torch.tensor([1.0, 2.0, 3.0])).sum() / (3 * costs.max())
        return (relaxed_loss(supernet, BATCH, width, depth) + 3.0 * cost).item()

    start = [p.detach().clone() for p in supernet.controllers.parameters()]
    assert loss.item() == pytest.approx(value(*start), rel=1e-9)
    assert loss.item() == pytest.approx(parts["validation_loss"] + 3.0 * parts["resource"])
    step = 1e-5
    for which in (0, 1):
        for index in range(len(start[which])):
            values = []
            for sign in (1, -1):
                moved = [p.clone() for p in start]
                moved[which][index] += sign * step
                values.append(value(*moved))
            slope = (values[0] - values[1]) / (2 * step)
            assert found[which][index].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_the_weakest_leave_one_of_each_kind_an_epoch_and_never_come_back():
    supernet, _, choosing = _started()
    _set(supernet, [3.0, -3.0, 2.9, -4.0], [0.0, 0.1, -5.0])
    late = Progress(9, 10)
    choosing.end_epoch(Progress(1, 10))
    assert (choosing.candidates, choosing.depths) == ([0, 1, 2, 3], [1, 2, 3])  # too early
    choosing.end_epoch(late)
    assert (choosing.candidates, choosing.depths) == ([0, 1, 2], [1, 2])
    choosing.end_epoch(late)
    assert choosing.candidates == [0, 2]
    # Now those that have left would be the best by far.
    _set(supernet, [3.0, 50.0, 2.9, 50.0], [0.0, 0.1, 50.0])
    width, depth = choosing.relaxed()
    assert width[1] == width[3] == depth[2] == 0
    assert width.sum().item() == pytest.approx(1) and depth.sum().item() == pytest.approx(1)
    assert choosing.choice() == (0, 2)
    choosing.end_epoch(late)
    assert 1 not in choosing.candidates and 3 not in choosing.candidates and 3 not in choosing.depths
    sampled = choosing.sample(late)
    assert sampled[0][1] == sampled[0][3] == sampled[1][2] == 0


def test_the_last_ones_stay():
    supernet, _, choosing = _started(RecNas(threshold=0.99, prune_from=0.0))
    _set(supernet, [3.0, 2.0, 1.0, 0.0], [2.0, 1.0, 0.0])
    for _ in range(6):
        choosing.end_epoch(Progress(10, 10))
    assert (choosing.candidates, choosing.depths) == ([0], [1])


def test_during_a_search_candidates_leave_and_are_not_computed_any_more(monkeypatch):
    epochs, computed, forward = [], [], IndependentLayer.forward

    def recorded(self, candidate, *arguments, **options):
        computed.append(candidate)
        return forward(self, candidate, *arguments, **options)

    def end_of_epoch(report):
        left = {k for k in range(4) if report.metrics[f"candidate_{k}_probability"] > 0}
        epochs.append((left, set(computed), report.metrics["candidates_left"]))
        computed.clear()

    monkeypatch.setattr(IndependentLayer, "forward", recorded)
    result = alternate(RecNas(), chains(96), SPACE, CONFIG, on_epoch=end_of_epoch)
    lefts = [left for left, *_ in epochs]
    assert len(lefts) == 8 and len(lefts[-1]) < 4
    before = set(range(4))
    for left, used, count in epochs:
        assert left <= before and used <= before and count == len(left)
        before = left
    assert result.candidate in lefts[-1]
    assert [report.metrics["temperature"] for report in result.epochs][-1] == pytest.approx(0.1)


def test_what_the_bound_excludes_has_left_from_the_begin_and_the_rest_can_always_be_derived():
    bound = network_flops(SPACE.architecture(3, 3), LENGTH)
    feasible = [
        (k, n)
        for k in range(4)
        for n in (1, 2, 3)
        if network_flops(SPACE.architecture(k, n), LENGTH) <= bound
    ]
    assert feasible == [(2, 1), (3, 1), (3, 2), (3, 3)]
    config = dataclasses.replace(CONFIG, max_flops=bound)
    supernet, _, choosing = _started(RecNas(threshold=0.9, prune_from=0.0), config)
    assert (choosing.candidates, choosing.depths) == ([2, 3], [1, 2, 3])
    # What they like best, candidate 2 with three layers, is over the bound.
    _set(supernet, [9.0, 8.0, 7.0, -9.0], [-9.0, 0.0, 9.0])
    choosing.end_epoch(Progress(10, 10))
    assert (choosing.candidates, choosing.depths, choosing.choice()) == ([2], [1], (2, 1))
    other, _, keeping = _started(RecNas(threshold=0.9, prune_from=0.0), config)
    _set(other, [0.0, 0.0, 0.0, 0.0], [-9.0, 0.0, 9.0])
    keeping.end_epoch(Progress(10, 10))
    # Without one layer candidate 2 has nothing within the bound, and goes too.
    assert (keeping.candidates, keeping.depths, keeping.choice()) == ([3], [2, 3], (3, 3))


def test_a_resumed_search_knows_who_has_left(tmp_path):
    data = chains(96)
    whole = alternate(RecNas(), data, SPACE, CONFIG)

    class InterruptedError(Exception):
        pass

    def interrupt(report):
        if report.metrics["candidates_left"] < 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        alternate(RecNas(), data, SPACE, CONFIG, checkpoint_dir=tmp_path, on_epoch=interrupt)
    resumed = alternate(RecNas(), data, SPACE, CONFIG, checkpoint_dir=tmp_path)
    assert [e.metrics for e in resumed.epochs] == [e.metrics for e in whole.epochs]


def test_a_schedule_by_rate_is_that_of_the_architecture_steps():
    schedule = TemperatureSchedule(kind="linear", rate=0.05)
    _, _, choosing = _started(config=dataclasses.replace(CONFIG, temperature=schedule))
    choosing.begin_step(Progress(4, 10))
    assert choosing.figures()["temperature"] == pytest.approx(0.8)


def test_settings_that_cannot_be_meant_are_refused():
    with pytest.raises(InputError, match=r"threshold must lie in \[0, 1\), got 1"):
        RecNas(threshold=1)
    with pytest.raises(InputError, match=r"RecNAS has no cost_probabilities: .* got 'sampled'"):
        alternate(RecNas(), chains(32), SPACE, dataclasses.replace(CONFIG, cost_probabilities="sampled"))
