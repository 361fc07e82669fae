"""How long a large log takes from file to leave-one-out sequences.

    python benchmarks/preparation.py

Makes up a log, writes it as parquet and as csv, and reads and splits each in a process of its own. The
result is printed and written to the section "Preparation" of RESULTS.md. It takes two minutes, and 700 MB in
the temporary directory.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import tyro
from report import command, conditions, markdown_table, own_versions, paragraph, verdict, write_section

from easrec.data.interactions import load_interactions
from easrec.data.sequences import leave_one_out


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparationConfig:
    """Time the preparation of a made-up log."""

    interactions: int = 20_000_000
    """Rows of the log."""
    users: int = 140_000
    """Users; how active they are falls off as a power law."""
    items: int = 27_000
    """Items, as unequal as the users."""
    worker: Path | None = None
    """Used by the script itself: the log that a process of its own is to prepare."""


def made_up(config: PreparationConfig) -> pa.Table:
    """A log in the order of time, as a service would write it; ids as numbers."""
    rng = np.random.default_rng(0)

    def draw(count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        weights = 1 / np.arange(10, count + 10) ** 0.8
        return rng.choice(count, config.interactions, p=weights / weights.sum()) + 1

    times = np.sort(rng.integers(1_000_000_000, 1_700_000_000, config.interactions))
    return pa.table({"user_id": draw(config.users), "item_id": draw(config.items), "timestamp": times})


def prepare(path: Path) -> dict[str, float]:
    """Seconds, processor seconds and peak memory of this process, which did nothing before."""
    before_s, before_cpu_s = time.perf_counter(), time.process_time()
    data = leave_one_out(load_interactions(path))
    return {
        "seconds": time.perf_counter() - before_s,
        "cpu": time.process_time() - before_cpu_s,
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "users": data.num_users,
        "interactions": len(data.items),
    }


def run(config: PreparationConfig) -> None:
    """Make the log, measure, print and write."""
    rows, verdicts = [], []
    with tempfile.TemporaryDirectory(prefix="easrec-preparation-") as folder:
        table = made_up(config)
        files = {"parquet": Path(folder) / "log.parquet", "csv": Path(folder) / "log.csv"}
        pq.write_table(table, files["parquet"])
        pyarrow.csv.write_csv(table, files["csv"])
        del table
        for kind, path in files.items():
            done = subprocess.run(
                [sys.executable, __file__, "--worker", path], stdout=subprocess.PIPE, text=True, check=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            size = f"{path.stat().st_size / 1e6:,.0f} MB"
            rows.append([f"{kind}, {size}", *(f"{found[name]:.1f}" for name in ("seconds", "cpu", "gib"))])
            verdicts.append(verdict(kind, found["seconds"], 60, "s", most=True))
            verdicts.append(verdict(f"{kind}, peak memory", found["gib"], 3.73, "GiB", most=True))
    made_with = conditions(
        command("preparation.py", config),
        own_versions("easrec", "numpy", "pandas", "pyarrow"),
        "glibc's own allocator settings",
    )
    notes = f"""{config.interactions:,} made-up interactions, {found["users"]:,.0f} users,
    {config.items:,} items, ids as numbers: `load_interactions` and `leave_one_out`. 4 GB are 3.73 GiB."""
    table_text = markdown_table(("log", "seconds", "processor seconds", "peak GiB"), rows)
    body = "\n\n".join([made_with, paragraph(notes), table_text, "\n".join(verdicts)])
    print(body)
    write_section("Preparation", body)


def main() -> None:
    """Run what the command line describes."""
    config = tyro.cli(PreparationConfig)
    if config.worker is not None:
        print(json.dumps(prepare(config.worker)))
    else:
        run(config)


if __name__ == "__main__":
    main()
