"""Amazon reviews and ratings of the three releases."""

import gzip
import json

import pytest

from easrec.data.features import load_item_features, read_items
from easrec.data.interactions import load_interactions
from easrec.data.logs import Malformed
from easrec.data.readers import lines
from easrec.errors import InputError

RAW = {"duplicates": "keep", "k_core": 0, "min_user_interactions": 1}

REVIEW = {
    "reviewerID": "A2SUAM1J3GNN3B",
    "asin": "0000013714",
    "reviewerName": "J. McDonald",
    "helpful": [2, 3],
    "reviewText": 'I bought this for my husband who plays the piano. "Hymns", {and} more',
    "overall": 5.0,
    "summary": "Heavenly Highway Hymns",
    "unixReviewTime": 1252800000,
    "reviewTime": "09 13, 2009",
}
REVIEW_2023 = {
    "rating": 5.0,
    "title": "Such a lovely scent but not overpowering.",
    "text": "This spray is really nice.",
    "images": [],
    "asin": "B00YQ6X8EO",
    "parent_asin": "B00YQ6X8EO",
    "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ",
    "timestamp": 1588687728923,
    "helpful_vote": 0,
    "verified_purchase": True,
}


def write(path, *records) -> None:
    texts = [record if isinstance(record, str) else json.dumps(record) for record in records]
    content = ("\n".join(texts) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def rows_of(log):
    users, items = log.user_ids[log.users].tolist(), log.item_ids[log.items].tolist()
    return list(zip(users, items, log.timestamps.tolist(), strict=True))


def test_reviews_of_2014_and_2018(tmp_path):
    path = tmp_path / "reviews_Musical_Instruments_5.json.gz"
    write(path, REVIEW, REVIEW | {"asin": "B00005ML71", "unixReviewTime": 1252886400, "verified": True})
    log = load_interactions("amazon", raw=path, **RAW)
    assert rows_of(log) == [
        ("A2SUAM1J3GNN3B", "0000013714", 1252800000),
        ("A2SUAM1J3GNN3B", "B00005ML71", 1252886400),
    ]
    assert log.name == "amazon-Musical_Instruments"
    assert log.malformed == Malformed()


def test_reviews_of_2023(tmp_path):
    path = tmp_path / "All_Beauty.jsonl.gz"
    write(path, REVIEW_2023, REVIEW_2023 | {"parent_asin": "B081TJ8YS3"})
    log = load_interactions("amazon", raw=tmp_path, **RAW)
    assert sorted(log.item_ids[1:].tolist()) == ["B00YQ6X8EO", "B081TJ8YS3"]
    assert log.user_ids.tolist() == ["AGKHLEW2SOWHNMFQIJGBECAF7INQ"]
    assert log.timestamps.tolist() == [1588687728923] * 2
    assert log.name == "amazon-All_Beauty"


MALFORMED = [
    ("{'reviewerID': 'A1', 'asin'", "is no record"),
    ('{"reviewerID": "A1", "asin": "B1"}', "there is no 'unixReviewTime'"),
    ('{"reviewerID": "", "asin": "B1", "unixReviewTime": 5}', "there is no 'reviewerID'"),
    ('{"reviewerID": "A1", "asin": 5, "unixReviewTime": 5}', "'asin' is '5', which is no text"),
    (
        '{"reviewerID": "A1", "asin": "B1", "unixReviewTime": "5"}',
        "'unixReviewTime' is '5', which is no number",
    ),
    ('{"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1e99}', "which is no number of seconds"),
    ('{"reviewerID": "A1", "asin": "B1", "unixReviewTime": 99999999999999999999}', "which is no number"),
    ('{"reviewerID": "A\\ud800", "asin": "B1", "unixReviewTime": 5}', "which is no text"),
    ('["reviewerID", "asin", "unixReviewTime"]', "is no record"),
]


@pytest.mark.parametrize(("line", "reason"), MALFORMED)
def test_malformed_lines_are_counted(tmp_path, line, reason):
    path = tmp_path / "reviews_Beauty.json"
    write(path, REVIEW, "", line, REVIEW | {"asin": "B2"}, line)
    log = load_interactions("amazon", raw=path, **RAW)
    assert sorted(log.item_ids[1:].tolist()) == ["0000013714", "B2"]
    assert (log.malformed.count, log.malformed.first_line) == (2, 3)
    assert reason in log.malformed.reason


@pytest.mark.parametrize("part", [b"A2SUAM1J3GNN3B", b"0000013714", b"McDonald"])
def test_bytes_that_are_no_utf_8_spoil_their_line_alone(tmp_path, part):
    path = tmp_path / "reviews_Beauty.json"
    write(path, REVIEW, REVIEW)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second.replace(part, b"\xff" + part))
    log = load_interactions("amazon", raw=path, **RAW)
    assert len(log.items) == 1
    assert (log.malformed.count, log.malformed.first_line) == (1, 2)
    assert log.malformed.reason.endswith(" is no UTF-8")


