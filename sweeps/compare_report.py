"""What a comparison reports: its tables, its files and the means of its methods."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from easrec.files import write_atomically
from sweeps.compare_charts import comparison_png
from sweeps.compare_tables import Contest, differences
from sweeps.compare_text import Grid, grids, latex, markdown
from sweeps.configurations import ConfigurationRecord
from sweeps.records import MEASURED
from sweeps.results import TrialRecord
from sweeps.summary import counted

TRIALS = "comparison.parquet"
TIMINGS = "timings.parquet"
SUMMARY = "comparison.csv"
DIFFERENCES = "differences.csv"
MARKDOWN = "comparison.md"
LATEX = "comparison.tex"
CHART = "comparison.png"

_LONGEST_DESCRIPTION = 7500
"""Characters of a description in MLflow, which is a tag."""


@dataclass(frozen=True, slots=True)
class Section:
    """Methods that are compared with one another, in tables of their own."""

    title: str
    """What their titles begin with; empty where there is one section."""
    labels: Mapping[str, str]
    """Method -> what it is called there, in the order of the rows."""
    reference: str
    """The one that the others are compared with."""


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """The tables of a comparison, and what is made of them."""

    contest: Contest
    sections: Sequence[Section]
    """What is compared with what; the chart marks the reference of the first."""
    labels: Mapping[str, str]
    """Method -> what people call it."""
    dataset: str
    described: str
    """A sentence on the data."""
    accuracy: str
    """The metric of validation that the methods chose by."""
    tables: Sequence[Grid]
    differing: pd.DataFrame
    """Every method against the reference of its section, in every column of the tables."""

    @classmethod
    def of(
        cls,
        contest: Contest,
        sections: Sequence[Section],
        labels: Mapping[str, str],
        *,
        dataset: str,
        described: str,
        accuracy: str,
        popular_targets: float,
        more: Sequence[Grid],
    ) -> Self:
        """Make the tables of all sections; arguments that are fields are described there.

        Args:
            contest: all that is known.
            popular_targets: share of the test targets that are popular.
            more: tables besides those of the sections, which come last.
        """
        tables: list[Grid] = []
        found = []
        for section in sections:
            there = [name for name in section.labels if name in contest.methods]
            if not there:
                continue
            tables += grids(
                contest,
                section.labels,
                section.reference,
                methods=there,
                title=section.title,
                popular_targets=popular_targets,
            )
            differing = differences(contest, section.reference, there)
            found.append(differing.assign(section=section.title))
        return cls(
            contest=contest,
            sections=sections,
            labels=labels,
            dataset=dataset,
            described=described,
            accuracy=accuracy,
            tables=[*tables, *more],
            differing=pd.concat(found, ignore_index=True),
        )

    def write(self, path: Path) -> dict[str, Path]:
        """Write the files into a directory, each whole or not at all; returns them by name."""
        contest = self.contest
        summary = contest.summary()
        summary.insert(1, "label", [self.labels[name] for name in summary["method"]])
        text = f"# {self.dataset}\n\n{self.described}\n\n" + "\n".join(
            markdown(table) for table in self.tables
        )
        tex = "\n".join(latex(table) for table in self.tables)
        writers: dict[str, Callable[[Path], Any]] = {
            TRIALS: lambda file: contest.trials.to_parquet(file, index=False),
            TIMINGS: lambda file: contest.timings.to_parquet(file, index=False),
            SUMMARY: lambda file: summary.to_csv(file, index=False),
            DIFFERENCES: lambda file: self.differing.to_csv(file, index=False),
            MARKDOWN: lambda file: file.write_text(text, encoding="utf-8"),
            LATEX: lambda file: file.write_text(tex, encoding="utf-8"),
        }
        for name, writer in writers.items():
            write_atomically(path / name, writer)
        files = {name: path / name for name in writers}
        if not contest.timings.empty:
            comparison_png(
                contest,
                contest.named(self.labels),
                self.sections[0].reference,
                self.accuracy.replace("valid/", "test/", 1),
                path / CHART,
                dataset=self.dataset,
            )
            files[CHART] = path / CHART
        return files

    def costs(self, method: str, seed: int) -> dict[str, float]:
        """What the network of a method and a seed was measured to cost, on average."""
        own = self.contest.timings
        own = own[(own["method"] == method) & (own["seed"] == seed)]
        return {} if own.empty else {cost: float(own[cost].mean()) for cost in MEASURED}

    def mean_records(self, records: Sequence[TrialRecord]) -> list[ConfigurationRecord]:
        """Each method as a run of its own, with means over seeds."""
        found = []
        for row in self.contest.summary().to_dict("records"):
            method = str(row["method"])
            own = [record for record in records if record.tags["method"] == method]
            numbers = {
                str(name): float(value)
                for name, value in row.items()
                if isinstance(value, int | float) and value == value
            }
            found.append(
                ConfigurationRecord(
                    architecture_id=method,
                    name=f"{self.labels[method]}, mean of {counted(row['num_seeds'], 'seed')}",
                    params={"method": method, "architectures": str(row["architectures"])},
                    metrics=numbers,
                    tags={"method": method},
                    start_ms=min(record.start_ms for record in own),
                    end_ms=max(record.end_ms for record in own),
                )
            )
        return found

    def description(self) -> str:
        """As many tables as MLflow has room for; all of them are among the run's artifacts."""
        text = f"{self.described}\n\n"
        for table in self.tables:
            part = markdown(table) + "\n"
            if len(text) + len(part) > _LONGEST_DESCRIPTION:
                return text + f"The other tables: {MARKDOWN} among the artifacts.\n"
            text += part
        return text
