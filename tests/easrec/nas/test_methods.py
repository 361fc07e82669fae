import pytest

from easrec.errors import InputError
from easrec.models.architecture import CandidateSpace
from easrec.nas.methods import first_weights, method_settings, method_space, search_by
from easrec.nas.search import SearchConfig, search
from easrec.training import state_digest
from tests.easrec.chains import LENGTH, chains

SPACE = CandidateSpace(16, 32, 2, 1, (0, 0.875), (0, 0.875))
CONFIG = SearchConfig(max_length=LENGTH, warmup_epochs=1, search_epochs=1, batch_size=32)
METHODS = ["easrec", "darts", "proxylessnas", "recnas"]


def test_each_name_runs_its_own_search_from_the_same_config():
    data, digests = chains(64), {}
    for method in METHODS:
        space, config = method_space(method, SPACE), method_settings(method, CONFIG)
        result = search_by(method, data, space, config)
        digests[method] = state_digest(result.supernet)
        assert space.candidate_of(result.architecture) == result.candidate
        assert (result.architecture.gate_layers == 0) == (method != "easrec")
    assert len(set(digests.values())) == 4
    assert digests["easrec"] == state_digest(search(data, SPACE, CONFIG).supernet)


def test_the_settings_are_those_of_the_papers():
    darts = method_settings("darts", CONFIG)
    assert (darts.tradeoff, darts.controller_interval, darts.warmup_epochs) == (0, 1, 0)
    assert method_settings("proxylessnas", CONFIG).tradeoff == CONFIG.tradeoff
    assert method_settings("easrec", CONFIG) == CONFIG
    assert [first_weights(method) for method in METHODS] == ["warm", "fresh", "fresh", "fresh"]


def test_an_unknown_name_is_refused():
    for ask in (
        lambda: method_settings("enas", CONFIG),
        lambda: method_space("enas", SPACE),
        lambda: first_weights("enas"),
        lambda: search_by("enas", chains(32), SPACE, CONFIG),
    ):
        with pytest.raises(InputError, match=r"method must be one of easrec, darts, .*, got 'enas'"):
            ask()
