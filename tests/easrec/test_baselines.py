import dataclasses

import numpy as np
import pytest
import torch

from easrec.baselines import attention_dropout_of, baseline_architecture, build_baseline, train_baseline
from easrec.data.feature_table import FeatureTable
from easrec.errors import InputError
from easrec.evaluation.profile import ProfileConfig, profile_network
from easrec.evaluation.protocols import evaluate
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.saving import save_network
from easrec.retrain import RetrainConfig, retrain
from easrec.training import state_digest
from tests.easrec.chains import LENGTH, STATES, chains

NETWORK = Architecture(16, 32, 1, 2, "softmax", gate_layers=0)
BASELINES = ["sasrec", "sasrecf", "fdsa"]


def _features():
    """A value for whether a state is even, one for the class items; state 1 says nothing."""
    values = np.zeros((STATES + 4, 1), dtype=np.int64)
    values[2 : STATES + 1, 0] = 1 + np.arange(2, STATES + 1) % 2
    values[STATES + 1 :, 0] = 3
    return FeatureTable("kind", values, 3)


def _config(**changes):
    settings = {"max_length": LENGTH, "max_epochs": 3, "batch_size": 32, "learning_rate": 3e-3}
    return RetrainConfig(**(settings | changes))


def _train(baseline, data, config, **options):
    features = None if baseline == "sasrec" else _features()
    return train_baseline(baseline, NETWORK, data, config, features=features, **options)


@pytest.mark.parametrize("baseline", BASELINES)
def test_training_repeats_exactly_resumes_exactly_and_depends_on_its_seed(baseline, tmp_path):
    data = chains(64)
    whole = _train(baseline, data, _config())
    other = _train(baseline, data, _config(seed=1))
    assert state_digest(other.model) != state_digest(whole.model)

    class InterruptedError(Exception):
        pass

    def interrupt(report):
        if report.epoch == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        _train(baseline, data, _config(), checkpoint_dir=tmp_path, on_epoch=interrupt)
    torch.rand(3)
    resumed = _train(baseline, data, _config(), checkpoint_dir=tmp_path)
    assert state_digest(resumed.model) == state_digest(whole.model)
    assert [e.metrics for e in resumed.epochs] == [e.metrics for e in whole.epochs]


def test_sasrec_is_the_network_of_its_architecture():
    data = chains(64)
    found = _train("sasrec", data, _config()).model
    assert state_digest(found) == state_digest(retrain(NETWORK, data, _config()).model)


@pytest.mark.slow
@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_learns_and_is_evaluated_under_every_protocol(baseline):
    data = chains(400)
    result = _train(baseline, data, _config(max_epochs=60, dropout=0.1, learning_rate=5e-3, patience=60))
    found = evaluate(result.model.scores, data, "test", max_length=LENGTH, cutoffs=(1,))
    assert found["full/recall_at_1"] > 0.9


def test_a_baseline_of_features_is_profiled_like_any_network(tmp_path):
    data = chains(32)
    save_network(_train("fdsa", data, _config(max_epochs=1)).model, tmp_path)
    profile = profile_network(tmp_path, data, ProfileConfig(warmup=1, repeats=3, passes=1, train_steps=1))
    assert 0 < profile.latency_ms_p50 <= profile.latency_ms_p95
    assert profile.train_peak_memory_mib > 0


def test_checkpoints_of_other_features_are_refused(tmp_path):
    data, config = chains(32), _config(max_epochs=1)
    _train("sasrecf", data, config, checkpoint_dir=tmp_path)
    values = _features().values[:, [0]].copy()
    values[3] = 3
    changed = FeatureTable("kind", values, 3)
    with pytest.raises(InputError, match="belongs to a run with other settings or other data"):
        train_baseline("sasrecf", NETWORK, data, config, features=changed, checkpoint_dir=tmp_path)


def test_no_test_item_reaches_training():
    data = chains(64)
    marked = data.items.copy()
    marked[data.test.positions] = 1 + marked[data.test.positions] % 13
    planted = dataclasses.replace(data, items=marked)
    found, expected = (_train("fdsa", d, _config()) for d in (planted, data))
    assert state_digest(found.model) == state_digest(expected.model)


def test_attention_dropout_drops_weights_of_softmax_attention_in_training_alone():
    def network(share):
        torch.manual_seed(0)
        return build_baseline("sasrec", NETWORK, 13, LENGTH, 0.0, attention_dropout=share)

    item_ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    dropped, whole = network(0.5), network(0.0)
    torch.testing.assert_close(dropped.eval()(item_ids), whole.eval()(item_ids), rtol=0, atol=0)
    dropped.train()
    one, other = dropped(item_ids), dropped(item_ids)
    assert (one - other).abs().max() > 1e-3
    torch.testing.assert_close(whole.train()(item_ids), whole.eval()(item_ids), rtol=1e-6, atol=1e-6)


def test_sizes_are_those_of_linrec_or_of_the_space():
    space = CandidateSpace(128, 256, 4, 4, (0, 0.5), (0, 0.5))
    assert baseline_architecture(space) == Architecture(128, 256, 2, 8, "softmax", gate_layers=0)
    assert baseline_architecture(space, attention="linear", size="supernet") == Architecture(
        128, 256, 4, 4, "linear", gate_layers=0
    )
    assert attention_dropout_of("linrec", "softmax") == 0.2
    assert attention_dropout_of("linrec", "linear") == attention_dropout_of("supernet", "softmax") == 0.0
    narrow = CandidateSpace(12, 256, 4, 4, (0,), (0,))
    with pytest.raises(InputError, match="hidden_size must be a multiple of num_heads, got hidden_size=12"):
        baseline_architecture(narrow)
    with pytest.raises(InputError, match=r"size must be one of .*, got 'large'"):
        baseline_architecture(space, size="large")


@pytest.mark.parametrize(
    ("baseline", "features", "message"),
    [
        ("sasrec", _features(), "sasrec reads no features"),
        ("fdsa", None, "fdsa reads features of items, and the data set has none"),
        ("gru4rec", None, "baseline must be one of sasrec, sasrecf, fdsa, got 'gru4rec'"),
        (
            "sasrecf",
            FeatureTable("kind", np.zeros((3, 1), dtype=np.int64), 1),
            "the features 'kind' are of 2 items, but the data have 13",
        ),
    ],
)
def test_a_baseline_that_cannot_be_built_is_refused(baseline, features, message):
    with pytest.raises(InputError, match=message):
        train_baseline(baseline, NETWORK, chains(32), _config(), features=features)
