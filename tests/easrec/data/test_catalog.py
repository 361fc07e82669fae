import hashlib
import re
import socket
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from easrec.data import catalog
from easrec.data.catalog import (
    KNOWN_DATASETS,
    ML_100K,
    ArchiveSource,
    KnownDataset,
    SourceError,
    WheelSource,
    fetch,
)
from easrec.data.interactions import load_interactions
from easrec.errors import InputError

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


@pytest.fixture(scope="module")
def rows() -> str:
    """Rows in ml-100k's layout, many of them with equal timestamps."""
    generator = np.random.default_rng(0)
    table = np.column_stack(
        [generator.integers(1, 20, 400), generator.integers(1, 60, 400), generator.integers(1, 6, 400)]
    )
    return "".join(f"{u}\t{i}\t{r}\t{881250900 + u % 7 + r}\n" for u, i, r in table)


def write_zip(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def official_zip(path: Path, rows: str) -> ArchiveSource:
    write_zip(path, {"ml-100k/README": "terms", "ml-100k/u.data": rows})
    official = ML_100K.sources[0]
    return replace(official, url=path.as_uri(), md5=hashlib.md5(path.read_bytes()).hexdigest())


def fake_wheel(folder: Path, rows: str) -> WheelSource:
    _, wheel = ML_100K.sources
    about = "fake-1.0.dist-info"
    files = {
        wheel.member: HEADER + rows,
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: fake\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    path = write_zip(folder / "fake-1.0-py3-none-any.whl", files)
    return replace(wheel, requirement=str(path))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class TextSource:
    """A source that gives `text` after some time, and counts how often it was asked."""

    text: str | None
    delay_s: float = 0.0
    asked: list[float] = field(default_factory=list)
    description: str = "a source in memory"

    def write(self, destination: Path) -> None:
        self.asked.append(time.monotonic())
        time.sleep(self.delay_s)
        destination.write_text(self.text or "half of it")
        if self.text is None:
            raise SourceError("it broke off")


@pytest.fixture
def known(monkeypatch):
    """Make a data set with these sources known as "own"."""

    def add(text: str, *sources) -> KnownDataset:
        dataset = KnownDataset("own", "own.inter", sha256(text), tuple(sources), "do no harm")
        monkeypatch.setitem(KNOWN_DATASETS, "own", dataset)
        return dataset

    return add


def test_both_sources_of_ml_100k_give_the_same_interactions(tmp_path, known, rows):
    logs = []
    for source in (official_zip(tmp_path / "ml.zip", rows), fake_wheel(tmp_path, rows)):
        known(HEADER + rows, source)
        logs.append(load_interactions("own", cache_dir=tmp_path / type(source).__name__))
    one, other = logs
    assert one.checksum == other.checksum
    for name in ("users", "items", "timestamps", "user_ids", "item_ids"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    assert one.num_users == 19


def test_an_archive_with_other_rows_is_refused_for_the_next_source(tmp_path, known, rows, capsys):
    shuffled = "".join(sorted(rows.splitlines(keepends=True)))
    good = TextSource(HEADER + rows)
    known(HEADER + rows, official_zip(tmp_path / "ml.zip", shuffled), good)
    assert fetch("own", tmp_path / "cache").read_text() == HEADER + rows
    assert "sha256 is not the known one; fetching from a source in memory" in capsys.readouterr().err


def test_ml_100k_has_its_known_checksums():
    official, wheel = ML_100K.sources
    assert official.md5 == "0e33842e24a9c977be4e0107933c0723"
    assert official.header == HEADER
    assert wheel.requirement == "recbole==1.2.1"
    assert ML_100K.sha256 == "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"
    assert "research" in ML_100K.licence


def test_a_fetched_file_is_kept_and_terms_are_printed_once(tmp_path, known, capsys):
    source = TextSource("text")
    known("text", source)
    first = fetch("own", tmp_path)
    said = capsys.readouterr().err
    assert said == "own: fetching from a source in memory\nown: do no harm\n"
    assert fetch("own", tmp_path) == first == tmp_path / "own" / "own.inter"
    assert capsys.readouterr().err == ""
    assert len(source.asked) == 1


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path, known):
    source = TextSource("text")
    known("text", source)
    fetch("own", tmp_path).write_text("tex")
    assert fetch("own", tmp_path).read_text() == "text"
    assert len(source.asked) == 2


def test_fetches_at_once_ask_the_source_once(tmp_path, known, capsys):
    source = TextSource("text", delay_s=0.3)
    known("text", source)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch("own", tmp_path), range(4)))
    assert {path.read_text() for path in paths} == {"text"}
    assert len(source.asked) == 1
    assert capsys.readouterr().err.count("do no harm") == 1


