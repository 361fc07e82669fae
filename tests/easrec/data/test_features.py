import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easrec.data.features import align_features, load_item_features
from easrec.data.interactions import load_interactions
from easrec.data.readers.reader import RawItems
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError

LOG = synthetic_interactions(30, 24, 8, seed=0)  # items "0" to "23"


def raw_items(values: dict[str, list[str | None] | None]) -> RawItems:
    lists = pa.array(values.values(), pa.list_(pa.string()))
    return RawItems(pa.array(values.keys(), pa.string()), {"genres": lists})


@settings(deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 40).map(str),
        st.one_of(st.none(), st.lists(st.one_of(st.none(), st.sampled_from("dcba")), max_size=6)),
        max_size=30,
    )
)
def test_each_item_has_its_values_once(values):
    feature = align_features(raw_items(values), LOG)["genres"]
    expected = [list(dict.fromkeys(v for v in values.get(str(own)) or [] if v)) for own in LOG.item_ids[1:]]
    assert [feature.of(item) for item in range(1, LOG.num_items + 1)] == expected
    assert feature.of(0) == []
    assert (feature.num_items, feature.num_values) == (24, len({v for row in expected for v in row}))
    assert feature.counts.tolist() == [0, *map(len, expected)]
    assert feature.values.tolist() == ["", *sorted({v for row in expected for v in row})]


def test_padding_to_a_width():
    feature = align_features(raw_items({"3": ["b", "a"], "5": ["c"]}), LOG)["genres"]
    own = LOG.item_ids.tolist()
    padded = feature.padded()
    assert padded.shape == (25, 2)
    assert padded.dtype == np.int64
    assert feature.values[padded[own.index(3)]].tolist() == ["b", "a"]
    assert feature.values[padded[own.index(5)]].tolist() == ["c", ""]
    assert padded.sum() == 1 + 2 + 3
    assert feature.padded(1)[own.index(3)].tolist() == [2]
    assert feature.padded(4).shape == (25, 4)
    assert align_features(raw_items({}), LOG)["genres"].padded().tolist() == [[0]] * 25
    with pytest.raises(ValueError, match="max_values must be at least 1, got 0"):
        feature.padded(0)


def test_text_ids_are_matched_as_texts(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("user_id,item_id,timestamp\na,007,1\na,7,2\na,x,3\n")
    log = load_interactions(path)
    frame = pd.DataFrame({"item_id": ["7", "007"], "genre": ["seven", "agent"]})
    frame.to_parquet(tmp_path / "items.parquet")
    genre = load_item_features(tmp_path / "items.parquet", log)["genre"]
    assert {own: genre.of(item) for item, own in enumerate(log.item_ids) if item} == {
        "007": ["agent"],
        "7": ["seven"],
        "x": [],
    }


def test_columns_of_a_parquet_file(tmp_path):
    frame = pd.DataFrame(
        {
            "item": [3, 5, 99],
            "title": ["Three", None, "none"],
            "year": [1995, 1996, 1997],
            "score": [0.5, 1.5, 2.5],
            "tags": [["x", "y", "x"], [], ["z"]],
            "numbers": [[2, 10], None, [1]],
            "kind": pd.Categorical(["film", "series", "film"]),
        }
    )
    frame.to_parquet(tmp_path / "items.parquet")
    features = load_item_features(tmp_path / "items.parquet", LOG, item_column="item")
    dense = LOG.item_ids.tolist().index
    assert {name: feature.of(dense(3)) for name, feature in features.items()} == {
        "title": ["Three"],
        "year": ["1995"],
        "tags": ["x", "y"],
        "numbers": ["2", "10"],
        "kind": ["film"],
    }
    assert features["title"].of(dense(5)) == features["numbers"].of(dense(5)) == []
    assert features["tags"].num_values == 2  # "z" is of no item of the log


def refused(message, *arguments, **options):
    with pytest.raises(InputError, match=message):
        load_item_features(*arguments, **options)


def test_files_that_cannot_be_used(tmp_path):
    refused("there is no such file, which would describe the items", tmp_path / "none.parquet", LOG)
    refused("the ending '.csv' names no format of items", tmp_path / "items.csv", LOG)
    refused("there is no such file", tmp_path / "own.inter", LOG)
    refused("data set 'gowalla' says nothing of its items but their ids", "gowalla", LOG)
    path = tmp_path / "items.parquet"
    path.write_text("no parquet")
    refused("cannot be read as .parquet", path, LOG)
    pd.DataFrame({"item_id": [3, 3], "tag": ["a", "b"]}).to_parquet(path)
    refused("column 'item_id' must hold each item once", path, LOG)
    refused("there is no column 'id' .*; found are 'item_id', 'tag'", path, LOG, item_column="id")
