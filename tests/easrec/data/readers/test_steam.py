"""steam_reviews.json.gz and steam_games.json.gz: dictionaries as Python 2 printed them."""

import gzip

import pytest

from easrec.data.features import load_item_features, read_items
from easrec.data.interactions import load_interactions
from easrec.data.logs import Malformed
from easrec.data.readers.records import parse_record
from easrec.errors import InputError

RAW = {"duplicates": "keep", "k_core": 0, "min_user_interactions": 1}

REVIEWS = r"""{u'username': u'Chaos Syren', u'hours': 0.1, u'products': 41, u'product_id': u'725280', u'page_order': 0, u'date': u'2017-12-17', u'text': u'This would not be acceptable as an entertainment', u'early_access': False, u'page': 1}
{u'username': u'\u2465\u4e00', u'hours': 51.1, u'products': 769, u'product_id': u'328100', u'page_order': 0, u'date': u'2017-12-27', u'text': u"looks like u'product_id': u'1', u'username': u'me'", u'early_access': True, u'page': 1}
{u'username': u'Chaos Syren', u'user_id': u'76561198007483075', u'product_id': u'35140', u'date': u'2018-01-04'}
{u'username': u'Chaos Syren', u'product_id': u'35140', u'date': u'4 January'}
{u'username': u'Chaos Syren', u'date': u'2018-01-04'}
__import__('os').system('touch executed')
{u'username': u'Chaos Syren', u'product_id': u'35140', u'date': u'2018-01-04', u'text': u'cut of
"""  # noqa: E501
GAMES = r"""{u'publisher': u'Kotoshiro', u'genres': [u'Action', u'Casual', u'Indie'], u'app_name': u'Lost Summoner Kitty', u'title': u'Lost Summoner Kitty', u'url': u'http://store.steampowered.com/app/725280/', u'release_date': u'2018-01-04', u'tags': [u'Strategy', u'Action', u'Strategy'], u'price': 4.99, u'id': u'725280', u'developer': u'Kotoshiro'}
{u'app_name': u'Ironbound', u'tags': [u'Free to Play'], u'id': u'328100'}
{u'app_name': u'no id', u'tags': [u'Strategy']}
"""  # noqa: E501


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "steam_reviews.json.gz").write_bytes(gzip.compress(REVIEWS.encode()))
    (tmp_path / "steam_games.json.gz").write_bytes(gzip.compress(GAMES.encode()))
    return tmp_path


def test_reviews(raw, monkeypatch):
    monkeypatch.chdir(raw)
    log = load_interactions("steam", raw=raw, **RAW)
    users, items = log.user_ids[log.users].tolist(), log.item_ids[log.items].tolist()
    assert list(zip(users, items, log.timestamps.tolist(), strict=True)) == [
        ("Chaos Syren", 725280, 1513468800),
        ("Chaos Syren", 35140, 1515024000),
        ("⑥一", 328100, 1514332800),
    ]
    assert not (raw / "executed").exists()


def test_malformed_lines_are_counted(raw):
    log = load_interactions("steam", raw=raw, **RAW)
    assert log.malformed == Malformed(4, 4, "'date' is '4 January', which is no date")


def test_genres_and_tags(raw):
    log = load_interactions("steam", raw=raw / "steam_reviews.json.gz", **RAW)
    features = load_item_features("steam", log, raw=raw)
    known = {own: dense for dense, own in enumerate(log.item_ids.tolist())}
    assert features["genres"].of(known[725280]) == ["Action", "Casual", "Indie"]
    assert features["tags"].of(known[725280]) == ["Strategy", "Action"]
    assert features["genres"].of(known[328100]) == features["tags"].of(known[35140]) == []
    assert read_items("steam", raw=raw).malformed == Malformed(1, 3, "there is no 'id'")


def test_nothing_but_records_is_parsed():
    assert parse_record(b'{"a": [1, null]}') == {"a": [1, None]}
    for line in (b"print(1)", b"[1]", b"5", b"{'a': open('x')}", b"\xff{}", b"(" * 5000, b"[" * 100_000):
        with pytest.raises(ValueError, match=r"is no (record|UTF-8)"):
            parse_record(line)


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "steam_reviews.json.gz").write_bytes(gzip.compress(b"{u'user': u'x'}\n"))
    with pytest.raises(InputError, match="no line is a record with username, product_id, date"):
        load_interactions("steam", raw=tmp_path)
