"""The states of users between their interactions: of fixed size, to be kept as bytes.

Legend: B users, W windows of a state (2), L layers, H heads, E dimensions of a head, D hidden size, V items.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from easrec.data.sequences import Int64s
from easrec.errors import InputError
from easrec.models.architecture import Architecture
from easrec.serving.windows import NUM_WINDOWS

MAGIC = b"easrec-states\n"
FORMAT_VERSION = 1

_HEADER_LENGTH = struct.Struct("<I")
_DIGEST_SIZE = hashlib.sha256().digest_size

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class StateFormat:
    """What the states of a network look like."""

    network: str
    """Fingerprint of the network, weights included: states of another one mean nothing to it."""
    architecture: Architecture
    num_items: int
    """V."""

    @property
    def num_seen_bytes(self) -> int:
        """Bytes with a bit for each item, 0..V."""
        return self.num_items // 8 + 1

    def shapes(self, num_users: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the float32 arrays of `UserStates`, those of all layers stacked."""
        hidden, heads = self.architecture.hidden_size, self.architecture.num_heads
        size, column_norm = hidden // heads, self.architecture.key_norm == "column"
        num_layers = self.architecture.num_layers
        return {
            "sums": (num_layers, num_users, NUM_WINDOWS, heads, size, size),
            # Keys that are normalised by themselves need no norm over positions.
            "squares": (num_layers if column_norm else 0, num_users, NUM_WINDOWS, heads, size),
            "embeddings": (num_users, hidden),
            "inputs": (num_users, hidden),
        }


