"""The raw files of MovieLens, in the form that GroupLens gives them."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from easrec.data.catalog import KNOWN_DATASETS, FileSource, fetch
from easrec.data.features import load_item_features, read_items
from easrec.data.interactions import load_interactions
from easrec.data.logs import Malformed
from easrec.errors import InputError

RATINGS_DAT = b"""1::1193::5::978300760
1::661::3::978302109
1::914::3::978301968
2::1193::5::978298413
2:661:3:978302109
2::661::4::978299000

2::3408::5::978298300
"""
MOVIES_DAT = """661::James and the Giant Peach (1996)::Animation|Children's|Musical
914::My Fair Lady (1964)::Musical|Romance
1193::One Flew Over the Cuckoo's Nest (1975)::Drama
1236::Trust (1990)::Comedy
2997::Being :: Mis\xe9rables (1999)::Comedy|Drama
broken line
661::again::Drama
""".encode("latin-1")

RATINGS_CSV = b"""userId,movieId,rating,timestamp
1,17,4.0,944249077
1,25,1.0,944250228
1,29,2.0,943230976
2,25,4.5,
2,25,4.5,944250229
2,17,0.5,944250230
2,29,5.0,944250231
"""
MOVIES_CSV = """movieId,title,genres
17,Sense and Sensibility (1995),Drama|Romance
25,"City of Lost Children, The (Cité des enfants perdus, La) (1995)",Adventure|Drama|Fantasy
29,"American President, The (1995)",(no genres listed)
30,only two
""".encode()

U_DATA = b"196\t242\t3\t881250949\n196\t302\t3\t891717742\n196\t377\t1\t878887116\n196\t242\t3\n"
U_ITEM = (
    "242|Kolya (1996)|24-Jan-1997||http://us.imdb.com/M/title-exact?Kolya%20(1996)|"
    "0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    "302|L.A. Confidential (1997)|01-Jan-1997||http://us.imdb.com/M/title-exact?L%2EA%2E|"
    "0|0|0|0|0|0|1|0|0|0|1|0|0|1|0|0|1|0|0\n"
    "267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    "377|Heavyweights (1994) \xe9|01-Jan-1994||http://us.imdb.com/|0|0|0\n"
).encode("latin-1")


@pytest.fixture
def ml_1m(tmp_path: Path) -> Path:
    """The archive as it is downloaded."""
    path = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml-1m/README", "terms")
        archive.writestr("ml-1m/ratings.dat", RATINGS_DAT)
        archive.writestr("ml-1m/movies.dat", MOVIES_DAT)
    return path


def histories(log):
    found = {}
    for user, item in zip(log.user_ids[log.users].tolist(), log.item_ids[log.items].tolist(), strict=True):
        found.setdefault(user, []).append(item)
    return found


def test_ml_1m_from_its_archive_its_directory_and_its_file(tmp_path, ml_1m):
    with zipfile.ZipFile(ml_1m) as archive:
        archive.extractall(tmp_path / "unpacked")
    for raw in (ml_1m, tmp_path / "unpacked", tmp_path / "unpacked" / "ml-1m" / "ratings.dat"):
        log = load_interactions("ml-1m", raw=raw)
        assert histories(log) == {1: [1193, 914, 661], 2: [3408, 1193, 661]}
        assert log.timestamps.tolist() == [978300760, 978301968, 978302109, 978298300, 978298413, 978299000]
        assert log.malformed == Malformed(
            1, 5, "'2:661:3:978302109' is not UserID::MovieID::Rating::Timestamp"
        )
        assert log.dropped == {"users": 0, "interactions": 0}
        assert log.name == "ml-1m"
        genres = load_item_features("ml-1m", log, raw=raw)["genres"]
        of = {own: genres.of(dense) for dense, own in enumerate(log.item_ids.tolist()) if dense}
        assert of == {
            661: ["Animation", "Children's", "Musical"],
            914: ["Musical", "Romance"],
            1193: ["Drama"],
            3408: [],
        }


def test_titles_may_hold_colons_and_malformed_movies_are_counted(ml_1m):
    items = read_items("ml-1m", raw=ml_1m)
    genres = dict(zip(items.item_ids.to_pylist(), items.features["genres"].to_pylist(), strict=True))
    assert genres["2997"] == ["Comedy", "Drama"]
    assert items.malformed == Malformed(2, 6, "'broken line' is not MovieID::Title::Genres")


def test_ml_1m_is_downloaded_once_and_checked(tmp_path, monkeypatch, capsys, ml_1m):
    md5 = hashlib.md5(ml_1m.read_bytes()).hexdigest()
    dataset = replace(KNOWN_DATASETS["ml-1m"], sources=(FileSource(ml_1m.as_uri()),), md5=md5)
    monkeypatch.setitem(KNOWN_DATASETS, "ml-1m", dataset)
    log = load_interactions("ml-1m", cache_dir=tmp_path / "cache")
    assert log.checksum == load_interactions("ml-1m", raw=ml_1m).checksum
    assert "MovieLens 1M, (c) GroupLens Research" in capsys.readouterr().err
    assert load_item_features("ml-1m", log, cache_dir=tmp_path / "cache")["genres"].num_values == 5
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(KNOWN_DATASETS, "ml-1m", replace(dataset, md5="0" * 32))
    with pytest.raises(InputError, match="the file's md5 is not the known one"):
        fetch("ml-1m", tmp_path / "other")


def test_the_published_checksums():
    # As files.grouplens.org states them beside each archive.
    assert {name: KNOWN_DATASETS[name].md5 for name in ("ml-1m", "ml-20m", "ml-32m")} == {
        "ml-1m": "c4d9eecfca2ab87c1945afe126590906",
        "ml-20m": "cd245b17a1ae2cc31bb14903e1204af3",
        "ml-32m": "d472be332d4daa821edc399621853b57",
    }


@pytest.mark.parametrize("name", ["ml-20m", "ml-32m"])
def test_csv_sets(tmp_path, name):
    (tmp_path / "ratings.csv").write_bytes(RATINGS_CSV)
    (tmp_path / "movies.csv").write_bytes(MOVIES_CSV)
    log = load_interactions(name, raw=tmp_path)
    assert histories(log) == {1: [29, 17, 25], 2: [25, 17, 29]}
    assert log.malformed == Malformed(1, 5, "'2,25,4.5,' is not userId,movieId,rating,timestamp")
    items = read_items(name, raw=tmp_path)
    assert items.features["genres"].to_pylist() == [
        ["Drama", "Romance"],
        ["Adventure", "Drama", "Fantasy"],
        [],
    ]
    assert items.malformed == Malformed(1, 5, "'30,only two' is not movieId,title,genres")
    (tmp_path / "ratings.csv").write_bytes(RATINGS_DAT)
    with pytest.raises(
        InputError, match="the first line is '1::1193::5::978300760', not the expected header"
    ):
        load_interactions(name, raw=tmp_path)


def test_ml_100k_from_its_official_files(tmp_path):
    (tmp_path / "u.data").write_bytes(U_DATA)
    (tmp_path / "u.item").write_bytes(U_ITEM)
    log = load_interactions("ml-100k", raw=tmp_path)
    assert histories(log) == {196: [377, 242, 302]}
    assert log.malformed.first_line == 4
    genres = load_item_features("ml-100k", log, raw=tmp_path)["genres"]
    of = {own: genres.of(dense) for dense, own in enumerate(log.item_ids.tolist()) if dense}
    assert of == {242: ["Comedy"], 302: ["Crime", "Film-Noir", "Mystery", "Thriller"], 377: []}
    assert read_items("ml-100k", raw=tmp_path).malformed.count == 1


def test_ml_100k_from_the_copy_with_a_header(tmp_path):
    header = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (tmp_path / "ml-100k.inter").write_bytes(header + U_DATA)
    (tmp_path / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "242\tKolya\t1996\tComedy\n302\tL.A. Confidential\t1997\tCrime Film-Noir Mystery Thriller\n"
    )
    log = load_interactions("ml-100k", raw=tmp_path)
    assert histories(log) == {196: [377, 242, 302]}
    assert log.malformed.first_line == 5
    genres = load_item_features("ml-100k", log, raw=tmp_path)["genres"]
    assert genres.of(log.item_ids.tolist().index(302)) == ["Crime", "Film-Noir", "Mystery", "Thriller"]


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "ratings.dat").write_bytes(RATINGS_CSV)
    with pytest.raises(
        InputError, match=r"no line of it can be used \(8 malformed lines, the first is line 1: "
    ):
        load_interactions("ml-1m", raw=tmp_path)
    with pytest.raises(InputError, match=r"there is no movies\.dat beside it"):
        read_items("ml-1m", raw=tmp_path)
