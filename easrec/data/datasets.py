"""The data sets known by name: their raw files, checksums and terms, and how they are read and prepared."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from easrec.data.filtering import Duplicates
from easrec.data.readers.amazon import AMAZON_READER
from easrec.data.readers.douban import DOUBAN_READER
from easrec.data.readers.gowalla import GOWALLA_READER
from easrec.data.readers.movielens import CSV_READER, DAT_READER, ML_100K_READER
from easrec.data.readers.reader import Reader
from easrec.data.readers.steam import STEAM_READER
from easrec.data.sources import ArchiveSource, FileSource, Source, WheelSource


@dataclass(frozen=True)
class Recipe:
    """What is done to a log before it is split, unless its user wants it otherwise."""

    duplicates: Duplicates = "keep"
    """Which of a user's interactions with the same item stay."""
    k_core: int = 0
    """The fewest interactions of each user and item, joint and iterative; 0 asks nothing of items."""


AS_IT_IS = Recipe()


@dataclass(frozen=True)
class Counts:
    """What is published of a data set, and what its recipe must give; None where it is not known."""

    users: int
    items: int | None
    interactions: int

    def __str__(self) -> str:
        items = "" if self.items is None else f"{self.items:,} items, "
        return f"{self.users:,} users, {items}{self.interactions:,} interactions"

    def agree_with(self, other: "Counts") -> bool:
        """Whether all that is known of both is the same."""
        unknown = self.items is None or other.items is None
        same = (self.users, self.interactions) == (other.users, other.interactions)
        return same and (unknown or self.items == other.items)


@dataclass(frozen=True)
class RawFile:
    """A file in the cache."""

    name: str
    sources: tuple[Source, ...]
    """Where it can be had, in the order of trying; all of them give this one file."""
    sha256: str = ""
    """Its checksum; "" if `md5` is it."""
    md5: str = ""
    """What the publisher states of it."""

    def is_at(self, path: Path) -> bool:
        """Whether the file at `path` is there and has the checksum."""
        if not path.is_file():
            return False
        algorithm, expected = ("sha256", self.sha256) if self.sha256 else ("md5", self.md5)
        with path.open("rb") as content:
            return hashlib.file_digest(content, algorithm).hexdigest() == expected


@dataclass(frozen=True)
class KnownDataset:
    """A data set that can be loaded by its name."""

    name: str
    raw_file: str
    """Name of the raw file in the cache; all sources give this one file. Where there are no sources, the file
    that a person has to get."""
    sha256: str
    """Checksum of the raw file; "" if `md5` is it, or if there are no sources."""
    sources: tuple[Source, ...]
    """Where it can be had, in the order of trying; none if easrec does not download it."""
    licence: str
    """Terms of use, printed when the data set is fetched."""
    md5: str = ""
    """Checksum of the raw file as its publisher states it."""
    reader: Reader | None = None
    """How its raw files are read; None: as a log of one's own."""
    recipe: Recipe = AS_IT_IS
    """How it is prepared."""
    counts: Counts | None = None
    """What is published of it, after the recipe."""
    homepage: str = ""
    """Where a person gets it."""
    item_file: RawFile | None = None
    """The file that describes the items, where the raw file does not hold it."""

    @property
    def log_file(self) -> RawFile:
        """The raw file."""
        return RawFile(self.raw_file, self.sources, self.sha256, self.md5)


_RECBOLE = "recbole==1.2.1"
_MOVIELENS = "https://files.grouplens.org/datasets/movielens"


def _movielens(name: str, *, md5: str, reader: Reader, counts: Counts) -> KnownDataset:
    """One of the later MovieLens sets, whose archives are kept as they are."""
    return KnownDataset(
        name=name,
        raw_file=f"{name}.zip",
        sha256="",
        sources=(FileSource(f"{_MOVIELENS}/{name}.zip"),),
        licence=(
            f"MovieLens {name.removeprefix('ml-').upper()}, (c) GroupLens Research, University of Minnesota: "
            "for research; no commercial use without permission; acknowledge it in publications (Harper and "
            f"Konstan, 2015, doi.org/10.1145/2827872). Full terms, also on redistribution: {_MOVIELENS}/"
            f"{name}-README.{'txt' if reader is DAT_READER else 'html'}"
        ),
        md5=md5,
        reader=reader,
        counts=counts,
        homepage=f"https://grouplens.org/datasets/movielens/{name.removeprefix('ml-')}/",
    )


