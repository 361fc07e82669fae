"""What several test files share."""

from pathlib import Path

import pytest

from tests.sweeps.finished_sweep import FinishedSweep, finish_sweep


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> FinishedSweep:
    """A finished sweep over a log with texts for ids. Tests may add to it and take nothing away."""
    path: Path = tmp_path_factory.mktemp("sweeps") / "first sweep"
    return finish_sweep(path)
