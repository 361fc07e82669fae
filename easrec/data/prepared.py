"""A prepared log: one parquet file of interactions, and one of what was done to them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from easrec.data.interactions import Interactions
from easrec.data.readers.reader import RawItems
from easrec.errors import InputError
from easrec.files import write_atomically, write_json


def table_one(interactions: Interactions) -> dict[str, int | float]:
    """The paper's Table I for one data set: counts, the mean length of a history, and the density.

    The density is the share of all pairs of a user and an item that interact, repeats counted once each time.
    """
    num_interactions = len(interactions.items)
    return {
        "users": interactions.num_users,
        "items": interactions.num_items,
        "interactions": num_interactions,
        "average_length": num_interactions / interactions.num_users,
        "density": num_interactions / (interactions.num_users * interactions.num_items),
    }


def write_prepared(
    interactions: Interactions, directory: Path, *, items: RawItems | None, about: dict[str, Any]
) -> list[Path]:
    """Write NAME.parquet and NAME.json, and NAME.items.parquet if there is something to say of the items.

    The parquet file has the own ids and the timestamps, sorted by user and time: `load_interactions` gives
    the same users, items and checksum for it as for the raw files. The .json file is written last.

    Args:
        interactions: what is written.
        directory: where, made if it is not there.
        items: what is known of items; those that do not occur are left out.
        about: what else the .json file shall say.

    Returns:
        The files.

    Raises:
        InputError: the directory cannot be written.
    """
    try:
        return _write(interactions, directory, items, about)
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be written ({error.strerror or error}); give another directory"
        ) from error


def _write(
    interactions: Interactions, directory: Path, items: RawItems | None, about: dict[str, Any]
) -> list[Path]:
    paths = [directory / f"{interactions.name}{ending}" for ending in (".parquet", ".items.parquet", ".json")]
    log = pa.table(
        {
            "user_id": _repeated(interactions.user_ids, interactions.users),
            "item_id": _repeated(interactions.item_ids, interactions.items),
            "timestamp": interactions.timestamps,
        }
    )
    _write_parquet(log, paths[0])
    if items is None:
        del paths[1]
    else:
        described = pa.table({"item_id": items.item_ids, **items.features})
        own_ids = pa.array([str(own) for own in interactions.item_ids[1:].tolist()], pa.string())
        _write_parquet(described.filter(pc.is_in(described.column("item_id"), own_ids)), paths[1])
    write_json(
        paths[-1],
        {
            "name": interactions.name,
            "checksum": interactions.checksum,
            "table": table_one(interactions),
            "dropped": interactions.dropped,
            "malformed": asdict(interactions.malformed),
            **about,
        },
    )
    return paths


def _repeated(values: npt.NDArray[Any], codes: npt.NDArray[np.integer[Any]]) -> Any:
    """`values[codes]`; texts as a dictionary, which is a fraction of their size."""
    if values.dtype != object:
        return pa.array(values[codes])
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(values, pa.string()))


def _write_parquet(table: Any, path: Path) -> None:
    # Without Arrow's schema a dictionary is read back as the plain texts it stands for.
    write_atomically(
        path,
        lambda temporary: pa.parquet.write_table(table, temporary, compression="zstd", store_schema=False),
    )
