"""Options of the tests."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots",
        type=Path,
        default=None,
        help="directory for the pictures of MLflow's pages that tests/sweeps/test_mlflow_ui.py looks at",
    )
    parser.addoption(
        "--sweep",
        type=Path,
        default=None,
        help="directory of a finished sweep, in place of the one that tests/sweeps/test_mlflow_ui.py makes",
    )
