"""A process that answers and times requests for a driver, line by line; standard library alone.

It runs in the project's environment and in a peer's, so that both sides are timed by the same code. The
driver writes one JSON object per line to standard input and reads one from standard output:

    {"do": "describe"}                                  -> {"versions": {...}, "contestants": [...]}
    {"do": "threads", "count": 2}                       -> {}
    {"do": "requests", "name": "one", "requests": [...]} -> {}
    {"do": "answer", "of": "scores", "requests": "one"} -> {"answers": [...]}
    {"do": "time", "of": "scores", "requests": "one", "begin": 0, "count": 25, "untimed": 2}
                                                        -> {"seconds": [...]}

A request is a batch of histories, each a list of item ids as the log has them; an answer is a list of item
ids for each. Whatever a library prints goes to standard error. A failure ends the process with its
traceback there.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _unchanged(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Contestant:
    """Something that is timed."""

    run: Callable[[Any], Any]
    """What is timed: gives the result for one prepared request."""
    prepare: Callable[[Any], Any] = _unchanged
    """Makes a request ready, before the clock runs."""
    answer: Callable[[Any, Any], Any] = lambda result, request: result
    """(result, request) -> the items of the answer, after the clock has stopped."""
    own_clock: bool = False
    """Whether `run` returns its seconds itself, since not all that it does is to be timed."""


def work(
    contestants: dict[str, Contestant], versions: dict[str, str], threads: Callable[[int], None]
) -> None:
    """Serve the driver until it closes standard input.

    Args:
        contestants: by name.
        versions: of the libraries that take part.
        threads: sets the number of threads.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: dict[str, list[Any]] = {}
    for line in sys.stdin:
        command = json.loads(line)
        reply: dict[str, Any] = {}
        match command["do"]:
            case "describe":
                reply = {"versions": versions, "contestants": list(contestants)}
            case "threads":
                threads(command["count"])
            case "requests":
                requests[command["name"]] = command["requests"]
            case "answer":
                contestant, asked = contestants[command["of"]], requests[command["requests"]]
                answers = [contestant.answer(contestant.run(contestant.prepare(r)), r) for r in asked]
                reply = {"answers": answers}
            case "time":
                reply = {"seconds": _time(contestants[command["of"]], requests[command["requests"]], command)}
            case unknown:
                raise ValueError(f"unknown command {unknown!r}")
        print(json.dumps(reply), file=replies, flush=True)


def _time(contestant: Contestant, requests: list[Any], command: dict[str, Any]) -> list[float]:
    """Seconds of `count` requests from the one at `begin` on, round and round, after some untimed ones."""
    begin, count, untimed = command["begin"], command["count"], command["untimed"]
    seconds = []
    for step in range(begin - untimed, begin + count):
        prepared = contestant.prepare(requests[step % len(requests)])
        start = time.perf_counter()
        result = contestant.run(prepared)
        seconds.append(result if contestant.own_clock else time.perf_counter() - start)
    return seconds[untimed:]