def test_the_next_source_is_tried_and_the_reason_told_in_one_line(tmp_path, known, capsys):
    broken = TextSource(None, description="a broken source")
    known("text", broken, TextSource("text"))
    assert fetch("own", tmp_path).read_text() == "text"
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "own: a broken source: it broke off; fetching from a source in memory"
    assert len(lines) == 3


def test_no_source_left_names_all_reasons_and_leaves_no_part_behind(tmp_path, known):
    wrong = TextSource("other text", description="a changed source")
    known("text", TextSource(None), wrong)
    message = (
        r"'own' could not be fetched \(a source in memory: it broke off; a changed source: .* not "
        r"the known one\); check the connection, or put own.inter at "
        + re.escape(str(tmp_path / "own" / "own.inter"))
    )
    with pytest.raises(InputError, match=message):
        fetch("own", tmp_path)
    assert [path.name for path in (tmp_path / "own").iterdir()] == [".lock"]


def test_the_cache_directory_comes_from_the_environment(tmp_path, known, monkeypatch):
    known("text", TextSource("text"))
    monkeypatch.setenv("EASREC_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert fetch("own") == tmp_path / "elsewhere" / "own" / "own.inter"
    monkeypatch.delenv("EASREC_CACHE_DIR")
    assert catalog.default_cache_dir().name == "easrec"


def test_a_cache_that_cannot_be_written_is_an_input_error(tmp_path, known):
    known("text", TextSource("text"))
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(InputError, match=r"cannot be used .*set EASREC_CACHE_DIR to another"):
        fetch("own", tmp_path / "file")


def test_a_cached_file_that_may_not_be_read_is_an_input_error(tmp_path, known, monkeypatch):
    known("text", TextSource("text"))

    def forbidden(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(catalog.RawFile, "is_at", forbidden)
    with pytest.raises(InputError, match=r"own: cannot be used \(Permission denied\); set EASREC_CACHE_DIR"):
        fetch("own", tmp_path)


def test_an_archive_is_checked(tmp_path, rows):
    source = official_zip(tmp_path / "ml.zip", rows)
    with pytest.raises(SourceError, match=f"the archive's md5 is {source.md5}, not 0"):
        replace(source, md5="0").write(tmp_path / "raw")
    with pytest.raises(SourceError, match="no ml-100k/none in the archive"):
        replace(source, member="ml-100k/none").write(tmp_path / "raw")
    page = tmp_path / "page.html"
    page.write_text("please log in")
    md5 = hashlib.md5(page.read_bytes()).hexdigest()
    with pytest.raises(SourceError, match="in the archive: File is not a zip file"):
        replace(source, url=page.as_uri(), md5=md5).write(tmp_path / "raw")


def test_a_host_that_never_answers_is_given_up_soon(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/ml-100k.zip"
        source = replace(ML_100K.sources[0], url=url, timeout_s=0.3)
        began = time.monotonic()
        with pytest.raises(SourceError, match=r"not reachable: .*(0\.3 s|timed out)"):
            source.write(tmp_path / "raw")
        assert time.monotonic() - began < 3


def test_a_name_look_up_that_hangs_is_given_up_soon(tmp_path, monkeypatch):
    released = threading.Event()

    def hanging_open(url: str, timeout: float) -> None:
        released.wait(20)
        raise OSError("too late to matter")

    monkeypatch.setattr("urllib.request.urlopen", hanging_open)
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"not reachable: no answer within 0\.3 s"):
        replace(ML_100K.sources[0], timeout_s=0.3).write(tmp_path / "raw")
    assert time.monotonic() - began < 3
    released.set()


def test_a_refused_connection_gives_its_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SourceError, match="not reachable: Connection refused"):
        replace(ML_100K.sources[0], url=f"http://127.0.0.1:{port}/x").write(tmp_path / "raw")


def test_pip_that_fails_gives_its_last_line(tmp_path):
    source = replace(ML_100K.sources[1], requirement=str(tmp_path / "none-1.0-py3-none-any.whl"))
    with pytest.raises(SourceError, match=r"pip failed: .*none-1\.0-py3-none-any\.whl"):
        source.write(tmp_path / "raw")
