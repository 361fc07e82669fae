"""One recorded trial again, as a sweep of its own, and the new figures beside the recorded ones."""

import dataclasses
import sys
from pathlib import Path

import pandas as pd
from rich.console import Console

from sweeps.config import SweepConfig
from sweeps.recorded_trial import comparison_text, differences, read_trial, tracking_store
from sweeps.source import RESULTS
from sweeps.sweep import run_sweep


def run_repeat(config: SweepConfig, *, console: Console | None = None) -> int:
    """Repeat the trial of --from-run and print in what the figures differ; returns the exit status.

    0: every figure that is computed, rather than timed, is the recorded one to the last digit. 1: some
    differ, or the trial failed. 130: interrupted.

    Raises:
        InputError: something that the user can put right; nothing has been started then.
    """
    assert config.from_run is not None
    console = console or Console(width=None if sys.stdout.isatty() else 120)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    uri = tracking_store(config.tracking_uri)
    recorded = read_trial(config.from_run, uri, log=config.data)
    output = config.output or Path("runs", f"repeat-{recorded.run_id[:8]}")
    own = dataclasses.replace(
        recorded.config,
        output=output,
        storage=config.storage,
        ray_address=config.ray_address,
        tracking_uri=uri,
        resume=config.resume,
        plan=config.plan,
        from_run=recorded.run_id,
    )
    say(f"repeating run {recorded.run_id}: lambda {own.tradeoffs[0]:g}, seed {own.seed}")
    status = run_sweep(own, console=console, preset=recorded.preset, data=recorded.data)
    if config.plan or not (output / RESULTS).is_file():
        return status
    row = pd.read_parquet(output / RESULTS).iloc[0]
    found = differences(recorded.metrics, {str(name): value for name, value in row.items()})
    for line in comparison_text(recorded, found):
        say(line)
    return 1 if found else status
