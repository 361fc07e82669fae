"""Write a page about the trials of an MLflow experiment, and say which network fits a budget.

python pipelines/pareto_report.py --output runs/SWEEP --max-latency-ms 0.5
"""

import sys

from easrec.errors import InputError
from sweeps.command_line import parse
from sweeps.report_config import ReportConfig


def main() -> int:
    """Write the report that the command line describes; returns the exit status."""
    try:
        config = parse(ReportConfig, "pareto_report.py")
        config.check()
        # Imported late: torch, MLflow and plotly take seconds, and --help needs none of them.
        from sweeps.experiment_report import run_report

        return run_report(config)
    except KeyboardInterrupt:
        print("\npareto_report.py: stopped; no page was written", file=sys.stderr)
        return 130
    except InputError as error:
        print(f"pareto_report.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
