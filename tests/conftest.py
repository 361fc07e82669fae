"""Options of the tests, and what holds for all of them."""

import signal
import threading
from pathlib import Path

import pytest


def pytest_configure() -> None:
    # A shell starts what it puts into the background with Ctrl-C ignored, and the sweeps that tests interrupt
    # would inherit that.
    main_thread = threading.current_thread() is threading.main_thread()
    if main_thread and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
