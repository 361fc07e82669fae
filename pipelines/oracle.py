"""Retrain every architecture of a space, and judge sweeps by what they missed of the true front.

python pipelines/oracle.py --sweeps runs/first --output runs/oracle
"""

import os
import sys

from easrec.errors import InputError
from sweeps.command_line import parse
from sweeps.oracle_config import ELSEWHERE, OracleConfig


def main() -> int:
    """Run the oracle that the command line describes; returns the exit status."""
    try:
        config = parse(OracleConfig, "oracle.py", elsewhere=ELSEWHERE)
        config.check()
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Imported late: torch and Ray take seconds, and --help needs neither.
        from sweeps.oracle import run_oracle

        return run_oracle(config)
    except KeyboardInterrupt:
        print("oracle.py: stopped before anything was started", file=sys.stderr)
        return 130
    except InputError as error:
        print(f"oracle.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
