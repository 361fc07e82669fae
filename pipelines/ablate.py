"""Change one setting of EASRec at a time: the paper's Table V, and decisions of our own.

python pipelines/ablate.py --groups gates --seeds 3 --output runs/gates
"""

import os
import sys

from easrec.errors import InputError
from sweeps.ablate_config import AblateConfig
from sweeps.command_line import parse
from sweeps.compare_config import ELSEWHERE


def main() -> int:
    """Run the ablations that the command line describes; returns the exit status."""
    try:
        config = parse(AblateConfig, "ablate.py", elsewhere=ELSEWHERE)
        config.check()
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Imported late: torch, Ray and MLflow take seconds, and --help needs none of them.
        from sweeps.ablate import run_ablate

        return run_ablate(config)
    except KeyboardInterrupt:
        print("ablate.py: stopped before anything was started", file=sys.stderr)
        return 130
    except InputError as error:
        print(f"ablate.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
