"""SNAP's loc-gowalla_totalCheckins.txt.gz."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from easrec.data.catalog import KNOWN_DATASETS, default_cache_dir, fetch
from easrec.data.interactions import load_interactions
from easrec.errors import InputError

CHECKINS = """0\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\t22847
0\t2010-10-18T22:17:43Z\t30.2691029532\t-97.7493953705\t420315
0\t2010-10-17T23:42:03Z\t30.2557309927\t-97.7633857727\t22847
0\t2010-10-17T19:26:05Z\t30.2634181234\t-97.7575966669\t16516
0\t2010-10-17T19:26\t30.2634181234\t-97.7575966669\t16516
0\t2010-10-16T18:50:42Z\t30.2742918584\t16516
0\t2010-02-30T23:58:03Z\t30.2610599404\t-97.7585005003\t5535878
0\t2010-10-12T23:58:03Z\t30.2610599404\t-97.7585005003\t5535878
"""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "loc-gowalla_totalCheckins.txt.gz"
    path.write_bytes(gzip.compress(CHECKINS.encode()))
    return path


def test_check_ins_of_one_user(raw):
    log = load_interactions("gowalla", raw=raw, duplicates="keep", k_core=0)
    assert log.item_ids[log.items].tolist() == [5535878, 16516, 22847, 420315, 22847]
    dates = log.timestamps.astype("datetime64[s]").astype(str).tolist()
    assert dates[0] == "2010-10-12T23:58:03"
    assert dates[-1] == "2010-10-19T23:55:27"
    expected = "user, time as in 2010-10-19T23:55:27Z, latitude, longitude and place, with tabs between"
    assert (log.malformed.count, log.malformed.first_line) == (3, 5)
    assert log.malformed.reason.endswith(f" is not {expected}")


def test_the_recipe_keeps_the_latest_of_each_place_then_five_of_each(tmp_path):
    # Users and places 1 to 5, each with each: a core of five. User 6 knows only four of the places, user 7
    # five of which one is his alone, and everyone was at place 1 twice.
    rows = [
        (user, place, day)
        for user in range(1, 6)
        for place, day in zip(range(1, 6), range(2, 7), strict=True)
    ]
    rows += [(6, place, 2) for place in range(1, 5)] + [(7, place, 2) for place in (1, 2, 3, 4, 9)]
    rows += [(user, 1, 20) for user in range(1, 8)]
    rows.sort(key=lambda row: (row[0], -row[2]))  # the latest first, as in the file
    raw = tmp_path / "Gowalla_totalCheckins.txt"
    raw.write_text(
        "".join(f"{user}\t2010-01-{day:02}T00:00:00Z\t1.0\t2.0\t{place}\n" for user, place, day in rows)
    )
    log = load_interactions("gowalla", raw=raw)
    assert log.user_ids.tolist() == [1, 2, 3, 4, 5]
    assert log.item_ids[log.items].reshape(5, 5).tolist() == [[2, 3, 4, 5, 1]] * 5
    assert log.dropped == {"duplicates": 7, "users": 2, "items": 1, "interactions": 9}
    kept = load_interactions("gowalla", raw=raw, duplicates="keep")
    assert len(kept.items) == 5 * 6 + 5 + 5  # the repeats count towards five, and only place 9 goes
    first = load_interactions("gowalla", raw=raw, duplicates="first")
    assert first.item_ids[first.items].reshape(5, 5).tolist() == [[1, 2, 3, 4, 5]] * 5


def test_the_data_set_is_not_downloaded_but_found_where_a_person_put_it(tmp_path, raw):
    folder = tmp_path / "cache" / "gowalla"
    message = (
        "'gowalla' is not downloaded for you: get loc-gowalla_totalCheckins.txt.gz from "
        f"https://snap.stanford.edu/data/loc-gowalla.html, and put it into {folder} or"
    )
    with pytest.raises(InputError, match=message):
        load_interactions("gowalla", cache_dir=tmp_path / "cache")
    folder.mkdir(parents=True)
    os.replace(raw, folder / raw.name)
    assert fetch("gowalla", tmp_path / "cache") == folder
    log = load_interactions("gowalla", cache_dir=tmp_path / "cache", duplicates="keep", k_core=0)
    assert len(log.items) == 5


def test_the_counts_of_the_paper():
    counts = KNOWN_DATASETS["gowalla"].counts
    assert (counts.users, counts.items, counts.interactions) == (64_115, 164_532, 2_018_421)


@pytest.mark.slow
@pytest.mark.skipif(
    not (default_cache_dir() / "gowalla").is_dir(), reason="the raw file is not in the cache directory"
)
def test_the_recipe_gives_the_counts_of_the_paper():
    log = load_interactions("gowalla")
    assert (log.num_users, log.num_items, len(log.items)) == (64_115, 164_532, 2_018_421)
    assert len(np.unique(log.users * (log.num_items + 1) + log.items)) == len(log.items)
