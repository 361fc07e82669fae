"""Compare EASRec with other searches and with fixed networks: the paper's Tables III and IV.

python pipelines/compare.py --dataset ml-1m --seeds 3 --output runs/compare
"""

import os
import sys

from easrec.errors import InputError
from sweeps.command_line import parse
from sweeps.compare_config import ELSEWHERE, CompareConfig


def main() -> int:
    """Run the comparison that the command line describes; returns the exit status."""
    try:
        config = parse(CompareConfig, "compare.py", elsewhere=ELSEWHERE)
        config.check()
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Imported late: torch, Ray and MLflow take seconds, and --help needs none of them.
        from sweeps.compare import run_compare

        return run_compare(config)
    except KeyboardInterrupt:
        print("compare.py: stopped before anything was started", file=sys.stderr)
        return 130
    except InputError as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
