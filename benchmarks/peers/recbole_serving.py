"""RecBole's SASRec, answering requests for `benchmarks/serving.py`; runs in RecBole's environment.

    PYTHON recbole_serving.py FOLDER NAME

FOLDER/NAME/NAME.inter is the log. The network has the size of RecBole's own SASRec (hidden 64, inner 256, 2
layers, 2 heads) and N = 50. Its weights are those that it is built with: how long an answer takes does not
depend on them.

RecBole ranks inside its evaluation loop and has no call that takes raw ids, so a request is put together
from its public parts in the fastest way they allow: the dictionary `field2token_id` (its `token2id` asks a
list item by item, with more checks), `Interaction`, `full_sort_predict` under `inference_mode`, `topk`,
`id2token`.
"""

import sys
from importlib.metadata import version

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender.sasrec import SASRec
from recbole.utils.case_study import full_sort_scores
from settings import common_settings
from worker import Contestant, work

MAX_LENGTH = 50
TOP_K = 10


class Ranking:
    """Raw item ids in, the ten best raw item ids out."""

    def __init__(self, folder: str, name: str) -> None:
        changed = {"MAX_ITEM_LIST_LENGTH": MAX_LENGTH}
        config = Config(model="SASRec", dataset=name, config_dict=common_settings(folder) | changed)
        self.dataset = create_dataset(config)
        *_, self.test_data = data_preparation(config, self.dataset)
        torch.manual_seed(0)
        self.model = SASRec(config, self.dataset).eval()
        self.item_field = self.dataset.iid_field
        self.numbers = self.dataset.field2token_id[self.item_field]

    def interaction(self, histories: list[list[str]]) -> Interaction:
        """Histories as RecBole's own loader gives them to the network, padded to MAX_LENGTH."""
        rows = np.zeros((len(histories), MAX_LENGTH), dtype=np.int64)
        lengths = np.empty(len(histories), dtype=np.int64)
        for row, history in enumerate(histories):
            last = [self.numbers[token] for token in history[-MAX_LENGTH:]]
            rows[row, : len(last)] = last
            lengths[row] = len(last)
        return Interaction(
            {self.model.ITEM_SEQ: torch.from_numpy(rows), self.model.ITEM_SEQ_LEN: torch.from_numpy(lengths)}
        )

    @torch.inference_mode()
    def scores(self, interaction: Interaction) -> torch.Tensor:
        """The network's call alone, (B, items + 1)."""
        return self.model.full_sort_predict(interaction)

    @torch.inference_mode()
    def best(self, scores: torch.Tensor) -> list[list[str]]:
        """The best items of each row of scores."""
        scores[:, 0] = -np.inf
        numbers = scores.topk(TOP_K).indices.numpy()
        return self.dataset.id2token(self.item_field, numbers).tolist()

    def recommend(self, histories: list[list[str]]) -> list[list[str]]:
        """A whole request."""
        return self.best(self.scores(self.interaction(histories)))

    def check(self) -> None:
        """Compare answers for test users with RecBole's `full_sort_scores` of the same users.

        Items whose scores differ by rounding alone may change places.
        """
        users = torch.arange(1, min(self.dataset.user_num, 101)).numpy()
        expected = full_sort_scores(users, self.model, self.test_data)
        best = expected.topk(TOP_K).values
        tested = self.test_data.dataset
        histories = []
        for user in users:
            (row,) = (tested.inter_feat[tested.uid_field] == int(user)).nonzero().squeeze(1).tolist()
            length = int(tested.inter_feat[self.model.ITEM_SEQ_LEN][row])
            numbers = tested.inter_feat[self.model.ITEM_SEQ][row][:length]
            histories.append(self.dataset.id2token(self.item_field, numbers).tolist())
        one_by_one = [self.recommend([history])[0] for history in histories]
        for answers in (self.recommend(histories), one_by_one):
            numbers = torch.tensor([[self.numbers[token] for token in answer] for answer in answers])
            found = expected.gather(1, numbers)
            if not torch.allclose(found, best, rtol=1e-4, atol=1e-5):
                raise RuntimeError("the answers differ from RecBole's own full_sort_scores")


def main() -> None:
    """Build the network, check its answers, serve the driver."""
    folder, name = sys.argv[1:]
    sys.argv[1:] = []  # RecBole's Config reads the command line too
    ranking = Ranking(folder, name)
    ranking.check()
    contestants = {
        "recbole": Contestant(ranking.recommend),
        "recbole scores": Contestant(
            ranking.scores, ranking.interaction, lambda scores, _: ranking.best(scores)
        ),
    }
    versions = {name: version(name) for name in ("recbole", "torch", "numpy")}
    work(contestants, versions, torch.set_num_threads)


if __name__ == "__main__":
    main()
