import numpy as np
import pyarrow as pa
import pytest

from easrec.data.feature_table import FeatureTable, feature_table, load_feature_table
from easrec.data.features import align_features
from easrec.data.interactions import load_interactions
from easrec.data.readers.reader import RawItems
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError

LOG = synthetic_interactions(30, 24, 8, seed=0)  # items "0" to "23"


def _features(**columns):
    """Features by name, each a dictionary from own ids to values."""
    ids = [str(own) for own in range(24)]
    lists = {
        name: pa.array([values.get(own) for own in ids], pa.list_(pa.string()))
        for name, values in columns.items()
    }
    return align_features(RawItems(pa.array(ids, pa.string()), lists), LOG)


def _row(own):
    return LOG.item_ids.tolist().index(own)


def test_one_feature_is_taken_as_it_is():
    features = _features(genres={"3": ["b", "a"], "5": ["c"]})
    table = feature_table(features, source="log")
    assert (table.name, table.num_values, table.num_items) == ("genres", 3, 24)
    assert table.values[_row(3)].tolist() == [2, 1] and table.values[_row(5)].tolist() == [3, 0]
    assert table.values.sum() == 6
    assert table.described_share == pytest.approx(2 / 24)


def test_several_features_are_numbered_apart_and_leave_no_gaps():
    features = _features(genres={"3": ["b"], "5": ["a", "b"]}, brand={"3": ["b"], "7": ["x"]})
    table = feature_table(features, source="log", names=["genres", "brand"])
    assert (table.name, table.num_values) == ("genres+brand", 4)
    assert table.values[_row(3)].tolist() == [2, 3]
    assert table.values[_row(5)].tolist() == [1, 2]
    assert table.values[_row(7)].tolist() == [4, 0]


def test_a_well_known_feature_is_preferred_and_otherwise_one_must_be_named():
    several = _features(title={"3": ["t"]}, attributes={"3": ["a"]}, genres={"3": ["g"]})
    assert feature_table(several, source="log").name == "genres"
    foreign = _features(title={"3": ["t"]}, year={"3": ["1995"]})
    with pytest.raises(InputError, match="log: items have the features title, year; say which"):
        feature_table(foreign, source="log")
    with pytest.raises(InputError, match="log: items have no feature 'brand'; they have title, year"):
        feature_table(foreign, source="log", names=["year", "brand"])
    with pytest.raises(InputError, match="give each feature once and at least one, got year, year"):
        feature_table(foreign, source="log", names=["year", "year"])


def test_a_data_set_without_features_is_refused():
    with pytest.raises(InputError, match="log: nothing is said of the items but their ids; a network"):
        feature_table({}, source="log")
    with pytest.raises(InputError, match="data set 'gowalla' says nothing of its items but their ids"):
        load_feature_table("gowalla", LOG)
    with pytest.raises(InputError, match="no item of the log has a value of 'genres'; check that both"):
        feature_table(_features(genres={"99": ["a"]}), source="log")


def test_a_file_of_items_is_read_for_the_items_of_a_log(tmp_path):
    log = tmp_path / "own.inter"
    log.write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n"
        + "".join(f"u\t{item}\t{time}\n" for time, item in enumerate("abcd"))
    )
    (tmp_path / "own.item").write_text("item_id:token\ttags:token_seq\na\tx y\nc\ty\nz\tw\n")
    table = load_feature_table(log, load_interactions(log))
    assert (table.name, table.num_values) == ("tags", 2)
    assert sorted(row[row > 0].tolist() for row in table.values) == [[], [], [], [1, 2], [2]]


def test_equal_tables_have_equal_checksums():
    one, same = (feature_table(_features(genres={"3": ["a"]}), source="log") for _ in range(2))
    other = feature_table(_features(genres={"4": ["a"]}), source="log")
    assert one.checksum == same.checksum != other.checksum


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0, 0], [3, 0]], r"values must lie in 0\.\.2"),
        ([[0, 0], [-1, 0]], r"values must lie in 0\.\.2"),
        ([[1, 0], [1, 0]], "padding has values"),
        ([[0, 0], [0, 1]], "an item has zeros before its values"),
    ],
)
def test_values_that_are_no_table_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        FeatureTable("genres", np.array(values, dtype=np.int64), 2)
    with pytest.raises(ValueError, match=r"values must be int64 \(V \+ 1, W\), got float64"):
        FeatureTable("genres", np.zeros((2, 1)), 2)
