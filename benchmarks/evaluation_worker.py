"""Our side of `benchmarks/evaluation.py`: `easrec.evaluation.protocols.evaluate` of all validation questions.

python evaluation_worker.py DATA

A request is {"architecture": JSON, "max_length": N, "protocol": name}. The weights are those that the network
is built with. Before any is timed, its ranks are compared with a plain path: one question at a time, in
float64, without padding, an item compared with the target by itself.
"""

import sys
from functools import cache
from typing import Any

import numpy as np
import torch
from peers.worker import Contestant, work
from report import own_versions

from easrec.data.interactions import load_interactions
from easrec.data.sequences import SplitData, leave_one_out
from easrec.evaluation.protocols import NUM_NEGATIVES, SAMPLED, evaluate, protocol_ranks, sample_negatives
from easrec.models.architecture import Architecture
from easrec.models.transformer import SequentialRecommender

ROUNDING = 1e-5
"""Scores of float32 and float64 that differ by less may stand in either order."""


class Evaluation:
    """A network and a protocol."""

    def __init__(self, data: SplitData, request: dict[str, Any]) -> None:
        self.data, self.protocol = data, request["protocol"]
        architecture = Architecture.from_json(request["architecture"])
        torch.manual_seed(0)
        self.model = SequentialRecommender(architecture, data.num_items, request["max_length"]).eval()
        self._check()

    def evaluate(self) -> dict[str, float]:
        """All validation questions; returns the metrics."""
        return evaluate(
            self.model.scores,
            self.data,
            "valid",
            max_length=self.model.max_length,
            protocols=(self.protocol,),
        )

    @torch.inference_mode()
    def _check(self) -> None:
        found = protocol_ranks(
            self.model.scores,
            self.data,
            "valid",
            max_length=self.model.max_length,
            protocols=(self.protocol,),
        )[self.protocol]
        exact = SequentialRecommender(self.model.architecture, self.data.num_items, self.model.max_length)
        exact.load_state_dict(self.model.state_dict())
        exact.double().eval()
        candidates = self._candidates()
        questions = self.data.valid
        for question, (row, position) in enumerate(zip(questions.rows, questions.positions, strict=True)):
            history = self.data.items[self.data.starts[row] : position][-self.model.max_length :]
            output = exact.forward(torch.from_numpy(history.astype(np.int64))[None])[0, -1]
            scores = (exact.item_embedding.weight @ output).tolist()
            target = scores[self.data.items[position]]
            others = [scores[item] for item in candidates[question] if item != self.data.items[position]]
            least = 1 + sum(score > target + ROUNDING for score in others)
            most = 1 + sum(score > target - ROUNDING for score in others)
            if not least <= found[question] <= most:
                raise RuntimeError(
                    f"{self.protocol}, question {question}: rank {found[question]}, and between {least} and "
                    f"{most} by the plain path"
                )

    def _candidates(self) -> list[list[int]]:
        """The items that each question's target is ranked among."""
        questions = self.data.valid
        if self.protocol not in SAMPLED:
            return [list(range(1, self.data.num_items + 1))] * len(questions.rows)
        distribution = SAMPLED[self.protocol]
        negatives = sample_negatives(
            self.data, "valid", distribution=distribution, num_negatives=NUM_NEGATIVES
        ).tolist()
        for row, position, drawn in zip(questions.rows, questions.positions, negatives, strict=True):
            excluded = set(self.data.items[self.data.starts[row] : position + 1].tolist())
            if len(drawn) != NUM_NEGATIVES or not excluded.isdisjoint(drawn) or min(drawn) < 1:
                raise RuntimeError(f"{self.protocol}: row {row} has negatives that it must not have")
        return negatives


def main() -> None:
    """Load the data and serve the driver."""
    data = leave_one_out(load_interactions(sys.argv[1]))
    evaluation = cache(lambda settings: Evaluation(data, dict(settings)))

    def prepare(request: dict[str, Any]) -> Evaluation:
        return evaluation(tuple(sorted(request.items())))

    contestants = {"evaluate": Contestant(Evaluation.evaluate, prepare)}
    work(contestants, own_versions("easrec", "torch", "numpy"), torch.set_num_threads)


if __name__ == "__main__":
    main()