def test_two_records_in_a_line_are_one_malformed_line(tmp_path):
    path = tmp_path / "reviews_Beauty.json"
    write(path, REVIEW, json.dumps(REVIEW) * 2)
    log = load_interactions("amazon", raw=path, **RAW)
    assert len(log.items) == 1
    assert log.malformed.first_line == 2


def test_malformed_lines_before_the_first_record_and_in_later_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(lines.line_blocks, "__defaults__", (1 << 11,))
    path = tmp_path / "reviews_Beauty.json"
    good = [REVIEW | {"asin": f"B{number:09}"} for number in range(200)]
    write(path, *["garbage"] * 400, *good[:90], "x", *good[90:])
    log = load_interactions("amazon", raw=path, **RAW)
    assert log.num_items == 200
    assert log.malformed == Malformed(401, 1, "'garbage' is no record")


def test_the_fast_and_the_slow_way_give_the_same(tmp_path):
    path = tmp_path / "reviews_Beauty.json"
    records = [
        REVIEW | {"reviewerID": f"A{n % 7}", "asin": f"é{n % 5}", "unixReviewTime": n} for n in range(50)
    ]
    write(path, *records)
    fast = load_interactions("amazon", raw=path, **RAW)
    write(path, *records, "broken")  # the block is then read line by line
    slow = load_interactions("amazon", raw=path, **RAW)
    assert fast.checksum == slow.checksum
    assert (fast.malformed.count, slow.malformed.count) == (0, 1)


RATINGS = [
    ("A39HTATAQ9V7YF", "0205616461", "5.0", "1369699200"),
    ("A3JM6GV9MNOF9X", "0558925278", "3.0", "1355443200"),
    ("A39HTATAQ9V7YF", "B0002MQ9Z4", "5.0", "1404691200"),
]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 0, 2, 3)])
def test_ratings_with_either_order_of_user_and_item(tmp_path, order):
    path = tmp_path / "ratings_Beauty.csv"
    bad = "A1,B2,5.0"
    path.write_text("\n".join([*(",".join(row[part] for part in order) for row in RATINGS), bad]) + "\n")
    log = load_interactions("amazon", raw=path, **RAW)
    assert sorted(rows_of(log)) == sorted((user, item, int(time)) for user, item, _, time in RATINGS)
    assert log.malformed == Malformed(1, 4, "'A1,B2,5.0' is not user,item,rating,timestamp")


def test_ratings_of_2023_have_a_header(tmp_path):
    path = tmp_path / "All_Beauty.csv"
    # Items that look like reviewers' ids: with a header nothing is guessed.
    rows = ["B1,A000000000,3.0,1452647382000", "B1,A000000001,3.0,1452647382001"]
    path.write_text("\n".join(["user_id,parent_asin,rating,timestamp", *rows]))
    log = load_interactions("amazon", raw=path, **RAW)
    assert rows_of(log) == [("B1", "A000000000", 1452647382000), ("B1", "A000000001", 1452647382001)]


