"""Our side of `benchmarks/serving.py`: networks in bundles, answering requests.

python serving_worker.py FOLDER NAME ...

FOLDER/NAME is a bundle. Each gives four contestants: NAME, a whole request through `Recommender`; `NAME
scores`, the network's call alone; `NAME onnx` and `NAME onnx scores`, the same by ONNX Runtime.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from peers.worker import Contestant, work
from report import own_versions

from easrec.serving import Bundle, Recommender, load_bundle

TOP_K = 10

History = list[Any]
Inputs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class Ranking:
    """What a service of its own would do around a network: ids to numbers, the best numbers to ids."""

    def __init__(self, bundle: Bundle) -> None:
        self.model = bundle.model
        self.own_ids = bundle.items.own_ids
        self.numbers = {own_id: number for number, own_id in enumerate(self.own_ids.tolist()) if number}
        self.onnx_file = str(bundle.directory / "model.onnx")
        self.set_threads(1)

    def set_threads(self, count: int) -> None:
        """ONNX Runtime takes its threads when a session is made."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = count
        self.session = onnxruntime.InferenceSession(self.onnx_file, options)

    def inputs(self, histories: list[History]) -> Inputs:
        """Item ids (B, N) and lengths (B,)."""
        rows = np.zeros((len(histories), self.model.max_length), dtype=np.int64)
        lengths = np.empty(len(histories), dtype=np.int64)
        for row, history in enumerate(histories):
            last = [self.numbers[own_id] for own_id in history[-self.model.max_length :]]
            rows[row, : len(last)] = last
            lengths[row] = len(last)
        return rows, lengths

    def tensors(self, histories: list[History]) -> tuple[torch.Tensor, torch.Tensor]:
        """The same as tensors."""
        rows, lengths = self.inputs(histories)
        return torch.from_numpy(rows), torch.from_numpy(lengths)

    @torch.inference_mode()
    def torch_scores(self, inputs: tuple[torch.Tensor, torch.Tensor]) -> npt.NDArray[np.float32]:
        """The network's call, (B, V + 1)."""
        scores: npt.NDArray[np.float32] = self.model.scores(*inputs).numpy()
        return scores

    def onnx_scores(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """The same by ONNX Runtime."""
        feeds = dict(zip(("item_ids", "lengths"), inputs, strict=True))
        (scores,) = self.session.run(None, feeds)
        return np.asarray(scores)

    def best(self, scores: npt.NDArray[np.float32], histories: list[History]) -> list[History]:
        """The best items that are not in the histories."""
        for row, history in zip(scores, histories, strict=True):
            row[[self.numbers[own_id] for own_id in history]] = -np.inf
        best = np.argpartition(-scores, TOP_K, axis=1)[:, :TOP_K]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        answers: list[History] = self.own_ids[np.take_along_axis(best, order, axis=1)].tolist()
        return answers

    def onnx_recommend(self, histories: list[History]) -> list[History]:
        """A whole request by ONNX Runtime."""
        return self.best(self.onnx_scores(self.inputs(histories)), histories)


def main() -> None:
    """Load the bundles and serve the driver."""
    folder, *names = sys.argv[1:]
    rankings: list[Ranking] = []
    contestants: dict[str, Contestant] = {}
    for name in names:
        recommender = Recommender.load(Path(folder, name))
        ranking = Ranking(load_bundle(Path(folder, name)))
        rankings.append(ranking)

        def recommend(histories: list[History], recommender: Recommender = recommender) -> list[History]:
            return recommender.recommend(histories, TOP_K).items

        contestants |= {
            name: Contestant(recommend),
            f"{name} scores": Contestant(ranking.torch_scores, ranking.tensors, ranking.best),
            f"{name} onnx": Contestant(ranking.onnx_recommend),
            f"{name} onnx scores": Contestant(ranking.onnx_scores, ranking.inputs, ranking.best),
        }

    def set_threads(count: int) -> None:
        torch.set_num_threads(count)
        for ranking in rankings:
            ranking.set_threads(count)

    work(contestants, own_versions("easrec", "torch", "onnxruntime", "numpy"), set_threads)


if __name__ == "__main__":
    main()
