"""The items of a data set as its user knows them, and how popular they are in training.

Legend: V items (ids 1..V; 0 is padding).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from easrec.data.interactions import Interactions
from easrec.data.sequences import Int64s, SplitData
from easrec.errors import InputError
from easrec.files import write_atomically


@dataclass(frozen=True, eq=False)
class Items:
    """What a network's item ids 1..V stand for."""

    own_ids: npt.NDArray[Any]
    """The data set's own id of each item, (V + 1,): int64, or objects of type str; [0] stands for padding."""
    training_counts: Int64s
    """How often each item occurs in training, int64 (V + 1,); [0] is 0."""

    def __post_init__(self) -> None:
        if self.own_ids.ndim != 1 or self.own_ids.shape != self.training_counts.shape:
            raise ValueError(
                "own_ids and training_counts must be (V + 1,), got "
                f"{self.own_ids.shape} and {self.training_counts.shape}"
            )

    @property
    def num_items(self) -> int:
        """V."""
        return len(self.own_ids) - 1

    @property
    def are_texts(self) -> bool:
        """Whether the own ids are texts; otherwise they are whole numbers."""
        return self.own_ids.dtype == object

    @classmethod
    def of(cls, interactions: Interactions, data: SplitData) -> "Items":
        """The items of a log, counted in the training part of its split."""
        return cls(interactions.item_ids, data.training_counts())

    def save(self, path: Path | str) -> None:
        """Write one row per item as parquet (item, own_id, training_count), atomically."""
        frame = pd.DataFrame(
            {
                "item": np.arange(1, self.num_items + 1),
                "own_id": self.own_ids[1:],
                "training_count": self.training_counts[1:],
            }
        )
        write_atomically(path, lambda temporary: frame.to_parquet(temporary, index=False))

    @classmethod
    def load(cls, path: Path | str) -> "Items":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, cannot be read, or holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"there is no file of items {path}")
        try:
            frame = pd.read_parquet(path)
            numbers = frame["item"].to_numpy()
            counts = frame["training_count"].to_numpy(dtype=np.int64)
            own_ids = frame["own_id"]
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise InputError(f"{path} is no file of items ({str(error).splitlines()[0]})") from error
        if not np.array_equal(numbers, np.arange(1, len(frame) + 1)):
            raise InputError(f"{path} is no file of items: column 'item' is not 1, 2, 3 and so on")
        texts = not pd.api.types.is_integer_dtype(own_ids.dtype)
        with_padding: npt.NDArray[Any] = np.full(
            len(frame) + 1, "" if texts else -1, object if texts else np.int64
        )
        with_padding[1:] = own_ids.to_numpy(dtype=with_padding.dtype)
        return cls(with_padding, np.concatenate([np.zeros(1, dtype=np.int64), counts]))
