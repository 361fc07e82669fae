import gzip
import zipfile

import pytest

from easrec.data.readers.raw_files import RawFiles
from easrec.errors import InputError

TEXT = b"some lines\nof text\n"


def read(files: RawFiles, *names: str) -> bytes:
    with files.open(files.find(names)) as stream:
        return stream.read()


def test_a_directory_an_archive_and_a_file_hold_the_same(tmp_path):
    folder = tmp_path / "raw" / "ml-1m"
    folder.mkdir(parents=True)
    (folder / "ratings.dat").write_bytes(TEXT)
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/ratings.dat", TEXT)
        archive.writestr("__MACOSX/ml-1m/._ratings.dat", b"not this")
    for path in (folder, tmp_path / "raw", tmp_path / "ml-1m.zip", folder / "ratings.dat"):
        assert read(RawFiles.at(path), "ratings.dat") == TEXT


def test_compressed_files_are_decompressed_wherever_they_are(tmp_path):
    packed = gzip.compress(TEXT)
    (tmp_path / "log.txt.gz").write_bytes(packed)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("log.txt.gz", packed)
    for path in (tmp_path, tmp_path / "log.txt.gz", tmp_path / "archive.zip"):
        assert read(RawFiles.at(path), "log.txt.gz", "log.txt") == TEXT


def test_a_file_given_is_the_log_whatever_its_name_and_its_neighbours_are_found(tmp_path):
    (tmp_path / "my copy").write_bytes(TEXT)
    (tmp_path / "movies.dat").write_bytes(b"films")
    files = RawFiles.at(tmp_path / "my copy")
    assert read(files, "ratings.dat") == TEXT
    assert files.find_items(("movies.dat",)) == "movies.dat"
    assert files.find_beside(("users.dat",)) is None
    assert files.described == str(tmp_path / "my copy")


def test_the_earliest_pattern_and_the_least_deep_file_count(tmp_path):
    for place in ("b.csv", "a.json", "deep/a.json"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(place)
    assert read(RawFiles.at(tmp_path), "*.json", "*.csv") == b"a.json"
    assert read(RawFiles.at(tmp_path), "*.tsv", "*.csv") == b"b.csv"


def test_what_cannot_be_used_is_told_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no such file or directory; check the path"):
        RawFiles.at(tmp_path / "nothing")
    (tmp_path / "page.zip").write_text("<html>please log in</html>")
    with pytest.raises(InputError, match="this is no zip archive, or not all of it"):
        RawFiles.at(tmp_path / "page.zip")
    with pytest.raises(InputError, match=r"holds none of ratings.dat, ratings.csv; give the directory"):
        RawFiles.at(tmp_path).find(("ratings.dat", "ratings.csv"))
    with pytest.raises(InputError, match=r"there is no movies\.dat beside it, which describes"):
        RawFiles.at(tmp_path).find_items(("movies.dat",))
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "ratings.dat").write_text("")
    with pytest.raises(
        InputError, match=r"one/ratings.dat, two/ratings.dat could all be meant; give the one"
    ):
        read(RawFiles.at(tmp_path), "ratings.dat")
    for name in "abcde":
        (tmp_path / f"{name}.csv").write_text("")
    with pytest.raises(InputError, match=r"a.csv, b.csv, c.csv, d.csv and more could all be meant"):
        RawFiles.at(tmp_path).find(("*.csv",))


@pytest.mark.parametrize("cut", [12, 20])
def test_a_file_cut_short_is_an_input_error(tmp_path, cut):
    path = tmp_path / "log.txt.gz"
    path.write_bytes(gzip.compress(TEXT)[:cut])
    with pytest.raises(InputError, match=r"log.txt.gz: cannot be read \(.*\); get the file again"):
        read(RawFiles.at(path))
    path.write_bytes(b"no gzip at all")
    with pytest.raises(InputError, match=r"cannot be read \(Not a gzipped file"):
        read(RawFiles.at(path))


def test_a_damaged_archive_is_an_input_error(tmp_path):
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ratings.dat", TEXT)
    path.write_bytes(path.read_bytes().replace(b"some lines", b"other line"))
    with pytest.raises(InputError, match=r"cannot be read \(Bad CRC-32"):
        read(RawFiles.at(path), "ratings.dat")
