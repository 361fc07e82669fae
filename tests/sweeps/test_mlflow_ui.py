"""MLflow's own pages in a real browser: what a person sees there is what results.parquet holds.

With --screenshots DIR the pages are kept as pictures, which is how those in docs/images are made.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

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
def browser() -> Iterator[Browser]:
    with chromium() as found:
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


def test_the_link_of_the_description_opens_all_trials_best_first(
    browser: Browser, address: str, sweep: FinishedSweep, experiment_id: str, frame: pd.DataFrame
) -> None:
    browser.open(f"{address}/#/experiments/{experiment_id}/runs/{sweep.run_id}")
    browser.wait_for_texts("all trials, best first")
    link = browser.driver.find_element("link text", "all trials, best first")
    link.click()
    browser.wait_for("the table of runs", lambda: len(browser.cells()) == len(frame) + 1)
