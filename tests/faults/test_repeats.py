"""A grid sweep repeats itself to the digit, in whatever order its trials run.

That several at once give what one at a time gives is seen in `test_refused`, whose first sweep runs so.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from sweeps.command_line import parse
from sweeps.config import SweepConfig
from sweeps.data import load_data
from sweeps.plan import build_trials, preset_of
from sweeps.records import trial_record
from sweeps.store import Store, code_version
from sweeps.trial import run_trial, warm_stage


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads as a trial of the sweep has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_trials_in_the_reverse_order_and_without_ray_give_the_same_digits(
    undisturbed: Path, options: list[str], tmp_path: Path, one_thread: None
) -> None:
    config = parse(SweepConfig, "lambda_sweep.py", options)
    preset = preset_of(config)
    data = load_data(config, preset)
    trials = build_trials(config, preset, data.split, device="cpu", code_version=code_version())
    store = Store(tmp_path)
    warm_stage(trials[0], data.split, store)
    table = pd.read_parquet(undisturbed / "results.parquet").set_index("trial_id")
    compared = 0
    for trial in reversed(trials):
        run_trial(trial, data.split, store)
        record = trial_record(trial, data.split, store, settings={}, tags={})
        assert record is not None
        row = table.loc[trial.trial_id]
        assert row["architecture_id"] == record.architecture.architecture_id
        for name, value in record.metrics.items():
            if not name.endswith("_s"):
                assert row[name] == value, f"{name} of lambda {trial.tradeoff:g}"
                compared += 1
    assert compared > 3 * 25