@dataclass(frozen=True, eq=False, slots=True)
class UserStates:
    """What a network keeps of B users; never changed, so that an older one stays what it was."""

    format: StateFormat
    phases: Int64s
    """Where each user's windows stand, (B,), see `easrec.serving.windows`; 0 is who has met nothing."""
    sums: tuple[Floats, ...]
    """S of each layer, the sum of key features times values over each window, (B, W, H, E, E)."""
    squares: tuple[Floats, ...]
    """n^2 of each layer, the sum of squared key features over each window, (B, W, H, E); with
    `key_norm="row"` no layer has any."""
    embeddings: Floats
    """The normalised embedding of the last item in the window that answers, (B, D)."""
    inputs: Floats
    """The last layer's input there, (B, D): what it makes of it is computed when it is asked for."""
    seen: Bits | None
    """All items that each user has met, bit i % 8 of byte i // 8 for item i, (B, V // 8 + 1); None where they
    are not remembered."""

    def __len__(self) -> int:
        """B."""
        return len(self.phases)

    @classmethod
    def empty(cls, form: StateFormat, num_users: int, *, remember_seen: bool) -> "UserStates":
        """Users who have met nothing yet."""
        arrays = {name: np.zeros(shape, dtype=np.float32) for name, shape in form.shapes(num_users).items()}
        seen = np.zeros((num_users, form.num_seen_bytes), dtype=np.uint8) if remember_seen else None
        return cls._of(form, np.zeros(num_users, dtype=np.int64), arrays, seen)

    @classmethod
    def _of(
        cls, form: StateFormat, phases: Int64s, arrays: dict[str, Floats], seen: Bits | None
    ) -> "UserStates":
        """States from arrays of the shapes of `StateFormat.shapes`."""
        return cls(
            format=form,
            phases=phases,
            sums=tuple(arrays["sums"]),
            squares=tuple(arrays["squares"]),
            embeddings=arrays["embeddings"],
            inputs=arrays["inputs"],
            seen=seen,
        )

    def select(self, users: Sequence[int] | Int64s) -> "UserStates":
        """The states of some users, by their place in this batch."""
        index = np.asarray(users, dtype=np.int64)
        return self._map(lambda array: array[index])

    def with_users(self, users: Int64s, states: "UserStates") -> "UserStates":
        """A copy in which some users, by their place in this batch, have other states."""

        def place(array: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[Any]:
            array = array.copy()
            array[users] = others
            return array

        return self._map(place, states)

    @classmethod
    def concatenate(cls, parts: Sequence["UserStates"]) -> "UserStates":
        """One batch out of several, in their order.

        Raises:
            InputError: there is none, or they are of several networks, or only some remember what was seen.
        """
        if not parts:
            raise InputError("there are no states to concatenate; give at least one")
        if len({part.format for part in parts}) > 1:
            raise InputError("states of different networks cannot be one batch; keep them apart")
        if len({part.seen is None for part in parts}) > 1:
            raise InputError(
                "states that remember seen items and states that do not cannot be one batch; start all of "
                "them with the same remember_seen"
            )
        return parts[0]._map(lambda *arrays: np.concatenate(arrays), *parts[1:])

    def _map(self, function: Callable[..., npt.NDArray[Any]], *others: "UserStates") -> "UserStates":
        """States whose every array is what `function` makes of those of these states and of others."""
        alike = (self, *others)

        def each_layer(name: str) -> tuple[npt.NDArray[Any], ...]:
            return tuple(function(*arrays) for arrays in zip(*(getattr(s, name) for s in alike), strict=True))

        return UserStates(
            format=self.format,
            phases=function(*(states.phases for states in alike)),
            sums=each_layer("sums"),
            squares=each_layer("squares"),
            embeddings=function(*(states.embeddings for states in alike)),
            inputs=function(*(states.inputs for states in alike)),
            seen=None if self.seen is None else function(*(states.seen for states in alike)),
        )

    def to_bytes(self) -> bytes:
        """The states as bytes that any machine can read, with a checksum; `from_bytes` is the inverse."""
        header = {
            "format_version": FORMAT_VERSION,
            "network": self.format.network,
            "num_users": len(self),
            "remember_seen": self.seen is not None,
        }
        text = json.dumps(header, sort_keys=True).encode()
        floats = (*self.sums, *self.squares, self.embeddings, self.inputs)
        parts = [MAGIC, _HEADER_LENGTH.pack(len(text)), text, self.phases.astype("<i8").tobytes()]
        parts += [array.astype("<f4").tobytes() for array in floats]
        if self.seen is not None:
            parts.append(self.seen.tobytes())
        content = b"".join(parts)
        return content + hashlib.sha256(content).digest()

    @classmethod
    def from_bytes(cls, data: bytes, form: StateFormat) -> "UserStates":
        """Read what `to_bytes` wrote.

        Args:
            data: the bytes.
            form: what the states of the network at hand look like.

        Raises:
            InputError: the bytes are no states, are damaged, or are those of another version or network.
        """
        header, start = _read_header(data)
        if header["network"] != form.network:
            raise InputError(
                f"the stored states belong to network {header['network'][:12]}, not to the one in use, "
                f"{form.network[:12]}; start them anew from the histories"
            )
        num_users = header["num_users"]
        stored = _Arrays(data, start)
        phases = stored.take("<i8", (num_users,))
        arrays = {name: stored.take("<f4", shape) for name, shape in form.shapes(num_users).items()}
        seen = stored.take("|u1", (num_users, form.num_seen_bytes)) if header["remember_seen"] else None
        return cls._of(form, phases, arrays, seen)


class _Arrays:
    """Arrays that stand in bytes one after the other."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._start = data, start

    def take(self, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The next array: a copy, in this machine's byte order."""
        array = np.frombuffer(self._data, dtype, int(np.prod(shape)), self._start).reshape(shape)
        self._start += array.nbytes
        return array.astype(array.dtype.newbyteorder("="))


def _read_header(data: bytes) -> tuple[dict[str, Any], int]:
    """What the bytes say of themselves, once they are found whole, and where the arrays begin."""
    if not data.startswith(MAGIC):
        raise InputError("these bytes are not states that UserStates.to_bytes wrote; give what it returned")
    if hashlib.sha256(data[:-_DIGEST_SIZE]).digest() != data[-_DIGEST_SIZE:]:
        raise InputError(
            f"the stored states are damaged, since the checksum of their {len(data)} bytes is wrong; start "
            "them anew from the histories"
        )
    (length,) = _HEADER_LENGTH.unpack_from(data, len(MAGIC))
    start = len(MAGIC) + _HEADER_LENGTH.size
    header: dict[str, Any] = json.loads(data[start : start + length])
    if header["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"the stored states are of format version {header['format_version']}, and this easrec reads "
            f"version {FORMAT_VERSION}; start them anew from the histories"
        )
    return header, start + length
