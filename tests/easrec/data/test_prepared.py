import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from easrec.data.features import load_item_features
from easrec.data.interactions import load_interactions
from easrec.data.prepared import table_one, write_prepared
from easrec.data.readers.reader import RawItems
from easrec.data.splits import split_interactions
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError

ITEMS = RawItems(
    pa.array(["i1", "i2", "elsewhere"]),
    {"genres": pa.array([["a", "b"], [], ["c"]], pa.list_(pa.string()))},
)


@pytest.mark.parametrize("prefix", ["", "i"])
@pytest.mark.parametrize("unit", [1, 0.5])
def test_a_prepared_log_is_the_log(tmp_path, prefix, unit):
    generator = np.random.default_rng(0)
    rows = [
        f"u{generator.integers(20)},{prefix}{generator.integers(15)},{generator.integers(40) * unit}"
        for _ in range(400)
    ]
    path = tmp_path / "own.csv"
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    log = load_interactions(path, duplicates="last", k_core=4)
    files = write_prepared(log, tmp_path / "out", items=None, about={"recipe": "mine"})
    assert [file.name for file in files] == ["own.parquet", "own.json"]
    again = load_interactions(files[0])
    assert again.checksum == log.checksum
    for name in ("users", "items", "timestamps", "user_ids", "item_ids"):
        assert getattr(again, name).tolist() == getattr(log, name).tolist()
        assert getattr(again, name).dtype == getattr(log, name).dtype
    for method in ("leave_one_out", "temporal"):
        assert split_interactions(again, method).checksum == split_interactions(log, method).checksum
    # Any other program finds plain columns.
    schema = pa.parquet.read_schema(files[0])
    assert pa.types.is_string(schema.field("user_id").type)
    frame = pd.read_parquet(files[0])
    assert frame["item_id"].tolist() == log.item_ids[log.items].tolist()
    about = json.loads(files[1].read_text())
    assert about["checksum"] == log.checksum
    assert about["recipe"] == "mine"
    assert about["table"] == table_one(log)
    assert about["dropped"] == log.dropped
    assert about["malformed"] == {"count": 0, "first_line": 0, "reason": ""}


def test_items_of_the_log_go_with_it(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"a,i{item},{item}\n" for item in range(3)))
    log = load_interactions(path)
    _, described, _ = write_prepared(log, tmp_path, items=ITEMS, about={})
    assert pd.read_parquet(described)["item_id"].tolist() == ["i1", "i2"]
    genres = load_item_features(described, log)["genres"]
    assert genres.of(log.item_ids.tolist().index("i1")) == ["a", "b"]


def test_table_one_by_hand():
    log = synthetic_interactions(10, 20, 6, seed=0)
    table = table_one(log)
    assert (table["users"], table["items"], table["interactions"]) == (10, 20, len(log.items))
    assert table["average_length"] == len(log.items) / 10
    assert table["density"] == len(log.items) / 200


def test_a_place_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    log = synthetic_interactions(10, 20, 6, seed=0)
    with pytest.raises(InputError, match=r"file/out: cannot be written \(.*\); give another directory"):
        write_prepared(log, tmp_path / "file" / "out", items=None, about={})
