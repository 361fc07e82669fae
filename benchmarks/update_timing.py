"""Updates of users' states against full forward passes, for `benchmarks/serving.py`."""

import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from peers.client import Entrant, Worker, take_turns
from report import judged, markdown_table, milliseconds, paragraph, verdict

from easrec.models.architecture import Architecture
from easrec.nas.resources import network_flops, request_flops, scoring_flops
from easrec.serving.streaming import output_flops, update_flops

HERE = Path(__file__).parent
LENGTHS = (200, 2000)
USERS = (1, 1000)
FASTER_THAN_FULL = {200: 5.0, 2000: 20.0}
FEWER_FLOPS = 20.0
EVENTS = (10, 100, 1000, 10_000)
MOST_VARIATION = 1.10
DISTINCT_POSITIONS = 8000
"""Of many users so many positions are passed through the full network; the time is multiplied to all
users."""

WHOLE_REQUEST = "update and recommend"
PAIRS = (
    ("update and output", "full"),
    ("update and output", "full by torch"),
    ("update and output", "forward"),
    ("update", "full"),
    (WHOLE_REQUEST, "recommend"),
)
"""What is done from states, and from whole histories."""
_COLUMNS = ("", "users", "threads", "median ms", "p95", "p99", "the other's", "times faster", "target")

_NOTES = """
Fresh weights. `full` gives the outputs of whole histories of N items as `Recommender` computes them, by ONNX
Runtime; `full by torch` is `last_outputs`, 4,000 positions at once (its fastest). Both compute the last layer
at the last position alone; `forward` is the forward pass that `flops` counts, all layers at all positions, by
torch. Of 1,000 users as many as {positions:,} positions are timed, and the time is multiplied. `update` takes
one more item of each user into the states, `output` gives from them what `full` gives: `update and output`
does the same as `full`, an `update` alone is what an event costs whose user is not asked for. `update and
recommend`: raw item ids in, the ten best out, against `Recommender.recommend` of the histories."""


def time_updates(architectures: Mapping[str, Architecture], threads: tuple[int, ...]) -> str:
    """Time updates, as markdown.

    Args:
        architectures: by the names that the tables have.
        threads: numbers of CPU threads.
    """
    rows: list[list[str]] = []
    with Worker([sys.executable, HERE / "streaming_worker.py"], max(threads)) as worker:
        for name, architecture in architectures.items():
            for length, users, count in itertools.product(LENGTHS, USERS, threads):
                rows += _against_full(name, architecture, length, users, count, worker)
        flatness = _flatness(architectures, threads, worker)
    return "\n\n".join(
        [
            "### A new interaction: update of a state against a full forward pass",
            paragraph(_NOTES.format(positions=DISTINCT_POSITIONS)),
            _flops_table(architectures),
            markdown_table(_COLUMNS, rows),
            "### An update after more and more events",
            flatness,
        ]
    )


def _flops_table(architectures: Mapping[str, Architecture]) -> str:
    rows, verdicts = [], []
    for name, architecture in architectures.items():
        update, output = update_flops(architecture), output_flops(architecture)
        for length in LENGTHS:
            full = request_flops(architecture, length, 0) - scoring_flops(architecture, 0)
            factor = full / (update + output)
            rows.append(
                [
                    f"{name}, N = {length:,}",
                    f"{network_flops(architecture, length):,}",
                    f"{full:,}",
                    f"{update:,}",
                    f"{output:,}",
                    f"{factor:.1f}",
                ]
            )
            if length == LENGTHS[0]:
                what = f"{name}, N = {length:,}: update and output against full"
                verdicts.append(verdict(what, factor, FEWER_FLOPS, "times fewer FLOPs"))
    columns = ("FLOPs for one user", "forward", "full", "update", "output", "full / (update + output)")
    return markdown_table(columns, rows) + "\n\n" + "\n".join(verdicts)


def _against_full(
    name: str, architecture: Architecture, length: int, users: int, threads: int, worker: Worker
) -> list[list[str]]:
    """A row for each of `PAIRS`."""
    distinct = min(users, max(1, DISTINCT_POSITIONS // length))
    scenario = _give_scenario(worker, architecture, length, users, distinct, length)
    worker.ask(do="threads", count=threads)
    print(f"timing updates: {name}, N = {length}, {users} user(s), {threads} thread(s)", file=sys.stderr)
    entrants = {contestant: Entrant(worker, contestant, scenario) for contestant, _ in PAIRS}
    for _, other in PAIRS:
        entrants[other] = Entrant(worker, other, scenario, users / distinct)
    rounds, size = (40, 10) if users == 1 else (20, 1)
    times = take_turns(entrants, rounds=rounds, count=size, untimed=1)
    rows = []
    for contestant, other in PAIRS:
        of, histories = times[contestant], times[other]
        factor = histories.ratio(of)
        figures = map(milliseconds, (of.median, of.quantile(0.95), of.quantile(0.99), histories.median))
        rows.append(
            [
                f"{name}, N = {length:,}: {contestant} against {other}",
                f"{users:,}",
                str(threads),
                *figures,
                f"{factor:.1f}",
                "-" if contestant == WHOLE_REQUEST else judged(factor, FASTER_THAN_FULL[length]),
            ]
        )
    return rows


def _flatness(architectures: Mapping[str, Architecture], threads: tuple[int, ...], worker: Worker) -> str:
    """Medians by number of events, at N = 200."""
    rows, verdicts = [], []
    for name, architecture in architectures.items():
        for users in USERS:
            for count in threads:
                worker.ask(do="threads", count=count)
                entrants = {}
                for events in EVENTS:
                    scenario = _give_scenario(worker, architecture, LENGTHS[0], users, 1, events)
                    entrants[f"{events:,}"] = Entrant(worker, "update", scenario)
                rounds, size = (80, 20) if users == 1 else (40, 2)
                times = take_turns(entrants, rounds=rounds, count=size)
                medians = [by_events.median for by_events in times.values()]
                what = f"{name}, {users:,} user(s), {count} thread(s)"
                rows.append([what, *map(milliseconds, medians)])
                first = next(iter(times.values()))
                ratios = [by_events.ratio(first) for by_events in times.values()]
                verdicts.append(
                    verdict(
                        f"{what}: slowest to fastest",
                        max(ratios) / min(ratios),
                        MOST_VARIATION,
                        "",
                        most=True,
                    )
                )
    columns = (f"median ms of an update at N = {LENGTHS[0]}", *(f"{events:,} events" for events in EVENTS))
    return markdown_table(columns, rows) + "\n\n" + "\n".join(verdicts)


def _give_scenario(
    worker: Worker, architecture: Architecture, length: int, users: int, distinct: int, events: int
) -> str:
    request = {
        "architecture": architecture.to_json(),
        "max_length": length,
        "users": users,
        "distinct": distinct,
        "events": events,
    }
    name = json.dumps(request)
    worker.ask(do="requests", name=name, requests=[request])
    return name
