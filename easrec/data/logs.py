"""A log as a reader hands it over: its three columns, in the order of the file, and what was no interaction.

Legend: M interactions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from easrec.errors import InputError

# As int() would print it, so that texts such as "007" stay texts; 18 digits fit into int64.
_WHOLE_NUMBER = r"^(0|-?[1-9][0-9]{0,17})$"

Int32s = npt.NDArray[np.int32]
Timestamps = npt.NDArray[np.int64] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Malformed:
    """Lines that hold no interaction: they were left out and counted.

    >>> print(Malformed(2, 7, "'1::2' is not UserID::MovieID::Rating::Timestamp"))
    2 malformed lines, the first is line 7: '1::2' is not UserID::MovieID::Rating::Timestamp
    """

    count: int = 0
    """How many."""
    first_line: int = 0
    """The first one, counted from 1 with the header; 0 where there is none. In a quoted csv a record that
    spans several lines counts as one, and blank lines do not count."""
    reason: str = ""
    """What is wrong with the first one."""

    def __str__(self) -> str:
        if not self.count:
            return "no malformed line"
        lines = "1 malformed line, it" if self.count == 1 else f"{self.count} malformed lines, the first"
        return f"{lines} is line {self.first_line}: {self.reason}"

    def __add__(self, other: "Malformed") -> "Malformed":
        """Both together; the first is the one that comes first in the file."""
        parts = [part for part in (self, other) if part.count]
        first = min(parts, key=lambda part: part.first_line, default=self)
        return Malformed(self.count + other.count, first.first_line, first.reason)


NOTHING_MALFORMED = Malformed()


@dataclass(frozen=True, eq=False)
class Ids:
    """A column of ids: `values[codes]` is the column."""

    codes: Int32s
    """Rank of each row's id among the distinct ones, (M,)."""
    values: npt.NDArray[Any]
    """The distinct ids in ascending order: int64, or objects of type str."""

    def only(self, rows: npt.NDArray[np.bool_]) -> "Ids":
        """The ids of `rows`, a mask (M,), without the values that no longer occur."""
        codes = self.codes if rows.all() else self.codes[rows]
        present = np.bincount(codes, minlength=len(self.values)) > 0
        if present.all():
            return Ids(codes, self.values)
        renumbered = (np.cumsum(present) - 1).astype(np.int32)
        return Ids(renumbered[codes], self.values[present])


@dataclass(frozen=True, eq=False)
class Log:
    """The columns of a log, without nulls."""

    users: Ids
    items: Ids
    timestamps: Timestamps
    """Finite numbers, (M,)."""
    malformed: Malformed = NOTHING_MALFORMED
    """What was left out, of a reader that leaves malformed lines out."""


def make_ids(column: Any, *, where: str, is_text_format: bool) -> Ids:
    """The ids of an Arrow column without nulls.

    Args:
        column: texts or whole numbers, as a dictionary or plain; a chunked array.
        where: names the file and the column in errors.
        is_text_format: texts become numbers if all of the column are whole numbers, since the format knows
            no types. Otherwise they stay what they are.

    Raises:
        InputError: ids of another type.
    """
    if pa.types.is_nested(column.type):  # lists and structs, which Arrow does not encode
        raise InputError(f"{where} holds {column.type}; ids must be texts or whole numbers")
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    encoded = column.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    values, codes = encoded.dictionary, encoded.indices.to_numpy()
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if is_text and is_text_format:
        is_text = not pc.all(pc.match_substring_regex(values, _WHOLE_NUMBER)).as_py()
    if not is_text:
        if pa.types.is_uint64(values.type) and len(values) and pc.max(values).as_py() >= 1 << 63:
            raise InputError(
                f"{where} holds {pc.max(values).as_py()}; whole numbers must be below 2^63: give such ids as "
                "texts"
            )
        try:
            values = values.cast(pa.int64())
        except pa.ArrowException as error:
            raise InputError(f"{where} holds {values.type}; ids must be texts or whole numbers") from error
    elif not is_text_format and pc.any(pc.equal(pc.utf8_length(values), 0)).as_py():
        raise InputError(f"{where} holds an empty text; fill it in or remove the rows")
    # Sorting by value also merges equal entries, which a file's own dictionary may hold.
    distinct, ranks = np.unique(values.to_numpy(zero_copy_only=False), return_inverse=True)
    return Ids(ranks.astype(np.int32)[codes], distinct).only(np.ones(len(codes), dtype=np.bool_))


def shown(text: str, longest: int = 60) -> str:
    """`text` quoted for a message, shortened.

    >>> shown("a line that goes on", longest=6)
    "'a line...'"
    """
    return repr(text if len(text) <= longest else text[:longest] + "...")
