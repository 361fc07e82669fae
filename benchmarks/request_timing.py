"""Requests for `benchmarks/serving.py`: networks that are given raw item ids and answer with the best ten.

Every answer is checked before anything is timed, against the network in float64 by another path.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peers.client import Entrant, Times, Worker, take_turns
from peers.inter_file import write_inter
from report import paragraph, times_table, verdict

from easrec.data.interactions import Interactions
from easrec.data.items import Items
from easrec.data.sequences import SplitData
from easrec.models.transformer import SequentialRecommender
from easrec.serving import save_bundle

HERE = Path(__file__).parent
TOP_K = 10
FASTER_THAN_RECBOLE = 5.0
RECBOLE = "RecBole SASRec, 2 x 64/256"

Networks = Mapping[str, SequentialRecommender]
"""By the names that the tables have; the first is ours, the one that others are compared with."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests of one size, and how many of them are timed."""

    name: str
    users: int
    requests: int
    """Different requests."""
    rounds: int
    count: int
    """Requests of a turn."""
    untimed: int


BATCHES = (
    Batch("one user", 1, 200, 40, 25, 3),
    Batch("64 users", 64, 8, 20, 5, 1),
    Batch("1,024 users", 1024, 2, 20, 1, 0),
)


def time_requests(
    networks: Networks, interactions: Interactions, data: SplitData, recbole: Path, threads: tuple[int, ...]
) -> tuple[str, dict[str, str]]:
    """Check and time requests.

    Args:
        networks: whose requests.
        interactions: the log.
        data: its split; requests are the histories of test users.
        recbole: Python of RecBole's environment.
        threads: numbers of CPU threads.

    Returns:
        Markdown, and versions of what took part.
    """
    items = Items.of(interactions, data)
    with _workers(networks, interactions, items, recbole, max(threads)) as (ours, theirs):
        for batch in BATCHES:
            _give_requests(batch, networks, interactions, data, ours, theirs)
        parts = ["### Raw item ids in, the ten best item ids out", paragraph(_REQUESTS)]
        verdicts: list[str] = []
        for batch in BATCHES:
            times = {count: _time(batch, networks, "", ours, theirs, count) for count in threads}
            parts.append(times_table(batch.name, times))
            if batch.users == 1:
                verdicts = _verdicts(times)
        parts += verdicts
        parts += ["### The network's call alone", paragraph(_SCORES)]
        for batch in BATCHES[:2]:
            times = {count: _time(batch, networks, " scores", ours, theirs, count) for count in threads}
            parts.append(times_table(batch.name, times))
        versions = ours.description["versions"] | {"RecBole": theirs.description["versions"]["recbole"]}
    return "\n\n".join(parts), versions


_REQUESTS = """
Histories of test users, whole. Ours leave out what a user has seen; RecBole's evaluation does not. `ONNX
Runtime` is the exported graph with no more around it than a dictionary of ids and numpy's partition.
RecBole's request is put together from its own parts (dictionary of tokens, `Interaction`,
`full_sort_predict` under `inference_mode`, `topk`, `id2token`); its weights are fresh, which does not change
its time."""
_SCORES = """
Numbers of items in, scores of all items out: `SequentialRecommender.scores`, the ONNX graph, and RecBole's
`full_sort_predict`."""


def _verdicts(times: Mapping[int, Mapping[str, Times]]) -> list[str]:
    found = []
    for threads, by_name in times.items():
        for name in list(by_name)[:2]:
            ratio = by_name[RECBOLE].ratio(by_name[name])
            what = f"{name}, {threads} thread(s): one user's top ten against RecBole's"
            found.append(verdict(what, ratio, FASTER_THAN_RECBOLE, "times faster"))
    return ["\n".join(found)]


def _time(
    batch: Batch, networks: Networks, ending: str, ours: Worker, theirs: Worker, threads: int
) -> dict[str, Times]:
    for worker in (ours, theirs):
        worker.ask(do="threads", count=threads)
    entrants: dict[str, Entrant] = {}
    for number, name in enumerate(networks):
        entrants[name] = Entrant(ours, f"{number}{ending}", batch.name)
        entrants[f"{name}, ONNX Runtime"] = Entrant(ours, f"{number} onnx{ending}", batch.name)
    entrants[RECBOLE] = Entrant(theirs, f"recbole{ending}", batch.name)
    print(f"timing {batch.name}{ending}, {threads} thread(s)", file=sys.stderr)
    return take_turns(entrants, rounds=batch.rounds, count=batch.count, untimed=batch.untimed)


