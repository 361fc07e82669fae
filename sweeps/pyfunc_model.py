"""An exported network as an MLflow model, from this code and a bundle: nothing is pickled.

MLflow copies this file beside the bundle and runs it when the model is loaded, so it imports what is
installed with easrec and nothing of its neighbours.
"""

from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext

from easrec.errors import InputError
from easrec.serving import Recommender


class RecommenderModel(PythonModel):  # type: ignore[misc]
    """Answers one row, a user's history, with items, their scores, and whether they are merely popular."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle; MLflow calls it once for each process."""
        self._recommender = Recommender.load(context.artifacts["bundle"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Recommend to each row.

        Args:
            context: what `load_context` was given.
            model_input: column `history`, item ids as the data set has them, from old to new.
            params: `k`, how many items, and `exclude_seen`, whether those of the history are left out.

        Returns:
            Columns `items`, best first, `scores`, and `by_popularity`: whether nothing in the history was
            known, so that the most popular items of training are given and scores are their counts.

        Raises:
            MlflowException: a parameter or a history that cannot be meant; a server answers with status 400.
        """
        params = params or {}
        try:
            answer = self._recommender.recommend(
                model_input["history"].tolist(),
                int(params.get("k", 10)),
                exclude_seen=bool(params.get("exclude_seen", True)),
            )
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return pd.DataFrame(
            {"items": answer.items, "scores": answer.scores, "by_popularity": answer.by_popularity}
        )


mlflow.models.set_model(RecommenderModel())
