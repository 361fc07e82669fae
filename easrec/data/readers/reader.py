"""What a reader is, and what it tells about items.

Legend: M interactions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from easrec.data.logs import NOTHING_MALFORMED, Log, Malformed
from easrec.data.readers.raw_files import RawFiles


@dataclass(frozen=True, eq=False)
class RawItems:
    """What raw files say of items, one row per item."""

    item_ids: Any
    """The data set's own ids, an Arrow array of texts or whole numbers."""
    features: Mapping[str, Any]
    """Lists of texts by the name of the feature, Arrow arrays as long as `item_ids`; some may be empty."""
    malformed: Malformed = NOTHING_MALFORMED
    """What was left out."""


@dataclass(frozen=True)
class Reader:
    """How to read the raw files of one data set."""

    log_files: tuple[str, ...]
    """Names of the file that holds the log, with * and ?, the preferred one first."""
    read_log: Callable[[RawFiles], Log]
    """Reads the log; raises InputError."""
    read_items: Callable[[RawFiles], RawItems] | None = None
    """Reads what there is on the items; raises InputError. None: the raw files say nothing of them."""
    part_of: Callable[[RawFiles], str] | None = None
    """Names the part that the raw files are of a data set in many parts. None: it is one whole."""