@contextmanager
def _workers(
    networks: Networks, interactions: Interactions, items: Items, recbole: Path, threads: int
) -> Iterator[tuple[Worker, Worker]]:
    """Our worker, which knows networks by their numbers, and RecBole's."""
    with tempfile.TemporaryDirectory(prefix="easrec-serving-") as name:
        folder = Path(name)
        numbers = [str(number) for number in range(len(networks))]
        for number, model in zip(numbers, networks.values(), strict=True):
            save_bundle(folder / number, model, items)
        write_inter(interactions, folder, "log")
        script = HERE / "peers" / "recbole_serving.py"
        with (
            Worker([sys.executable, HERE / "serving_worker.py", folder, *numbers], threads) as ours,
            Worker([recbole, script, folder, "log"], threads) as theirs,
        ):
            yield ours, theirs


def _give_requests(
    batch: Batch,
    networks: Networks,
    interactions: Interactions,
    data: SplitData,
    ours: Worker,
    theirs: Worker,
) -> None:
    """Hand both sides the same requests, and check our answers to them; RecBole's worker checks its own."""
    users = np.random.default_rng(0).permutation(len(data.test.rows))
    chosen = np.resize(users, (batch.requests, batch.users))
    requests = [[_history(interactions, data, user) for user in row] for row in chosen]
    ours.ask(do="requests", name=batch.name, requests=requests)
    texts = [[[str(own_id) for own_id in history] for history in row] for row in requests]
    theirs.ask(do="requests", name=batch.name, requests=texts)
    for number, (name, model) in enumerate(networks.items()):
        scores = _reference_scores(model, data)
        for ending in ("", " scores", " onnx", " onnx scores"):
            answers = ours.ask(do="answer", of=f"{number}{ending}", requests=batch.name)["answers"]
            found = [answer for request in answers for answer in request]
            rows = scores[chosen.reshape(-1)]
            check_answers(found, rows, interactions.item_ids, f"{name}{ending}, {batch.name}")


def _history(interactions: Interactions, data: SplitData, user: int) -> list[Any]:
    """All own ids that a test user has met before the target, from old to new."""
    begin, end = data.starts[data.test.rows[user]], data.test.positions[user]
    history: list[Any] = interactions.item_ids[data.items[begin:end]].tolist()
    return history


def _reference_scores(model: SequentialRecommender, data: SplitData) -> torch.Tensor:
    """Scores of all test users, (Q, V + 1), by another way: float64, all positions computed, seen items
    -inf."""
    users = np.arange(len(data.test.rows))
    item_ids, lengths = data.histories("test", users, model.max_length)
    exact = SequentialRecommender(model.architecture, model.num_items, model.max_length).double().eval()
    exact.load_state_dict(model.state_dict())
    with torch.inference_mode():
        outputs = exact(torch.from_numpy(item_ids))[torch.arange(len(users)), torch.from_numpy(lengths) - 1]
        scores = outputs @ exact.item_embedding.weight.T
        scores[:, 0] = -torch.inf
        for user in users:
            begin, end = data.starts[data.test.rows[user]], data.test.positions[user]
            scores[user, torch.from_numpy(data.items[begin:end].astype(np.int64))] = -torch.inf
    return scores


def check_answers(
    answers: list[list[Any]], scores: torch.Tensor, own_ids: npt.NDArray[Any], what: str
) -> None:
    """Refuse answers that are not the best items; items that differ by rounding alone may change places.

    Raises:
        RuntimeError: an answer is wrong.
    """
    numbers = {own_id: number for number, own_id in enumerate(own_ids.tolist())}
    for answer, row in zip(answers, scores, strict=True):
        found = row[[numbers[own_id] for own_id in answer]]
        best = row.topk(TOP_K).values
        if len(set(answer)) != TOP_K or not torch.allclose(found, best, rtol=1e-4, atol=1e-4):
            raise RuntimeError(f"{what}: {answer} is not the best answer; nothing was timed")
