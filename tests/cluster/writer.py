"""One of several sweeps that record at once: `python -m tests.cluster.writer ADDRESS NUMBER TRIALS`.

Begins when a line arrives on its standard input, so that all begin together.
"""

import sys
import tempfile
from pathlib import Path

from easrec.models.architecture import Architecture
from sweeps.results import TrialRecord
from sweeps.tracking import SweepRecorder

PARAMS = 150
"""More than one call of MLflow's API takes."""
EPOCHS = 20
MEASURED = {"latency_ms_p50": 0.5}


def record(writer: int, trial: int, weights: Path) -> TrialRecord:
    """The record of a trial; none of its values is another one's."""
    number = 1000 * writer + trial
    return TrialRecord(
        trial_id=f"trial-{writer}-{trial}",
        tradeoff=trial / 10,
        seed=writer,
        architecture=Architecture(16, 64, 1, 4),
        params={"tradeoff": trial / 10, **{f"setting.{index}": number + index for index in range(PARAMS)}},
        metrics={"valid/unseen/ndcg_at_10": number / 1e6, "flops": 1e6 + number},
        curves={"search/loss": [(step, 1000 + step, number + 1 / step) for step in range(1, EPOCHS + 1)]},
        tags={"writer": str(writer)},
        artifacts={"weights.safetensors": weights},
        start_ms=1000,
        end_ms=2000,
    )


def main() -> None:
    """Record as a sweep does: each trial when it ends, and all once more when they have been measured."""
    address, writer, trials = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    import mlflow  # noqa: F401 - takes seconds, which should not part those that begin together

    with tempfile.TemporaryDirectory() as directory:
        weights = Path(directory, "weights")
        weights.write_bytes(f"weights of {writer}".encode())
        records = [record(writer, trial, weights) for trial in range(trials)]
        print("ready", flush=True)
        sys.stdin.readline()
        recorder = SweepRecorder(address, f"sweep-{writer}", start_ms=500, run_name=f"sweep {writer}")
        for each in records:
            recorder.record_trial(each)
        for each in records:
            each.metrics.update(MEASURED)
            recorder.record_trial(each)
        recorder.record_sweep(
            params={"preset": "smoke"}, metrics={"num_trials": trials}, tags={"writer": str(writer)},
            artifacts={}, description="a sweep", end_ms=3000,
        )  # fmt: skip
        recorder.finish("FINISHED", 3000)


if __name__ == "__main__":
    main()