# The official u.data and the rows of RecBole's ml-100k.inter agree in size and wherever they were
# compared. The one checksum holds both to being the same bytes, so that the sources cannot differ even
# in the order of equal timestamps: an archive with other rows is refused and the next source taken.
ML_100K = KnownDataset(
    name="ml-100k",
    raw_file="ml-100k.inter",
    sha256="4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    sources=(
        ArchiveSource(
            url=f"{_MOVIELENS}/ml-100k.zip",
            member="ml-100k/u.data",
            md5="0e33842e24a9c977be4e0107933c0723",
            header="user_id:token\titem_id:token\trating:float\ttimestamp:float\n",
        ),
        WheelSource(
            requirement=_RECBOLE,
            member="recbole/dataset_example/ml-100k/ml-100k.inter",
        ),
    ),
    licence=(
        "MovieLens 100K, (c) GroupLens Research, University of Minnesota: for research; no "
        "redistribution and no commercial use without permission; acknowledge it in publications "
        "(Harper and Konstan, 2015, doi.org/10.1145/2827872). Full terms: "
        "https://files.grouplens.org/datasets/movielens/ml-100k-README.txt"
    ),
    reader=ML_100K_READER,
    counts=Counts(943, 1_682, 100_000),
    homepage="https://grouplens.org/datasets/movielens/100k/",
    item_file=RawFile(
        "ml-100k.item",
        (WheelSource(requirement=_RECBOLE, member="recbole/dataset_example/ml-100k/ml-100k.item"),),
        sha256="51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    ),
)

ML_1M = _movielens(
    "ml-1m",
    md5="c4d9eecfca2ab87c1945afe126590906",
    reader=DAT_READER,
    counts=Counts(6_040, 3_706, 1_000_209),
)

ML_20M = _movielens(
    "ml-20m",
    md5="cd245b17a1ae2cc31bb14903e1204af3",
    reader=CSV_READER,
    counts=Counts(138_493, 26_744, 20_000_263),
)

ML_32M = _movielens(
    "ml-32m",
    md5="d472be332d4daa821edc399621853b57",
    reader=CSV_READER,
    counts=Counts(200_948, None, 32_000_204),
)

# The recipe gives the counts of the paper.
GOWALLA = KnownDataset(
    name="gowalla",
    raw_file="loc-gowalla_totalCheckins.txt.gz",
    sha256="",
    sources=(),
    licence="Gowalla check-ins, from SNAP: cite Cho, Myers and Leskovec, Friendship and Mobility (KDD 2011)",
    reader=GOWALLA_READER,
    recipe=Recipe(duplicates="last", k_core=5),
    counts=Counts(64_115, 164_532, 2_018_421),
    homepage="https://snap.stanford.edu/data/loc-gowalla.html",
)

DOUBAN = KnownDataset(
    name="douban",
    raw_file="DMSC.csv",
    sha256="",
    sources=(),
    licence="Douban Movie Short Comments, from Kaggle: for the terms see its page there",
    reader=DOUBAN_READER,
    homepage="https://www.kaggle.com/datasets/utmhikari/doubanmovieshortcomments",
)

AMAZON = KnownDataset(
    name="amazon",
    raw_file="the reviews (.json.gz, .jsonl.gz) or ratings (.csv) of one category",
    sha256="",
    sources=(),
    licence=(
        "Amazon reviews, from the McAuley Lab at UCSD: cite He and McAuley (WWW 2016) for the release of "
        "2014, Ni et al. (EMNLP 2019) for that of 2018, Hou et al. (arXiv 2403.03952) for that of 2023"
    ),
    reader=AMAZON_READER,
    recipe=Recipe(duplicates="first", k_core=5),
    homepage="https://amazon-reviews-2023.github.io or https://nijianmo.github.io/amazon/index.html",
)

STEAM = KnownDataset(
    name="steam",
    raw_file="steam_reviews.json.gz",
    sha256="",
    sources=(),
    licence="Steam reviews, from the McAuley Lab at UCSD: cite Kang and McAuley (ICDM 2018)",
    reader=STEAM_READER,
    recipe=Recipe(duplicates="first", k_core=5),
    homepage="https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data",
)

KNOWN_DATASETS: dict[str, KnownDataset] = {
    dataset.name: dataset for dataset in (ML_100K, ML_1M, ML_20M, ML_32M, GOWALLA, DOUBAN, AMAZON, STEAM)
}
"""All data sets that can be loaded by name."""
