import dataclasses

import pytest
import torch

from easrec.data.batches import validation_batches
from easrec.errors import InputError
from easrec.models.architecture import CandidateSpace
from easrec.nas.alternating import Progress, alternate
from easrec.nas.candidates import IndependentLayer
from easrec.nas.darts import Darts
from easrec.nas.proxylessnas import ProxylessNas, SampledPaths
from easrec.nas.resources import candidate_costs
from easrec.nas.search import SearchConfig
from easrec.nas.supernet import Supernet
from tests.easrec.chains import LENGTH, chains
from tests.randomise import randomise
from tests.reference.relaxation import relaxed_loss

INTENSITIES = (0, 0.25, 0.5, 0.75, 0.875)
SPACE = CandidateSpace(16, 32, 3, 1, INTENSITIES, INTENSITIES, attention="softmax", gate_layers=0)
CONFIG = ProxylessNas().settings(
    SearchConfig(
        max_length=LENGTH,
        search_epochs=2,
        batch_size=32,
        learning_rate=3e-3,
        controller_learning_rate=0.02,
        tradeoff=0.7,
    )
)
START = Progress(0, 10)
BATCH = next(validation_batches(chains(8), LENGTH, 8, seed=0, epoch=0))


def _started(config=CONFIG, space=SPACE):
    supernet = randomise(Supernet(space, 13, LENGTH)).double()
    costs = candidate_costs(space, "flops", LENGTH).double()
    return supernet, costs, ProxylessNas().start(supernet, config, costs)


def _sampled(choosing):
    return [paths.indices.tolist() for paths in choosing._sampled]


def _softmax(values):
    exponentials = [torch.exp(value) for value in values]
    return [value / sum(exponentials) for value in exponentials]


@pytest.mark.parametrize("draw", range(6))
def test_the_gradient_is_the_papers(draw):
    """dL/dg by differences, then sum_j dL/dg_j q_j ((i = j) - q_i) for alpha_i, and the expected cost's."""
    supernet, costs, choosing = _started()
    torch.manual_seed(draw)
    choosing.begin_step(START)
    loss, parts, found = choosing.gradients(BATCH)
    (a, b), (m, n) = _sampled(choosing)
    step = 1e-5

    def at(width_of_b, depth_of_n, width_of_a=1.0, depth_of_m=1.0):
        width, depth = torch.zeros(5, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        width[a], width[b], depth[m], depth[n] = width_of_a, width_of_b, depth_of_m, depth_of_n
        return relaxed_loss(supernet, BATCH, width, depth).item()

    of_gates = {
        "width": [
            (at(0, 0, 1 + step) - at(0, 0, 1 - step)) / (2 * step),
            (at(step, 0) - at(-step, 0)) / (2 * step),
        ],
        "depth": [
            (at(0, 0, 1, 1 + step) - at(0, 0, 1, 1 - step)) / (2 * step),
            (at(0, step) - at(0, -step)) / (2 * step),
        ],
    }
    alpha, beta = (p.detach() for p in supernet.controllers.parameters())
    p, q = torch.stack(_softmax(alpha)), torch.stack(_softmax(beta))
    exits = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    scale = 3 * costs.max()
    assert parts["validation_loss"] == pytest.approx(at(0, 0), rel=1e-9)
    assert parts["resource"] == pytest.approx(((p * costs).sum() * (q * exits).sum() / scale).item())
    assert loss.item() == pytest.approx(parts["validation_loss"] + 0.7 * parts["resource"])
    for gradient, pair, logits, gates, values, other in (
        (found[0], (a, b), alpha, of_gates["width"], costs, (q * exits).sum()),
        (found[1], (m, n), beta, of_gates["depth"], exits, (p * costs).sum()),
    ):
        shares = _softmax(logits[list(pair)])
        every = torch.stack(_softmax(logits))
        together = every[list(pair)].sum()
        expected = torch.zeros_like(logits)
        for i, path in enumerate(pair):
            for j in range(2):
                expected[path] += gates[j] * shares[j] * (float(i == j) - shares[i])
            # Of the expected cost: what the pair can take from one another.
            mean = sum(share * values[one] for share, one in zip(shares, pair, strict=True))
            expected[path] += 0.7 * together * shares[i] * (values[path] - mean) * other / scale
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)


def _counting(monkeypatch):
    """(training, candidate, with a graph) of every candidate layer that is computed."""
    calls, forward = [], IndependentLayer.forward

    def counted(self, candidate, *arguments, **options):
        calls.append((self.training, candidate, torch.is_grad_enabled()))
        return forward(self, candidate, *arguments, **options)

    monkeypatch.setattr(IndependentLayer, "forward", counted)
    return calls


