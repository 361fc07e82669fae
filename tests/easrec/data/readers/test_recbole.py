import pytest

from easrec.data.features import load_item_features
from easrec.data.interactions import load_interactions
from easrec.data.logs import Malformed
from easrec.data.readers.raw_files import RawFiles
from easrec.data.readers.recbole import read_item_file
from easrec.errors import InputError

ITEMS = (
    "item_id:token\tname:token_seq\tgenre:token_seq\ttype:token\tavg_rating:float\tvector:float_seq\n"
    '32281\tKimi no "Na" wa.\tDrama Romance\tMovie\t9.37\t1 2\n'
    "5114\tFullmetal\tAction\tTV\t9.26\t1 2\n"
    "28977\tGintama°\tAction\n"
    "\tno id\tAction\tTV\t9.26\t1 2\n"
    "5115\tnothing\t\t\t\t\n"
)


def test_tokens_are_features_and_numbers_are_none(tmp_path):
    (tmp_path / "anime.item").write_text(ITEMS, encoding="utf-8")
    items = read_item_file(RawFiles.at(tmp_path), "anime.item")
    assert items.item_ids.to_pylist() == ["32281", "5114", "5115"]
    assert {name: column.to_pylist() for name, column in items.features.items()} == {
        "name": [["Kimi", "no", '"Na"', "wa."], ["Fullmetal"], ["nothing"]],
        "genre": [["Drama", "Romance"], ["Action"], []],
        "type": [["Movie"], ["TV"], []],
    }
    assert items.malformed == Malformed(2, 4, r"'28977\tGintama°\tAction' has not 6 fields but 3")


def test_the_item_file_lies_beside_the_log(tmp_path):
    (tmp_path / "anime.item").write_text(ITEMS, encoding="utf-8")
    rows = [(1, item, time) for time, item in enumerate((5114, 32281, 7))]
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    (tmp_path / "anime.inter").write_text(header + "".join(f"{u}\t{i}\t{t}\n" for u, i, t in rows))
    log = load_interactions(tmp_path / "anime.inter")
    features = load_item_features(tmp_path / "anime.inter", log)
    dense = {own: number for number, own in enumerate(log.item_ids.tolist())}
    assert features["genre"].of(dense[32281]) == ["Drama", "Romance"]
    assert features["genre"].of(dense[7]) == []


def test_a_header_without_item_ids_is_refused(tmp_path):
    (tmp_path / "anime.item").write_text("id:token\tname:token_seq\n1\ta\n")
    with pytest.raises(InputError, match="there is no column 'item_id'; found are 'id', 'name'"):
        read_item_file(RawFiles.at(tmp_path), "anime.item")
    (tmp_path / "anime.item").write_text("")
    with pytest.raises(InputError, match="there is no column 'item_id'; found are "):
        read_item_file(RawFiles.at(tmp_path), "anime.item")
