"""Douban's DMSC.csv, from Kaggle."""

import zipfile

import pytest

from easrec.data.interactions import load_interactions
from easrec.errors import InputError

COMMENTS = """ID,Movie_Name_EN,Movie_Name_CN,Crawl_Date,Number,Username,Date,Star,Comment,Like
0,Avengers Age of Ultron,复仇者联盟2,2017-01-22,1,然潘,2015-05-13,3, 连奥创都知道整容要去韩国。,2404
1,Avengers Age of Ultron,复仇者联盟2,2017-01-22,2,更深的白色,2015-04-24,2," 非常失望,剧本完全敷衍了事
大家都可以理解, ""真的""。",1231
2,Big Fish and Begonia,大鱼海棠,2017-01-22,3,然潘,2016-07-08,5, 一天,12
3,Your Name,你的名字,2016-12-29,4,然潘,2016-09-27,5
4,Your Name,你的名字,2016-12-29,4,,2016-09-27,5, 无名,0
5,Your Name,你的名字,2016-12-29,4,然潘,2016-27-09,5, 日期,0
6,Your Name,你的名字,2016-12-29,5,然潘,2016-09-27,4, 好看,0
7,Your Name,你的名字,2016-12-29,5,然潘,2016-10-01,4, 又来,0
"""


@pytest.fixture(params=["DMSC.csv", "archive.zip"])
def raw(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("DMSC.csv", COMMENTS)
    else:
        path.write_text(COMMENTS, encoding="utf-8")
    return path


def test_comments_of_several_lines_are_one_row(raw):
    log = load_interactions("douban", raw=raw, min_user_interactions=1)
    assert sorted(log.user_ids.tolist()) == ["更深的白色", "然潘"]
    own = log.item_ids[log.items].tolist()
    expected = ["Avengers Age of Ultron", "Big Fish and Begonia", "Your Name", "Your Name"]
    assert [
        item for user, item in zip(log.user_ids[log.users], own, strict=True) if user == "然潘"
    ] == expected
    assert log.timestamps.max() == 1475280000  # 2016-10-01, 00:00 UTC


def test_malformed_rows_are_counted(raw):
    log = load_interactions("douban", raw=raw)
    assert log.malformed.count == 3
    assert log.malformed.first_line == 5
    assert "has not 10 fields but 8" in log.malformed.reason
    assert log.dropped == {"users": 1, "interactions": 1}


def test_repeats_are_kept_unless_it_is_said_otherwise(raw):
    assert len(load_interactions("douban", raw=raw).items) == 4
    log = load_interactions("douban", raw=raw, duplicates="first")
    assert len(log.items) == 3
    assert log.dropped == {"users": 1, "interactions": 1, "duplicates": 1}
    assert log.timestamps.max() == 1474934400


def test_another_csv_is_refused(tmp_path):
    path = tmp_path / "DMSC.csv"
    path.write_text("ID,Movie_Name_EN,Date\n1,2,3\n")
    with pytest.raises(
        InputError, match="the first line has no column 'Username'; check that this is the right"
    ):
        load_interactions("douban", raw=path)
    path.write_text(COMMENTS.splitlines()[0] + "\n1,2\n")
    with pytest.raises(
        InputError, match=r"no line of it can be used \(1 malformed line, it is line 2: '1,2' has"
    ):
        load_interactions("douban", raw=path)


def test_an_unclosed_quote_is_malformed_with_all_that_it_swallows(tmp_path):
    path = tmp_path / "DMSC.csv"
    lines = COMMENTS.splitlines()
    lines[-2] = '6,Your Name,你的名字,2016-12-29,5,"然潘,2016-09-27,4, 好看,0'
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    log = load_interactions("douban", raw=path, min_user_interactions=1)
    assert "Your Name" not in log.item_ids.tolist()
    assert log.malformed.count == 4
