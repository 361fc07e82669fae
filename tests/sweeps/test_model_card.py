"""The model card says what was recorded, and nothing else."""

import dataclasses
import itertools
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tyro
import yaml

from easrec.models.saving import load_network
from sweeps.config import SweepConfig
from sweeps.intervals import accuracy_estimates
from sweeps.model_card import METRICS, CardFacts, model_card
from sweeps.source import SweepDirectory
from tests.sweeps.finished_sweep import FinishedSweep


@pytest.fixture(scope="module")
def facts(sweep: FinishedSweep) -> CardFacts:
    source = SweepDirectory(sweep.directory)
    trained = source.trained(sweep.records[0].trial_id)
    model = load_network(trained.network)
    data = source.data.split
    return CardFacts(
        trained=trained,
        model=model,
        items=source.items,
        data=data,
        licence="terms | of the log",
        estimates=accuracy_estimates(model.scores, data, max_length=model.max_length),
        config=source.facts.config,
        settings={"retrain": {"max_epochs": 2}},
        sweep_id=source.facts.sweep_id,
        run_id="abc",
        reason="the knee",
    )


def table(card: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    below = card.split(f"## {heading}\n")[1].splitlines()
    lines = itertools.takewhile(
        lambda line: line.startswith("|"), itertools.dropwhile(lambda line: not line.startswith("|"), below)
    )
    return [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in list(lines)[2:]]


def test_accuracy_is_that_of_the_records_with_its_interval(facts: CardFacts, sweep: FinishedSweep) -> None:
    recorded = sweep.records[0].metrics
    rows = table(model_card(facts), "Accuracy")
    assert [(row[0].split()[0], row[1]) for row in rows] == [
        (split, f"`{protocol}`")
        for split in ("validation", "test")
        for protocol in ("full", "unseen", "uni100", "pop100")
    ]
    assert "chose the network" in rows[0][0]
    for split, protocol, *cells in rows:
        prefix = f"{'valid' if split.startswith('valid') else 'test'}/{protocol.strip('`')}"
        for metric, cell in zip(METRICS, cells, strict=True):
            match = re.fullmatch(r"(\d\.\d{4}) \((\d\.\d{4}) to (\d\.\d{4})\)", cell)
            assert match is not None
            value, low, high = map(float, match.groups())
            assert value == pytest.approx(recorded[f"{prefix}/{metric}"], abs=5.1e-5)
            assert low <= value <= high
            assert low < high


def test_the_front_matter_is_yaml_with_the_same_figures(facts: CardFacts, sweep: FinishedSweep) -> None:
    recorded = sweep.records[0].metrics
    _, text, body = model_card(facts).split("---\n", 2)
    network = sweep.records[0].architecture
    sizes = f"{network.num_layers} x {network.hidden_size}/{network.inner_size}"
    assert body.startswith(f"\n# easrec, {sizes} on ")
    front = yaml.safe_load(text)
    assert front["datasets"] == [facts.data.name]
    (model,) = front["model-index"]
    assert [result["dataset"]["split"] for result in model["results"]] == ["valid", "test"]
    for result in model["results"]:
        assert len(result["metrics"]) == 12
        for metric in result["metrics"]:
            protocol = metric["name"].split(", ")[1]
            name = f"{result['dataset']['split']}/{protocol}/{metric['type']}"
            assert metric["value"] == pytest.approx(recorded[name], abs=1e-6)
            assert metric["interval"][0] <= metric["value"] <= metric["interval"][1]


def test_costs_are_those_of_the_records(facts: CardFacts, sweep: FinishedSweep) -> None:
    recorded = sweep.records[0].metrics
    rows = dict(row for row in table(model_card(facts), "Cost"))
    assert rows["FLOPs of one pass over 10 items"] == f"{recorded['flops']:,.0f}"
    assert rows["the same with scoring all items"] == f"{recorded['flops_total']:,.0f}"
    assert rows["parameters"] == f"{recorded['params']:,.0f}"
    assert rows["latency of one request, p50 (1 CPU thread)"] == f"{recorded['latency_ms_p50']:.2f} ms"
    served, update = "the same as this package serves it", "one more item into the state of a user"
    assert rows[f"{served}, p50 (1 CPU thread)"] == f"{recorded['served_ms_p50']:.2f} ms"
    assert rows[f"{update}, p50 (1 CPU thread)"] == f"{recorded['update_ms_p50']:.2f} ms"
    assert rows["peak memory of serving, above the libraries"] == f"{recorded['peak_memory_mib']:.1f} MiB"
    trained = dataclasses.replace(facts.trained, metrics={**facts.trained.metrics, "update_ms_p50": 0.0})
    stateless = dict(table(model_card(dataclasses.replace(facts, trained=trained)), "Cost"))
    assert stateless[f"{update}, p50 (1 CPU thread)"] == "no state: the history is read"


def test_data_and_terms_are_named(facts: CardFacts) -> None:
    rows = dict(table(model_card(facts), "Data"))
    assert rows["users"] == "70"
    assert rows["items"] == f"{facts.items.num_items}"
    assert rows["interactions"] == f"{len(facts.data.items)}"
    assert rows["sha256 of the split log"] == f"`{facts.data.checksum}`"
    assert rows["terms of the data"] == r"terms \| of the log"


def test_the_command_makes_the_sweep_again_and_tells_no_paths(facts: CardFacts, sweep: FinishedSweep) -> None:
    card = model_card(facts)
    command = re.search(r"```bash\n(.*)\n```", card)
    assert command is not None
    words = shlex.split(command.group(1))
    assert words[:2] == ["python", "pipelines/lambda_sweep.py"]
    parsed = tyro.cli(SweepConfig, args=words[2:], config=(tyro.conf.FlagCreatePairsOff,))
    assert facts.config.data is not None
    # Where the log and the sweep lie is left out: the card goes to others.
    expected = dataclasses.replace(facts.config, data=Path(facts.config.data.name), output=None)
    assert parsed == expected
    assert str(sweep.directory.parent) not in card


def test_items_that_were_never_trained_on_are_counted(facts: CardFacts) -> None:
    counts = facts.items.training_counts.copy()
    counts[[2, 5, 7]] = 0
    untrained = int((counts[1:] == 0).sum())
    card = model_card(
        dataclasses.replace(facts, items=dataclasses.replace(facts.items, training_counts=counts))
    )
    assert f"{untrained} of them never occur" in " ".join(card.split())


def test_equal_facts_give_equal_bytes(facts: CardFacts, sweep: FinishedSweep) -> None:
    source = SweepDirectory(sweep.directory)
    data = source.data.split
    again = dataclasses.replace(
        facts,
        data=data,
        estimates=accuracy_estimates(facts.model.scores, data, max_length=10, batch_size=7),
    )
    assert model_card(again) == model_card(facts)


def test_a_network_without_a_trial_or_measurements_says_so(facts: CardFacts) -> None:
    metrics = {name: value for name, value in facts.trained.metrics.items() if "latency" not in name}
    trained = dataclasses.replace(facts.trained, trial_id=None, tradeoff=None, metrics=metrics, seed=7)
    card = " ".join(model_card(dataclasses.replace(facts, trained=trained, run_id=None)).split())
    assert "No search of the sweep derived it" in card
    assert "with seed 7" in card
    assert "not measured" in card
    assert "MLflow run" not in card


def test_whole_numbers_and_texts_are_shown_as_they_are_asked_for(facts: CardFacts) -> None:
    assert "recommender.recommend([['film " in model_card(facts)
    numbers = dataclasses.replace(facts.items, own_ids=np.arange(-1, facts.items.num_items) * 10)
    card = model_card(dataclasses.replace(facts, items=numbers))
    assert re.search(r"recommender\.recommend\(\[\[\d+, \d+, \d+\]\]", card)
    assert "which are whole numbers" in card
