"""What the named presets promise."""

from dataclasses import replace

import torch

from easrec.data.sequences import leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.nas.search import search
from easrec.retrain import retrain
from sweeps.ablate_config import AblateConfig
from sweeps.compare import Comparison
from sweeps.compare_config import CompareConfig
from sweeps.config import SweepConfig
from sweeps.plan import preset_of
from sweeps.presets import paper, quick, smoke


def test_quick_searches_the_sizes_it_is_documented_with() -> None:
    preset = quick()
    assert [preset.space.sizes(k) for k in range(3)] == [(64, 256), (32, 128), (16, 64)]
    assert (preset.space.num_layers, preset.space.num_heads, preset.space.gate_layers) == (4, 4, 2)
    assert (preset.search.max_length, preset.search.warmup_epochs, preset.search.search_epochs) == (50, 5, 5)


def test_weights_rest_in_the_searches_of_quick_but_not_where_the_paper_is_followed() -> None:
    def weights(config: SweepConfig, **how: bool) -> str:
        return preset_of(config, **how).search.search_weights

    assert weights(SweepConfig()) == "freeze"
    assert weights(SweepConfig(search_weights="train")) == "train"
    assert weights(SweepConfig(preset="paper")) == "train"
    assert weights(SweepConfig(independent=True)) == "train"
    assert weights(SweepConfig(independent=True, search_weights="freeze")) == "freeze"
    assert weights(SweepConfig(), published=True) == "train"
    for published in (CompareConfig(), AblateConfig()):
        assert Comparison.preset_for(published).search.search_weights == "train"


def test_smoke_has_the_stages_of_quick() -> None:
    small, whole = smoke(), quick()
    assert small.transfer_from == whole.transfer_from
    assert small.search.warmup_epochs > 0
    assert len(small.tradeoffs) == 2


def test_the_papers_setting_takes_a_step_of_each_stage() -> None:
    """At its full sizes and batch sizes, on data of one batch."""
    preset = paper()
    data = leave_one_out(synthetic_interactions(3, 40, 12, seed=0))
    config = replace(preset.search, search_epochs=1, controller_interval=1)
    found = search(data, preset.space, config)
    assert [report.stage for report in found.epochs] == ["search"]
    assert found.epochs[0].metrics["steps"] == 1
    assert found.epochs[0].metrics["temperature"] == 1.0
    moved = found.supernet.controllers.alpha.detach().abs().max()
    assert torch.isclose(moved, torch.tensor(0.01), rtol=1e-3)  # Adam's first step is its learning rate
    network = found.supernet.extract(found.architecture)
    result = retrain(found.architecture, data, replace(preset.retrain, max_epochs=1), initial=network)
    assert result.epochs[0].metrics["steps"] == 1
    assert result.model.architecture.attention == "linear_bidirectional"
