"""Prepare a data set: read its raw files or a log, filter it, say what it is (Table I), and write it.

python pipelines/prepare_dataset.py --dataset ml-100k
python pipelines/prepare_dataset.py --dataset gowalla --data loc-gowalla_totalCheckins.txt.gz
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from easrec.errors import InputError
from sweeps.command_line import parse
from sweeps.data_options import DataOptions

if TYPE_CHECKING:
    from easrec.data.interactions import Interactions
    from easrec.data.readers.reader import RawItems


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig(DataOptions):
    """Prepare a data set, print the paper's Table I for it, and write one parquet and one metadata file.

    One of --dataset and --data must be given, or both. The split is only described: it is made anew whenever
    the data are used.
    """

    output: Path = Path("runs/data")
    """Directory for NAME.parquet and NAME.json, and NAME.items.parquet if something is known of the items."""
    min_user_interactions: int = 3
    """Users with fewer interactions are dropped."""
    k_core: int | None = None
    """The fewest interactions of each user and each item, joint and iterative; 0 asks nothing of items. Left
    out: what the data set's recipe says; 0 for your own log."""
    duplicates: Literal["keep", "first", "last"] | None = None
    """Of a user's interactions with the same item, keep all, or the first or the last one. Left out: what the
    data set's recipe says; keep for your own log."""
    keep_repeats: bool = False
    """The same as --duplicates keep."""
    malformed: Literal["refuse", "skip"] = "refuse"
    """Of your own log, refuse it if a line cannot be used, or skip and count such lines, as is done always
    with the raw files of a known data set."""

    def check(self) -> None:
        """Refuse options that cannot be meant; raises InputError."""
        DataOptions.check(self)
        if self.dataset is None and self.data is None:
            raise InputError(
                "give --dataset, a data set known by name, or --data, a log of your own, or both"
            )
        if self.keep_repeats and self.duplicates not in (None, "keep"):
            raise InputError(
                f"--keep-repeats and --duplicates {self.duplicates} contradict each other; give one"
            )
        if self.min_user_interactions < 1:
            raise InputError(f"--min-user-interactions must be at least 1, got {self.min_user_interactions}")
        if self.k_core is not None and self.k_core < 0:
            raise InputError(f"--k-core must be at least 0, got {self.k_core}")


def run(config: PrepareConfig) -> None:
    """Prepare and write; prints what was read and left out, Table I, the split and the files."""
    # Imported late: pandas takes a second, and --help does not need it.
    from easrec.data.datasets import AS_IT_IS, KNOWN_DATASETS, Counts
    from easrec.data.interactions import load_interactions
    from easrec.data.prepared import table_one, write_prepared
    from sweeps.data import split_of

    known = KNOWN_DATASETS.get(config.dataset or "")
    if config.dataset is not None and known is None:
        raise InputError(f"unknown --dataset {config.dataset!r}; known are {', '.join(KNOWN_DATASETS)}")
    recipe = known.recipe if known else AS_IT_IS
    duplicates = "keep" if config.keep_repeats else config.duplicates or recipe.duplicates
    k_core = recipe.k_core if config.k_core is None else config.k_core
    interactions = load_interactions(
        known.name if known else cast(Path, config.data),
        raw=config.data if known else None,
        user_column=config.user_column,
        item_column=config.item_column,
        time_column=config.time_column,
        min_user_interactions=config.min_user_interactions,
        duplicates=duplicates,
        k_core=k_core,
        malformed=config.malformed,
    )
    split = split_of(config, interactions)
    print(_what_was_read(interactions, duplicates))
    table = table_one(interactions)
    print("| data set | users | items | interactions | average length | density |\n|---|---|---|---|---|---|")
    print(
        f"| {interactions.name} | {table['users']:,} | {table['items']:,} | {table['interactions']:,} | "
        f"{table['average_length']:.2f} | {table['density']:.4%} |"
    )
    published = known.counts if known and (duplicates, k_core) == (recipe.duplicates, recipe.k_core) else None
    as_published = None
    if published:
        found = Counts(interactions.num_users, interactions.num_items, len(interactions.items))
        as_published = published.agree_with(found)
        print(
            "these are the published counts"
            if as_published
            else f"other counts are published ({published}): this is not the original file, or not all of it"
        )
    print(
        f"split {config.split}: {split.statistics['training_targets']:,} training targets, "
        f"{len(split.valid.rows):,} validation and {len(split.test.rows):,} test questions; "
        f"{split.statistics['cold_test_share']:.2%} of the test targets never occur in training, "
        f"{split.statistics['repeat_share']:.2%} of the validation targets are in their own history"
    )
    about = {
        "source": {"dataset": config.dataset, "data": None if config.data is None else str(config.data)},
        "recipe": {
            "duplicates": duplicates,
            "k_core": k_core,
            "min_user_interactions": config.min_user_interactions,
        },
        "as_published": as_published,
        "split": {"method": config.split, "checksum": split.checksum, **split.statistics},
        "licence": known.licence if known else None,
    }
    for path in write_prepared(interactions, config.output, items=_items(config), about=about):
        print(f"wrote {path}")
    if known and config.data is not None:  # otherwise they were printed when it was fetched
        print(f"terms: {known.licence}")


def _what_was_read(interactions: "Interactions", duplicates: str) -> str:
    """One line: how many rows there were, and why some are gone."""
    dropped, malformed = interactions.dropped, interactions.malformed
    rows = len(interactions.items) + dropped["interactions"] + dropped.get("duplicates", 0) + malformed.count
    said = [f"read {rows:,} rows: {malformed}"]
    if "duplicates" in dropped:
        said.append(
            f"{dropped['duplicates']:,} repeats of a user and an item left out (the {duplicates} one stays)"
        )
    items = f" and {dropped['items']:,} items" if "items" in dropped else ""
    said.append(
        f"{dropped['users']:,} users{items} with too few interactions dropped, and with them "
        f"{dropped['interactions']:,} interactions"
    )
    return "; ".join(said)


def _items(config: PrepareConfig) -> "RawItems | None":
    """What is said of the items, if anything is."""
    from easrec.data.datasets import KNOWN_DATASETS
    from easrec.data.features import read_items

    if config.dataset is not None:
        if (reader := KNOWN_DATASETS[config.dataset].reader) is None or reader.read_items is None:
            return None
    elif config.data is None or config.data.suffix != ".inter":
        return None
    try:
        items = read_items(config.dataset or cast(Path, config.data), raw=config.dataset and config.data)
    except InputError as error:
        print(f"nothing is known of the items ({error})")
        return None
    print(f"{len(items.item_ids):,} items described by {', '.join(items.features)}: {items.malformed}")
    return items


def main() -> int:
    """Run what the command line describes; returns the exit status."""
    try:
        config = parse(PrepareConfig, "prepare_dataset.py")
        config.check()
        run(config)
    except InputError as error:
        print(f"prepare_dataset.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nprepare_dataset.py: stopped; nothing is half written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
