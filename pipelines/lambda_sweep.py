"""Sweep lambda: search, retrain and measure a network for each, and draw the Pareto front.

python pipelines/lambda_sweep.py --tradeoffs 0 0.03 0.1 0.3 1 3 --seeds 1 --preset quick
"""

import os
import sys

from easrec.errors import InputError
from sweeps.command_line import parse
from sweeps.config import SweepConfig


def main() -> int:
    """Run the sweep that the command line describes; returns the exit status."""
    try:
        config = parse(SweepConfig, "lambda_sweep.py")
        config.check()
        # Before torch is imported: --plan times a few steps here; see sweeps/cluster.py for the rest.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Imported late: torch, Ray and MLflow take seconds, and --help needs none of them.
        if config.from_run is not None:
            config.check_repeat()
            from sweeps.repeat import run_repeat

            return run_repeat(config)
        from sweeps.sweep import run_sweep

        return run_sweep(config)
    except KeyboardInterrupt:
        print("lambda_sweep.py: stopped before anything was started", file=sys.stderr)
        return 130
    except InputError as error:
        print(f"lambda_sweep.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
