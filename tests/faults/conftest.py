"""What the tests of faults share: the data, and a sweep that nothing disturbed."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from sweeps.mlflow_store import create_store
from tests.faults.sweep_process import finished, smoke_options, sweep_words
from tests.sweeps.finished_sweep import write_log


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all processes of a test run share."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="session")
def log(shared: Path) -> Path:
    """A log of 70 users and 40 items."""
    path = shared / "log.csv"
    with FileLock(shared / "log.lock"):
        if not path.exists():
            write_log(path, texts=False)
    return path


@pytest.fixture(scope="session")
def options(log: Path) -> list[str]:
    """Options of the sweep that most tests disturb."""
    return smoke_options(log)


@pytest.fixture(scope="session")
def undisturbed(shared: Path, options: list[str]) -> Path:
    """The directory of that sweep, finished without a fault on one CPU: one trial at a time, in their order.

    Tests take nothing away and add nothing.
    """
    output = shared / "undisturbed"
    with FileLock(shared / "undisturbed.lock"):
        if not (output / "results.parquet").exists():
            one = str(min(os.sched_getaffinity(0)))
            said = finished(["taskset", "--cpu-list", one, *sweep_words(options, output)], output)
            assert "3 trials, 1 at once" in said
    return output


@pytest.fixture(scope="session")
def empty_store(shared: Path) -> Path:
    """An MLflow database without runs, which takes seconds to make."""
    with FileLock(shared / "empty.lock"):
        create_store(shared / "empty")
    return shared / "empty" / "mlflow.db"


@pytest.fixture
def trained(undisturbed: Path, empty_store: Path, tmp_path: Path) -> Path:
    """The directory of a sweep that has trained and measured all and recorded nothing."""
    output = tmp_path / "sweep"
    output.mkdir()
    shutil.copytree(undisturbed / "store", output / "store")
    shutil.copy(undisturbed / "sweep.json", output)
    shutil.copy(empty_store, output)
    return output
