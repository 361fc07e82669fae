"""MLflow's own pages in a real browser: what a person sees there is what results.parquet holds.

With --screenshots DIR the pages are kept as pictures, and with --sweep DIR they are those of a sweep that has
finished there; this is how those in docs/images are made (docs/mlflow.md has the command).
"""

import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.models import get_model_info
from mlflow.pyfunc import load_model

from sweeps.front_models import log_front_models
from sweeps.mlflow_store import SQLITE
from sweeps.registry import mlflow_at
from sweeps.results import results_frame
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
]


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Browser]:
    with chromium(width=1700, height=1150) as found:
        found.open(f"{address}/health")
        # MLflow's assistant, which would take a third of the window, as it is once somebody has closed it.
        found.remember(
            **{
                "mlflow.assistant.panelOpen_v1": "false",
                "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
            }
        )
        yield found


@pytest.fixture(scope="module")
def address(shown: FinishedSweep, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of an MLflow server on the store of the sweep."""
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder / "mlflow", free_port(), backend=shown.tracking_uri) as found:
        yield found


@pytest.fixture(scope="module")
def shown(request: pytest.FixtureRequest) -> FinishedSweep:
    """The sweep whose pages are looked at, with the networks on its fronts as models."""
    directory: Path | None = request.config.getoption("--sweep")
    if directory is not None:
        directory = directory.resolve()
        uri = f"{SQLITE}{directory / 'mlflow.db'}"
        client = MlflowClient(uri)
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        (run,) = client.search_runs(ids, "tags.`easrec.kind` = 'sweep'")
        return FinishedSweep(directory, uri, run.info.run_id, [])
    found: FinishedSweep = request.getfixturevalue("sweep")
    recorder = SweepRecorder(found.tracking_uri, SweepDirectory(found.directory).facts.sweep_id, start_ms=0)
    table = results_frame(found.records, accuracy=VALID)
    logged = log_front_models(recorder, table, found.records, SweepDirectory(found.directory).items)
    assert log_front_models(recorder, table, found.records, SweepDirectory(found.directory).items) == logged
    recorder.finish("FINISHED", now_ms())
    return found


@pytest.fixture(scope="module")
def client(shown: FinishedSweep) -> MlflowClient:
    return MlflowClient(shown.tracking_uri)


@pytest.fixture(scope="module")
def experiment_id(client: MlflowClient, shown: FinishedSweep) -> str:
    return str(client.get_run(shown.run_id).info.experiment_id)


@pytest.fixture(scope="module")
def whole_table(shown: FinishedSweep) -> pd.DataFrame:
    return pd.read_parquet(shown.directory / "results.parquet")


@pytest.fixture(scope="module")
def frame(client: MlflowClient, whole_table: pd.DataFrame, experiment_id: str) -> pd.DataFrame:
    """The finished trials of results.parquet, with the ids of their runs as index."""
    runs = client.search_runs([experiment_id], "tags.`easrec.kind` = 'trial'")
    run_ids = {run.data.tags["easrec.trial_id"]: run.info.run_id for run in runs}
    table = whole_table[whole_table["status"] == "finished"]
    return table.set_index(table["trial_id"].map(run_ids))


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> "Path | None":
    folder: Path | None = request.config.getoption("--screenshots")
    name = request.node.name.removeprefix("test_").replace("_", "-")
    return None if folder is None else folder / f"mlflow-{name}.png"


def as_shown(value: float, text: str) -> bool:
    """Whether a text is a value, to the digits that it has."""
    digits = len(text.partition(".")[2])
    return float(text.replace(",", "")) == pytest.approx(value, abs=0.5000001 * 10**-digits)


def page(address: str, path: str) -> str:
    # MLflow opens in its menu for language models unless it is told.
    return f"{address}/#/{path}{'&' if '?' in path else '?'}workflowType=machine_learning"


def test_the_run_of_a_sweep(
    browser: Browser, address: str, shown: FinishedSweep, experiment_id: str, picture: "Path | None"
) -> None:
    """Its description says in words and a table what was found, and its charts are there."""
    browser.open(page(address, f"experiments/{experiment_id}/runs/{shown.run_id}"))
    text = browser.wait_for_texts("on the front of validation accuracy against FLOPs", "Child runs")
    table = pd.read_parquet(shown.directory / "configurations.parquet")
    for row in table.to_dict("records"):
        assert f"{row['architecture_id']} {row[VALID]:.4f}" in text
        assert f"{row['flops']:,.0f} {row['params']:,.0f}" in text
    assert "**" not in text and "| ---" not in text, "the description is shown as Markdown"
    browser.press("Show more")
    browser.screenshot(picture)
    browser.open(page(address, f"experiments/{experiment_id}/runs/{shown.run_id}/artifacts/pareto.png"))
    browser.wait_for_texts("pareto.html", "pareto.png", "results.parquet", "configurations.parquet")
    browser.wait_for("the chart", lambda: browser.drawn_images() > 0)


def test_the_table_of_runs(
    browser: Browser,
    address: str,
    shown: FinishedSweep,
    experiment_id: str,
    whole_table: pd.DataFrame,
    frame: pd.DataFrame,
    picture: "Path | None",
) -> None:
    """All trials, best first, as the description links to them."""
    browser.open(page(address, f"experiments/{experiment_id}/runs/{shown.run_id}"))
    browser.follow("all trials, best first")
    # What has no result stands below, without figures.
    rows = browser.wait_for_rows(len(whole_table), f"metrics.`{VALID}`", f"{frame[VALID].max()}")
    assert all(row[f"metrics.`{VALID}`"] == "-" for row in rows[len(frame) :])
    rows = rows[: len(frame)]
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
        assert row["metrics.`on_front`"] == f"{stored['pareto']:d}"
        assert row["tags.`architecture_id`"] == stored["architecture_id"]
    browser.screenshot(picture)
    browser.press_header("metrics.`on_front`")
    browser.wait_for_texts("Sort: on_front")
    rows = browser.wait_for_sorted("metrics.`on_front`")
    flags = [row["metrics.`on_front`"] for row in rows]
    assert sorted(flags) == sorted(
        [f"{flag:d}" for flag in frame["pareto"]] + ["-"] * (len(whole_table) - len(frame))
    )


def test_the_view_of_the_front_holds_it_and_nothing_else(
    browser: Browser, address: str, shown: FinishedSweep, experiment_id: str, frame: pd.DataFrame
) -> None:
    browser.open(page(address, f"experiments/{experiment_id}/runs/{shown.run_id}"))
    browser.follow("the front, best first")
    table = pd.read_parquet(shown.directory / "configurations.parquet")
    # Trials on the front, and the runs with the means of their architectures.
    expected = [*frame.loc[frame["pareto"], VALID], *table.loc[table["pareto"], VALID]]
    rows = browser.wait_for_rows(len(expected), f"metrics.`{VALID}`", f"{max(expected)}")
    values = [float(row[f"metrics.`{VALID}`"]) for row in rows]
    assert values == sorted(expected, reverse=True)
    assert {row["metrics.`on_front`"] for row in rows} == {"1"}


def test_the_charts_of_runs(
    browser: Browser,
    address: str,
    shown: FinishedSweep,
    experiment_id: str,
    frame: pd.DataFrame,
    picture: "Path | None",
) -> None:
    """Accuracy against both costs and parallel coordinates, on numbers, as the description links to them."""
    browser.open(page(address, f"experiments/{experiment_id}/runs/{shown.run_id}"))
    browser.follow("their charts")

    axes = browser.wait_for_axes(["tradeoff", "flops_log10", "latency_ms_p50", VALID])
    for ticks in axes:
        assert ticks and all(re.fullmatch(r"-?[\d.,]+", tick) for tick in ticks), "its values are numbers"

    def drawn() -> bool:
        return [plot["type"] for plot in browser.plots()].count("scatter") >= 2

    browser.wait_for("two scatter plots", drawn)
    accuracies = sorted(frame[VALID])
    scatters = [plot for plot in browser.plots() if plot["type"] == "scatter"][:2]
    for cost, plot in zip((np.log10(frame["flops"]), frame["latency_ms_p50"]), scatters, strict=True):
        assert plot["axis"] == "linear", "its values are numbers"
        assert sorted(plot["y"]) == pytest.approx(accuracies)
        assert sorted(plot["x"]) == pytest.approx(sorted(cost))
    browser.screenshot(picture)


def test_the_run_of_a_trial(
    browser: Browser, address: str, experiment_id: str, frame: pd.DataFrame, picture: "Path | None"
) -> None:
    run_id, row = next(iter(frame.iterrows()))
    browser.open(page(address, f"experiments/{experiment_id}/runs/{run_id}"))
    text = browser.wait_for_texts(f"lambda {row['tradeoff']:g}, seed {row['seed']:.0f}", "flops_log10")
    for metric in (VALID, "test/full/ndcg_at_10", "flops", "latency_ms_p50", "params", "best_epoch"):
        (value,) = re.findall(rf"(?<![\w/]){re.escape(metric)} (\d[\d.,]*)", text)
        assert as_shown(row[metric], value), (metric, value)
    assert f"architecture_id {row['architecture_id']}" in text
    browser.screenshot(picture)


def test_three_runs_side_by_side(
    browser: Browser, address: str, experiment_id: str, frame: pd.DataFrame, picture: "Path | None"
) -> None:
    """MLflow's comparison of ticked runs: parallel coordinates, a scatter plot, and the figures below."""
    by_cost = frame.sort_values(["flops", VALID])
    runs = by_cost.index[[0, len(frame) // 2, -1]].tolist()
    query = f"runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment_id]))}"
    browser.open(page(address, f"compare-runs?{query}"))
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
            assert as_shown(own[metric], value), (metric, value)
    browser.wait_for("parallel coordinates", lambda: [p for p in browser.plots() if p["type"] == "parcoords"])
    (parallel,) = browser.plots()
    assert [own["best_epoch"] for own in order] in parallel["dimensions"]
    browser.press("Scatter Plot")
    browser.choose("x-axis-selector", "flops_log10")
    browser.choose("y-axis-selector", VALID)

    def points() -> list[tuple[float, float]]:
        return [
            (x, y)
            for plot in browser.plots()
            if plot["axis"] == "linear" and plot["x"] and plot["y"]
            for x, y in zip(plot["x"], plot["y"], strict=True)
        ]

    expected = sorted((math.log10(own["flops"]), own[VALID]) for own in order)

    def as_expected() -> bool:
        found = sorted(points())
        return len(found) == 3 and np.allclose(np.array(found, dtype=float), np.array(expected))

    browser.wait_for("a point for each run", as_expected)
    browser.screenshot(picture)


def test_networks_on_the_front_are_models_with_a_signature(
    browser: Browser,
    address: str,
    shown: FinishedSweep,
    client: MlflowClient,
    experiment_id: str,
    frame: pd.DataFrame,
) -> None:
    # Tests of exports share the sweep, and add models of their own where they ran before in this process.
    models = [
        model
        for model in client.search_logged_models([experiment_id])
        if "true" in (model.tags.get("pareto"), model.tags.get("pareto_latency"))
    ]
    on_front = set(frame.loc[frame["pareto"] | frame["pareto_latency"], "architecture_id"])
    assert {model.tags["architecture_id"] for model in models} == on_front
    history = SweepDirectory(shown.directory).items.own_ids[1:4].tolist()
    with mlflow_at(shown.tracking_uri):
        for model in models:
            signature = get_model_info(f"models:/{model.model_id}").signature
            assert signature is not None and signature.inputs.input_names() == ["history"]
        # Loading takes long, and all are made alike.
        network = load_model(f"models:/{models[0].model_id}")
        answer = network.predict(pd.DataFrame({"history": [history]}), params={"k": 3})
    assert len(answer["items"][0]) == 3
    browser.open(page(address, f"experiments/{experiment_id}/models"))
    browser.wait_for_texts(*(model.name for model in models))
    browser.open(page(address, f"experiments/{experiment_id}/models/{models[0].model_id}/artifacts"))
    browser.wait_for_texts("MLmodel", "pyfunc_model.py")
