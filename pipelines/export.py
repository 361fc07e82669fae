"""Ship a network of a sweep: a folder to serve it from, registered as a model in MLflow.

python pipelines/export.py --output runs/SWEEP --pick knee
"""

import sys

from easrec.errors import InputError
from sweeps.command_line import parse
from sweeps.export_config import ExportConfig


def main() -> int:
    """Export what the command line names; returns the exit status."""
    try:
        config = parse(ExportConfig, "export.py")
        config.check()
        # Imported late: torch and MLflow take seconds, and --help needs neither.
        from sweeps.export import run_export

        return run_export(config)
    except KeyboardInterrupt:
        print(f"\nexport.py: stopped; go on with:\n  {ExportConfig.command()}", file=sys.stderr)
        return 130
    except InputError as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
