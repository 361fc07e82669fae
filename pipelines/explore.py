"""Explore lambda, temperatures, candidates and controllers by Optuna, and draw the Pareto front.

python pipelines/explore.py --trials 30 --objectives accuracy flops --sampler tpe --preset quick
"""

import os
import sys

from easrec.errors import InputError
from sweeps.command_line import parse
from sweeps.explore_config import ExploreConfig

_ELSEWHERE = {
    "--tradeoffs": "explore.py draws its lambdas from a range, --tradeoff-range LOW HIGH; a grid of them is "
    "for lambda_sweep.py",
    "--plan": "explore.py cannot say beforehand what it will train; lambda_sweep.py --plan times the stages",
    "--from-run": "one recorded trial is repeated by lambda_sweep.py --from-run",
    "--independent": "explore.py shares what its trials have in common; --independent is for lambda_sweep.py",
}


def main() -> int:
    """Run the exploration that the command line describes; returns the exit status."""
    try:
        config = parse(ExploreConfig, "explore.py", elsewhere=_ELSEWHERE)
        config.check()
        # Before torch is imported; see sweeps/cluster.py.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Imported late: torch, Ray, Optuna and MLflow take seconds, and --help needs none of them.
        from sweeps.explore import Exploration
        from sweeps.sweep import run_sweep

        return run_sweep(config, kind=Exploration)
    except KeyboardInterrupt:
        print("explore.py: stopped before anything was started", file=sys.stderr)
        return 130
    except InputError as error:
        print(f"explore.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