def test_ratings_whose_users_cannot_be_told_are_refused(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("1,2,5.0,100\n3,4,5.0,100\n")
    with pytest.raises(InputError, match="neither column looks more like reviewers' ids"):
        load_interactions("amazon", raw=path)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "reviews_Beauty.json"
    write(path, {"user": 1, "item": 2})
    with pytest.raises(
        InputError, match=r"no line is a record with reviewerID, asin, unixReviewTime \(1 malformed"
    ):
        load_interactions("amazon", raw=path)


def test_the_recipe_is_the_first_review_of_each_and_five_of_each(tmp_path):
    path = tmp_path / "reviews_Beauty.json"
    pairs = [(user, item) for user in range(5) for item in range(5)] + [(0, 9), (9, 0)]
    records = [
        REVIEW | {"reviewerID": f"A{user}", "asin": f"B{item}", "unixReviewTime": time}
        for time, (user, item) in enumerate([*pairs, *pairs])
    ]
    write(path, *records)
    log = load_interactions("amazon", raw=path)
    assert (log.num_users, log.num_items, len(log.items)) == (5, 5, 25)
    assert log.timestamps.max() == 24
    assert log.dropped == {"duplicates": 27, "users": 1, "items": 1, "interactions": 2}


META_2014 = (
    "{'asin': '0000013714', 'title': \"Heavenly 'Hymns'\", 'price': 3.17, 'brand': 'Coxlures', "
    "'categories': [['Toys & Games', 'Sheets'], ['Toys & Games', 'Music']]}"
)
META_2018 = {"asin": "0000013714", "category": ["Music", "Hymns"], "brand": "", "also_buy": ["B1"]}
META_2023 = {
    "parent_asin": "0000013714",
    "main_category": "All Beauty",
    "categories": ["Hair"],
    "store": "Howard",
}


@pytest.mark.parametrize(
    ("name", "meta", "line", "categories", "brand"),
    [
        (
            "reviews_Beauty_5.json.gz",
            "meta_Beauty.json.gz",
            META_2014,
            ["Toys & Games", "Sheets", "Music"],
            ["Coxlures"],
        ),
        ("Beauty_5.json.gz", "meta_Beauty.json.gz", META_2018, ["Music", "Hymns"], []),
        ("Beauty.jsonl.gz", "meta_Beauty.jsonl.gz", META_2023, ["Hair"], ["Howard"]),
        (
            "ratings_Beauty.csv",
            "meta_Beauty.json",
            META_2014,
            ["Toys & Games", "Sheets", "Music"],
            ["Coxlures"],
        ),
    ],
)
def test_items_of_the_three_releases(tmp_path, name, meta, line, categories, brand):
    if name.endswith(".csv"):
        (tmp_path / name).write_text("A39HTATAQ9V7YF,0000013714,5.0,1\n")
    else:
        write(tmp_path / name, REVIEW)
    write(tmp_path / meta, line, "{'title': 'no id'}", "{")
    log = load_interactions("amazon", raw=tmp_path / name, **RAW)
    features = load_item_features("amazon", log, raw=tmp_path / name)
    assert features["categories"].of(1) == categories
    assert features["brand"].of(1) == brand
    assert read_items("amazon", raw=tmp_path / name).malformed == Malformed(2, 2, "there is no 'asin'")


def test_items_without_their_file_say_which_is_missing(tmp_path):
    write(tmp_path / "reviews_Beauty_5.json", REVIEW)
    with pytest.raises(InputError, match=r"there is no meta_Beauty.json.gz or .* beside it"):
        read_items("amazon", raw=tmp_path)


def test_the_cache_directory_holds_one_category(tmp_path):
    with pytest.raises(
        InputError, match=r"'amazon' is not downloaded for you: get the reviews .* of one category"
    ):
        load_interactions("amazon", cache_dir=tmp_path)
    (tmp_path / "amazon").mkdir()
    write(tmp_path / "amazon" / "reviews_Beauty_5.json.gz", REVIEW)
    write(tmp_path / "amazon" / "meta_Beauty.json.gz", META_2014)
    assert load_interactions("amazon", cache_dir=tmp_path, **RAW).name == "amazon-Beauty"
    write(tmp_path / "amazon" / "reviews_Toys_5.json.gz", REVIEW)
    with pytest.raises(InputError, match="could all be meant; give the one file"):
        load_interactions("amazon", cache_dir=tmp_path)
