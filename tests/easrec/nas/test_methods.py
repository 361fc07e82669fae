import pytest

from easrec.errors import InputError
from easrec.models.architecture import CandidateSpace
from easrec.nas.alternating import alternate
from easrec.nas.controllers import TemperatureSchedule
from easrec.nas.methods import method_of, method_settings, method_space
from easrec.nas.search import SearchConfig, search
from easrec.training import state_digest
from tests.easrec.chains import LENGTH, chains

SPACE = CandidateSpace(16, 32, 2, 1, (0, 0.875), (0, 0.875))
CONFIG = SearchConfig(max_length=LENGTH, warmup_epochs=1, search_epochs=1, batch_size=32)
METHODS = ["darts", "proxylessnas", "recnas"]


def test_each_name_runs_its_own_search_from_the_same_config():
    data = chains(64)
    space = method_space(SPACE)
    digests = {state_digest(search(data, space, CONFIG).supernet)}
    for name in METHODS:
        method = method_of(name)
        result = alternate(method, data, space, method_settings(method, CONFIG))
        digests.add(state_digest(result.supernet))
        assert space.candidate_of(result.architecture) == result.candidate
        assert result.architecture.gate_layers == 0
        assert result.architecture.attention == "softmax"
    assert len(digests) == 4


def test_the_settings_are_those_of_the_papers_and_what_they_use_of_easrecs():
    easrecs = SearchConfig(
        seed=3,
        tradeoff=0.2,
        search_weights="freeze",
        temperature=TemperatureSchedule(kind="cosine"),
        resource="params",
    )
    darts, proxyless, recnas = (method_settings(method_of(name), easrecs) for name in METHODS)
    assert (darts.tradeoff, darts.controller_interval, darts.resource) == (0, 1, "flops")
    assert (proxyless.tradeoff, proxyless.resource) == (0.2, "params")
    assert proxyless.temperature == darts.temperature == SearchConfig().temperature
    assert recnas.temperature == easrecs.temperature
    for settings in (darts, proxyless, recnas):
        assert (settings.seed, settings.warmup_epochs, settings.search_weights) == (3, 0, "train")


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match=r"method must be one of darts, .*, got 'enas'"):
        method_of("enas")