def test_a_weight_step_computes_one_path_and_an_architecture_step_two(monkeypatch):
    calls = _counting(monkeypatch)
    steps = []
    config = dataclasses.replace(CONFIG, controller_interval=1, search_epochs=1)
    loss = Supernet.loss

    def recorded(self, *arguments, **options):
        first = len(calls)
        result = loss(self, *arguments, **options)
        steps.append((self.training, arguments[1].tolist(), arguments[2].tolist(), options, calls[first:]))
        return result

    monkeypatch.setattr(Supernet, "loss", recorded)
    alternate(ProxylessNas(), chains(320), SPACE, config)
    assert len(steps) == 20
    for training, width, depth, options, computed in steps:
        opened, last = width.index(1), depth.index(1)
        assert sorted(width) == [0] * 4 + [1] and sorted(depth) == [0] * 2 + [1]
        if training:
            assert [call[1:] for call in computed] == [(opened, True)] * (last + 1)
            continue
        shut, other_exit = options["shut"]
        assert shut != opened and other_exit != last
        layers = max(last, other_exit) + 1
        assert {call[1] for call in computed} == {opened, shut}
        assert len(computed) == 2 * layers
        # A graph is held of the open path alone.
        assert sum(graph for *_, graph in computed) == last + 1
        assert all(candidate == opened for _, candidate, graph in computed if graph)
    assert len({(tuple(width), tuple(depth)) for _, width, depth, *_ in steps}) > 5


def _held_bytes(gradients):
    """Bytes that the graph of one architecture step holds."""
    sizes = {}

    def hold(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        gradients()
    return sum(sizes.values())


def test_the_memory_of_an_architecture_step_does_not_grow_with_the_candidates_and_that_of_darts_does():
    batch = next(validation_batches(chains(256), LENGTH, 256, seed=0, epoch=0))
    held = {}
    for count in (2, 8):
        inner = tuple(k / 100 for k in range(count))
        space = CandidateSpace(16, 128, 2, 1, (0,) * count, inner, attention="softmax", gate_layers=0)
        supernet = Supernet(space, 13, LENGTH).eval()
        costs = candidate_costs(space, "flops", LENGTH)
        proxyless = ProxylessNas().start(supernet, CONFIG, costs)
        pair = torch.tensor([0, 1])
        proxyless._sampled = SampledPaths(pair, count), SampledPaths(pair.flip(0), 2)
        darts = Darts().start(supernet, Darts().settings(CONFIG), costs)
        held["proxyless", count] = _held_bytes(lambda p=proxyless: p.gradients(batch))
        held["darts", count] = _held_bytes(lambda d=darts: d.gradients(batch))
    assert held["proxyless", 8] < 1.1 * held["proxyless", 2]
    assert held["darts", 8] > 3 * held["darts", 2]
    assert held["proxyless", 2] < 0.75 * held["darts", 2]


def test_a_step_leaves_the_probabilities_of_paths_that_it_did_not_sample():
    supernet, _, choosing = _started()
    optimizer = choosing.optimizer(0.5)
    for draw in range(8):
        torch.manual_seed(draw)
        before = [p.detach().clone() for p in supernet.controllers.probabilities()]
        choosing.begin_step(START)
        _, _, found = choosing.gradients(BATCH)
        supernet.controllers.alpha.grad, supernet.controllers.beta.grad = found
        optimizer.step()
        choosing.end_step()
        for old, new, pair in zip(
            before, supernet.controllers.probabilities(), _sampled(choosing), strict=True
        ):
            others = [path for path in range(len(old)) if path not in pair]
            torch.testing.assert_close(new[others], old[others], rtol=1e-9, atol=1e-12)
            assert (new[pair] - old[pair]).abs().max() > 1e-3


def test_two_different_paths_are_sampled_by_their_probabilities_and_one_of_them_opened_by_its_share():
    logits = torch.tensor([2.0, 0.0, 0.0, -1.0])
    p = torch.softmax(logits, 0)
    torch.manual_seed(0)
    pairs = [SampledPaths.draw(logits).indices.tolist() for _ in range(4000)]
    assert all(len(set(pair)) == 2 for pair in pairs)
    # Without replacement: path j is among two with p_j + sum_i p_i p_j / (1 - p_i).
    for j in range(4):
        expected = p[j] + sum(p[i] * p[j] / (1 - p[i]) for i in range(4) if i != j)
        assert sum(j in pair for pair in pairs) / 4000 == pytest.approx(expected.item(), abs=0.03)
    of_two = [pair for pair in pairs if set(pair) == {0, 1}]
    share = (p[0] / (p[0] + p[1])).item()
    assert sum(pair[0] == 0 for pair in of_two) / len(of_two) == pytest.approx(share, abs=0.03)


def test_the_expected_cost_decides_where_it_outweighs_the_loss():
    config = dataclasses.replace(
        CONFIG, tradeoff=1000.0, search_epochs=30, controller_learning_rate=0.3, controller_interval=1
    )
    small = CandidateSpace(16, 32, 2, 1, (0, 0.875), (0, 0.875), attention="softmax", gate_layers=0)
    result = alternate(ProxylessNas(), chains(96), small, config)
    assert (result.candidate, result.num_layers) == (1, 1)


def test_a_space_of_one_candidate_and_one_layer_has_nothing_to_choose():
    single = CandidateSpace(16, 32, 1, 1, (0,), (0,), attention="softmax", gate_layers=0)
    result = alternate(ProxylessNas(), chains(32), single, CONFIG)
    assert (result.candidate, result.num_layers) == (0, 1)
    assert not result.supernet.controllers.alpha.any()


def test_what_proxylessnas_has_no_use_for_is_refused():
    config = dataclasses.replace(CONFIG, depth_cost="hard")
    with pytest.raises(InputError, match=r"ProxylessNAS has no depth_cost: .* got 'hard'"):
        alternate(ProxylessNas(), chains(32), SPACE, config)
