"""The configurations of a sweep as a table: a row for each architecture, whatever led to it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from easrec.files import write_atomically
from easrec.models.architecture import Architecture
from sweeps.confidence import Confidence, Standing
from sweeps.panels import tradeoff_labels
from sweeps.pareto import configurations
from sweeps.results import Param, TrialRecord

CONFIGURATIONS = "configurations.parquet"
"""What a sweep's directory and its MLflow run call the file."""

COSTS = {"pareto": "flops", "pareto_latency": "latency_ms_p50"}
"""Column that says who is on a front -> the cost of that front."""

_NOT_METRICS = ("tradeoff", "seed")


def metric_names(frame: pd.DataFrame) -> list[str]:
    """The metrics of a table of trials: its columns of floats but those that say what a trial was."""
    architecture = Architecture.__dataclass_fields__
    return [
        str(name)
        for name, kind in frame.dtypes.items()
        if kind == "float64" and name not in _NOT_METRICS and name not in architecture
    ]


def configurations_frame(frame: pd.DataFrame, confidence: Confidence) -> pd.DataFrame:
    """One row per architecture, cheapest first.

    Args:
        frame: what `results_frame` returned.
        confidence: of the same trials.

    Returns:
        What the architecture is; `num_seeds`, `seeds` and `tradeoffs` as texts; the mean of every metric over
        retrainings under the metric's name, and under NAME_sd its standard deviation over seeds, where there
        are several and they differ; the interval of the accuracy at 95 % as ACCURACY_low and ACCURACY_high,
        and in `interval_over` what it is over. Of each front in `COSTS` whether the configuration is on it;
        with `pareto` for its prefix: `_rival`, the configuration that it must be told apart from,
        `_difference`, `_low` and `_high`, by how much its accuracy is better, and `_decided`, whether the
        data tell.
    """
    accuracy = confidence.accuracy
    metrics = metric_names(frame)
    means = configurations(frame, metrics, accuracy=accuracy).sort_values(["flops", accuracy])
    distinct = frame.dropna(subset=[accuracy]).drop_duplicates(["architecture_id", "seed", accuracy])
    by_seed = distinct.groupby(["architecture_id", "seed"])[metrics].mean()
    deviations = by_seed.groupby("architecture_id").std()
    tradeoffs = tradeoff_labels(frame, counted=True)
    standings = {flag: confidence.standings(cost) for flag, cost in COSTS.items() if cost in frame}
    sizes = [name for name in Architecture.__dataclass_fields__ if name in frame]
    first = frame.drop_duplicates("architecture_id").set_index("architecture_id")
    rows: list[dict[str, Any]] = []
    for key, mean in means.iterrows():
        name = str(key)
        spread = confidence.spread(name)
        row: dict[str, Any] = {
            "architecture_id": name,
            **{size: first.loc[name, size] for size in sizes},
            "tradeoffs": tradeoffs[name].removeprefix("λ "),
            "num_seeds": len(spread.seeds),
            "seeds": ", ".join(map(str, spread.seeds)),
            **{str(metric): float(value) for metric, value in mean.items()},
            f"{accuracy}_low": spread.low,
            f"{accuracy}_high": spread.high,
            "interval_over": spread.method,
        }
        for metric in metrics:
            deviation = float(deviations[metric][name])
            if deviation > 0:  # not where it is NaN or what is exact, such as FLOPs
                row[f"{metric}_sd"] = deviation
        for flag in COSTS:
            row |= _standing_columns(flag, standings.get(flag, {}).get(name))
        rows.append(row)
    return pd.DataFrame(rows)


def _standing_columns(flag: str, standing: Standing | None) -> dict[str, Any]:
    compared = None if standing is None else standing.comparison
    return {
        flag: standing is not None and standing.on_front,
        f"{flag}_rival": None if standing is None else standing.rival,
        f"{flag}_difference": math.nan if compared is None else compared.difference,
        f"{flag}_low": math.nan if compared is None else compared.low,
        f"{flag}_high": math.nan if compared is None else compared.high,
        f"{flag}_decided": standing is not None and standing.decided,
    }


def write_configurations(table: pd.DataFrame, directory: Path) -> Path:
    """Write what `configurations_frame` returned, whole or not at all; returns the file."""
    path = directory / CONFIGURATIONS
    write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))
    return path


@dataclass(frozen=True, kw_only=True)
class ConfigurationRecord:
    """A configuration as MLflow shows it, beside the trials that it sums up."""

    architecture_id: str
    """Names it within its sweep."""
    name: str
    """What the UI calls it."""
    params: dict[str, Param]
    """What the architecture is."""
    metrics: dict[str, float]
    """Means under the names that trials have too, with deviations and interval as `configurations_frame`
    names them."""
    tags: dict[str, str]
    """On which fronts it is, and which configurations the data do not tell it apart from."""
    start_ms: int
    """When its first trial started, in ms since 1970."""
    end_ms: int
    """When its last trial ended, in ms since 1970."""


def configuration_records(table: pd.DataFrame, records: Sequence[TrialRecord]) -> list[ConfigurationRecord]:
    """The configurations of a sweep, or none where it has one seed: they would repeat its trials.

    Args:
        table: what `configurations_frame` returned.
        records: the finished trials.
    """
    if len({record.seed for record in records}) < 2:
        return []
    found = []
    for row in table.to_dict("records"):
        name = str(row["architecture_id"])
        own = [record for record in records if record.architecture.architecture_id == name]
        architecture = own[0].architecture
        numbers = {
            str(key): float(value)
            for key, value in row.items()
            if "/" in str(key) or str(key).removesuffix("_sd") in own[0].metrics
        }
        tags = {
            "architecture_id": name,
            "seeds": row["seeds"],
            "tradeoffs": row["tradeoffs"],
            "interval_over": row["interval_over"],
            **{flag: str(bool(row[flag])).lower() for flag in COSTS},
        }
        for flag in COSTS:
            if row[flag] and not row[f"{flag}_decided"]:
                tags[f"{flag}_not_told_apart_from"] = row[f"{flag}_rival"]
        found.append(
            ConfigurationRecord(
                architecture_id=name,
                name=f"{short_name(architecture)}, mean of {row['num_seeds']} seed"
                + "s" * (row["num_seeds"] > 1),
                params={
                    **{f"architecture.{key}": value for key, value in architecture.to_dict().items()},
                    "architecture_id": name,
                },
                metrics={
                    **{key: value for key, value in numbers.items() if math.isfinite(value)},
                    "num_seeds": float(row["num_seeds"]),
                },
                tags=tags,
                start_ms=min(record.start_ms for record in own),
                end_ms=max(record.end_ms for record in own),
            )
        )
    return found


def short_name(architecture: Architecture) -> str:
    """What people call an architecture among others of its space.

    >>> short_name(Architecture(32, 128, 2, 4))
    '2 x 32/128'
    """
    return f"{architecture.num_layers} x {architecture.hidden_size}/{architecture.inner_size}"
