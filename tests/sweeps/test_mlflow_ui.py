"""MLflow's own pages in a real browser: what a person sees there is what results.parquet holds.

With --screenshots DIR the pages are kept as pictures, which is how those in docs/images are made.
"""

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.models import get_model_info
from mlflow.pyfunc import load_model

from sweeps.front_models import log_front_models
from sweeps.source import SweepDirectory
from sweeps.store import now_ms
from sweeps.tracking import SweepRecorder
from tests.sweeps import browser as browsers
from tests.sweeps.browser import Browser, chromium
from tests.sweeps.finished_sweep import FinishedSweep
from tests.sweeps.mlflow_server import free_port, mlflow_server

VALID = "valid/unseen/ndcg_at_10"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browsers.missing() is not None, reason=str(browsers.missing())),
    pytest.mark.skipif(
        "EASREC_TEST_BROWSER" not in os.environ, reason="a browser takes minutes: set EASREC_TEST_BROWSER=1"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(width=2300, height=1100) as found:
        yield found


@pytest.fixture(scope="module")
def address(sweep: FinishedSweep, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of an MLflow server on the store of the finished sweep."""
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder / "mlflow", free_port(), backend=sweep.tracking_uri) as found:
        yield found


@pytest.fixture(scope="module")
def client(sweep: FinishedSweep) -> MlflowClient:
    return MlflowClient(sweep.tracking_uri)


@pytest.fixture(scope="module")
def experiment_id(client: MlflowClient, sweep: FinishedSweep) -> str:
    return str(client.get_run(sweep.run_id).info.experiment_id)


@pytest.fixture(scope="module")
def frame(client: MlflowClient, sweep: FinishedSweep, experiment_id: str) -> pd.DataFrame:
    """The finished trials of results.parquet, with the ids of their runs as index."""
    runs = client.search_runs([experiment_id], "tags.`easrec.kind` = 'trial'")
    run_ids = {run.data.tags["easrec.trial_id"]: run.info.run_id for run in runs}
    table = pd.read_parquet(sweep.directory / "results.parquet")
    table = table[table["status"] == "finished"]
    return table.set_index(table["trial_id"].map(run_ids))


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> "Path | None":
    folder: Path | None = request.config.getoption("--screenshots")
    return None if folder is None else folder / f"{request.node.name.removeprefix('test_')}.png"


def shown(value: float, text: str) -> bool:
    """Whether a page shows a value, to the digits that it shows."""
    digits = len(text.partition(".")[2])
    return float(text.replace(",", "")) == pytest.approx(value, abs=0.5000001 * 10**-digits)


def test_a_description_links_to_all_trials_best_first(
    browser: Browser,
    address: str,
    sweep: FinishedSweep,
    experiment_id: str,
    frame: pd.DataFrame,
    picture: "Path | None",
) -> None:
    browser.open(f"{address}/#/experiments/{experiment_id}/runs/{sweep.run_id}")
    browser.wait_for_texts("all trials, best first")
    link = browser.driver.find_element("link text", "all trials, best first").get_attribute("href")
    browser.open(str(link))
    # The trial that failed stands below, without figures.
    browser.wait_for("the table of runs", lambda: len(browser.cells()) == len(frame) + 1)
    *rows, failed = browser.cells()
    assert failed[f"metrics.`{VALID}`"] == "-"
    by_accuracy = frame.sort_values(VALID, ascending=False)
    assert [float(row[f"metrics.`{VALID}`"]) for row in rows] == by_accuracy[VALID].tolist()
    for row in rows:
        name = row["attributes.`Run Name`"]
        (stored,) = [
            own
            for own in frame.to_dict("records")
            if name.endswith(f"lambda {own['tradeoff']:g}, seed {own['seed']:.0f}")
        ]
        for metric in (VALID, "test/unseen/ndcg_at_10", "flops", "latency_ms_p50", "params"):
            assert float(row[f"metrics.`{metric}`"]) == stored[metric], metric
        assert row["tags.`pareto`"] == str(stored["pareto"]).lower()
        assert row["tags.`architecture_id`"] == stored["architecture_id"]
    browser.screenshot(picture)


def test_the_view_of_the_front_holds_it_and_nothing_else(
    browser: Browser, address: str, sweep: FinishedSweep, experiment_id: str, frame: pd.DataFrame
) -> None:
    browser.open(f"{address}/#/experiments/{experiment_id}/runs/{sweep.run_id}")
    browser.wait_for_texts("the front, best first")
    link = browser.driver.find_element("link text", "the front, best first").get_attribute("href")
    browser.open(str(link))
    table = pd.read_parquet(sweep.directory / "configurations.parquet")
    # Trials on the front, and the runs with the means of their architectures.
    expected = [*frame.loc[frame["pareto"], VALID], *table.loc[table["pareto"], VALID]]
    browser.wait_for("the front", lambda: len(browser.cells()) == len(expected))
    values = [float(row[f"metrics.`{VALID}`"]) for row in browser.cells()]
    assert values == sorted(expected, reverse=True)
    assert {row["tags.`pareto`"] for row in browser.cells()} == {"true"}


def test_the_run_of_a_sweep_reads_as_a_text(
    browser: Browser, address: str, sweep: FinishedSweep, experiment_id: str, picture: "Path | None"
) -> None:
    browser.open(f"{address}/#/experiments/{experiment_id}/runs/{sweep.run_id}")
    text = browser.wait_for_texts("on the front of validation accuracy against FLOPs", "Child runs")
    table = pd.read_parquet(sweep.directory / "configurations.parquet")
    for row in table.to_dict("records"):
        assert f"{row['architecture_id']} {row[VALID]:.4f}" in text
        assert f"{row['flops']:,.0f} {row['params']:,.0f}" in text
    assert "**" not in text and "| ---" not in text, "the description is shown as Markdown"
    browser.screenshot(picture)
    browser.open(f"{address}/#/experiments/{experiment_id}/runs/{sweep.run_id}/artifacts")
    browser.wait_for_texts("pareto.html", "pareto.png", "results.parquet", "configurations.parquet")


def test_the_run_of_a_trial_shows_its_figures(
    browser: Browser, address: str, experiment_id: str, frame: pd.DataFrame, picture: "Path | None"
) -> None:
    run_id, row = next(iter(frame.iterrows()))
    browser.open(f"{address}/#/experiments/{experiment_id}/runs/{run_id}")
    text = browser.wait_for_texts(f"lambda {row['tradeoff']:g}, seed {row['seed']:.0f}", "flops_log10")
    for metric in (VALID, "test/full/ndcg_at_10", "flops", "latency_ms_p50", "params", "best_epoch"):
        (value,) = re.findall(rf"(?<![\w/]){re.escape(metric)} (\d[\d.,]*)", text)
        assert shown(row[metric], value), (metric, value)
    assert f"architecture_id {row['architecture_id']}" in text
    browser.screenshot(picture)


def test_three_runs_are_compared_on_numbers(
    browser: Browser, address: str, experiment_id: str, frame: pd.DataFrame, picture: "Path | None"
) -> None:
    runs = frame.index[:3].tolist()
    query = f"runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment_id]))}"
    browser.open(f"{address}/#/compare-runs?{query}")
    text = browser.wait_for_texts("Comparing 3 Runs from 1 Experiment", "flops_log10", "Scatter Plot")
    order = [frame.loc[run_id] for run_id in re.findall(r"\b[0-9a-f]{32}\b", text)[:3]]
    # The names of the metrics that are on the screen, then their values, three for each.
    (block,) = re.findall(r"Metrics Show diff only (best_epoch .*?) Artifacts", text)
    words = block.split()
    names = list(itertools.takewhile(lambda word: not re.fullmatch(r"[\d.,]+", word), words))
    values = words[len(names) :]
    assert len(values) == 3 * len(names)
    for metric in ("best_epoch", "flops", "flops_total", "params", "latency_ms_p50"):
        start = 3 * names.index(metric)
        for own, value in zip(order, values[start : start + 3], strict=True):
            assert shown(own[metric], value), (metric, value)
    browser.screenshot(picture)


def test_networks_on_the_front_are_models_with_a_signature(
    browser: Browser,
    address: str,
    sweep: FinishedSweep,
    client: MlflowClient,
    experiment_id: str,
    frame: pd.DataFrame,
) -> None:
    recorder = SweepRecorder(sweep.tracking_uri, SweepDirectory(sweep.directory).facts.sweep_id, start_ms=0)
    items = SweepDirectory(sweep.directory).items
    table = frame.reset_index(drop=True)
    logged = log_front_models(recorder, table, sweep.records, items)
    recorder.finish("FINISHED", now_ms())
    assert log_front_models(recorder, table, sweep.records, items) == logged, "they are there already"
    on_front = set(table.loc[table["pareto"] | table["pareto_latency"], "architecture_id"])
    models = [client.get_logged_model(model_id) for model_id in logged]
    assert {model.tags["architecture_id"] for model in models} == on_front
    history = items.own_ids[1:4].tolist()
    for model in models:
        signature = get_model_info(model.artifact_location).signature
        assert signature is not None and signature.inputs.input_names() == ["history"]
        answer = load_model(model.artifact_location).predict(
            pd.DataFrame({"history": [history]}), params={"k": 3}
        )
        assert len(answer["items"][0]) == 3
    browser.open(f"{address}/#/experiments/{experiment_id}/models")
    browser.wait_for_texts(*(model.name for model in models))
