"""What a network is (`Architecture`) and what a search may choose from (`CandidateSpace`)."""

import dataclasses
import itertools
import json
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, get_args

from easrec.errors import InputError

Attention = Literal["linear", "linear_bidirectional", "softmax"]
KeyNorm = Literal["column", "row"]
GateLayers = Literal[0, 1, 2]
Pairing = Literal["zip", "product"]
Weights = Literal["independent", "shared"]

_T = TypeVar("_T")


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        allowed = ", ".join(map(repr, choices))
        raise InputError(f"{name} must be one of {allowed}, got {value!r}")


def _check_sizes(owner: "Architecture | CandidateSpace") -> None:
    for name in ("hidden_size", "inner_size", "num_layers", "num_heads"):
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
    if owner.hidden_size % owner.num_heads:
        raise InputError(
            "hidden_size must be a multiple of num_heads, got "
            f"hidden_size={owner.hidden_size}, num_heads={owner.num_heads}"
        )


def _from_dict(cls: type[_T], values: dict[str, Any]) -> _T:
    unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})  # type: ignore[arg-type]
    if unknown:
        raise InputError(f"{cls.__name__} has no field {unknown[0]!r}")
    return cls(**values)


@dataclass(frozen=True, slots=True)
class Architecture:
    """One network: everything that its weights' shapes and its computation depend on.

    >>> Architecture(64, 256, 2, 4).architecture_id
    'h64-i256-l2-a4-linear-column-g2'
    >>> Architecture.from_json(Architecture(64, 256, 2, 4).to_json()) == Architecture(64, 256, 2, 4)
    True
    """

    hidden_size: int
    """Size of the embeddings and of every layer's input and output."""
    inner_size: int
    """Size between the two dense layers of a feed-forward network."""
    num_layers: int
    """Transformer layers."""
    num_heads: int
    """Attention heads; each has hidden_size / num_heads dimensions."""
    attention: Attention = "linear"
    """`linear` (causal), `linear_bidirectional` or `softmax` (causal)."""
    key_norm: KeyNorm = "column"
    """What divides the keys of linear attention: the norm of a feature over positions, or of a position."""
    gate_layers: GateLayers = 2
    """Dense layers in each data-aware gate; 0 means no gates."""

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_choice("attention", self.attention, get_args(Attention))
        _check_choice("key_norm", self.key_norm, get_args(KeyNorm))
        _check_choice("gate_layers", self.gate_layers, get_args(GateLayers))

    @property
    def architecture_id(self) -> str:
        """A readable name that differs whenever the architecture does."""
        return (
            f"h{self.hidden_size}-i{self.inner_size}-l{self.num_layers}-a{self.num_heads}"
            f"-{self.attention}-{self.key_norm}-g{self.gate_layers}"
        )

    @property
    def causal(self) -> bool:
        """Whether every position can be trained as a target of the positions before it."""
        return self.attention != "linear_bidirectional"

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; an unknown field raises `InputError`."""
        return _from_dict(cls, values)

    def to_json(self) -> str:
        """The fields as one JSON object."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        return cls.from_dict(json.loads(text))


def _kept(size: int, intensity: float, name: str) -> int:
    """How many of `size` dimensions remain when the share `intensity` of them is masked."""
    if not 0 <= intensity < 1:
        raise InputError(
            f"{name} must lie in [0, 1), got {intensity!r}: it is the share of dimensions that a "
            "candidate masks (write 0.5 for 50 %)"
        )
    return round((1 - intensity) * size)


@dataclass(frozen=True, slots=True)
class CandidateSpace:
    """The K candidate transformers and L depths that a supernet holds.

    Candidate k keeps the first (1 - m_k) hidden_size hidden and (1 - n_k) inner_size inner dimensions.

    >>> space = CandidateSpace(64, 256, 4, 4, (0, 0.5, 0.75), (0, 0.5, 0.75))
    >>> len(space), space.architecture(1, num_layers=2).architecture_id
    (3, 'h32-i128-l2-a4-linear-column-g2')
    """

    hidden_size: int
    """Hidden size of the supernet."""
    inner_size: int
    """Inner (feed-forward) size of the supernet."""
    num_layers: int
    """Layers of the supernet: the exits 1..num_layers are the depths to choose from."""
    num_heads: int
    """Attention heads of every candidate."""
    hidden_intensities: tuple[float, ...]
    """Shares of hidden dimensions masked, each in [0, 1)."""
    inner_intensities: tuple[float, ...]
    """Shares of inner dimensions masked, each in [0, 1)."""
    pairing: Pairing = "zip"
    """`zip`: candidate k takes entry k of both sets; `product`: every pair, hidden-major."""
    attention: Attention = "linear"
    """The attention of every candidate."""
    gate_layers: GateLayers = 2
    """Dense layers in each data-aware gate."""
    weights: Weights = "independent"
    """`independent`: each candidate has its own weights; `shared`: nested slices of one set."""
    key_norm: KeyNorm = "column"
    """The norm of the keys of linear attention."""

    def __post_init__(self) -> None:
        _check_sizes(self)
        # Lists arrive from JSON and command lines; a frozen value wants tuples.
        object.__setattr__(self, "hidden_intensities", tuple(self.hidden_intensities))
        object.__setattr__(self, "inner_intensities", tuple(self.inner_intensities))
        _check_choice("pairing", self.pairing, get_args(Pairing))
        _check_choice("weights", self.weights, get_args(Weights))
        if not self.hidden_intensities or not self.inner_intensities:
            raise InputError("hidden_intensities and inner_intensities need at least one share each")
        if self.pairing == "zip" and len(self.hidden_intensities) != len(self.inner_intensities):
            raise InputError(
                "pairing='zip' needs as many hidden_intensities as inner_intensities, got "
                f"{len(self.hidden_intensities)} and {len(self.inner_intensities)}"
            )
        for hidden, inner in self._pairs():
            kept = _kept(self.hidden_size, hidden, "a hidden intensity")
            if kept < 1 or kept % self.num_heads:
                raise InputError(
                    f"a hidden intensity must leave a positive multiple of num_heads={self.num_heads} "
                    f"dimensions, but {hidden!r} leaves {kept} of {self.hidden_size}"
                )
            if _kept(self.inner_size, inner, "an inner intensity") < 1:
                raise InputError(
                    f"an inner intensity must leave at least one dimension, but {inner!r} leaves none "
                    f"of {self.inner_size}"
                )
        sizes = [self.sizes(candidate) for candidate in range(len(self))]
        if len(set(sizes)) < len(sizes):
            repeated = next(size for size in sizes if sizes.count(size) > 1)
            raise InputError(
                f"every candidate must differ, but (hidden, inner) = {repeated} comes twice; "
                "remove the repeated intensity"
            )
        self.architecture(0, 1)  # refuses an unknown attention, key norm or number of gate layers

    def _pairs(self) -> list[tuple[float, float]]:
        if self.pairing == "zip":
            return list(zip(self.hidden_intensities, self.inner_intensities, strict=True))
        return list(itertools.product(self.hidden_intensities, self.inner_intensities))

    def __len__(self) -> int:
        """K, the number of candidate transformers."""
        return len(self._pairs())

    def sizes(self, candidate: int) -> tuple[int, int]:
        """(d_k, f_k): the hidden and inner dimensions that a candidate keeps."""
        hidden, inner = self._pairs()[candidate]
        return (
            _kept(self.hidden_size, hidden, "a hidden intensity"),
            _kept(self.inner_size, inner, "an inner intensity"),
        )

    def architecture(self, candidate: int, num_layers: int) -> Architecture:
        """The network of `num_layers` layers of a candidate (counted from 0)."""
        if not 0 <= candidate < len(self):
            raise InputError(f"candidate must lie in 0..{len(self) - 1}, got {candidate}")
        if not 1 <= num_layers <= self.num_layers:
            raise InputError(f"num_layers must lie in 1..{self.num_layers}, got {num_layers}")
        hidden_size, inner_size = self.sizes(candidate)
        return Architecture(
            hidden_size=hidden_size,
            inner_size=inner_size,
            num_layers=num_layers,
            num_heads=self.num_heads,
            attention=self.attention,
            key_norm=self.key_norm,
            gate_layers=self.gate_layers,
        )

    def architectures(self) -> list[Architecture]:
        """All K L networks that can be derived, candidate by candidate, the shallowest first.

        >>> [one.num_layers for one in CandidateSpace(64, 256, 2, 4, (0, 0.5), (0, 0.5)).architectures()]
        [1, 2, 1, 2]
        """
        depths = range(1, self.num_layers + 1)
        return [self.architecture(k, layers) for k in range(len(self)) for layers in depths]

    def candidate_of(self, architecture: Architecture) -> int:
        """The candidate that an architecture of this space is made of; `InputError` for a foreign one."""
        for candidate in range(len(self)):
            if (
                1 <= architecture.num_layers <= self.num_layers
                and self.architecture(candidate, architecture.num_layers) == architecture
            ):
                return candidate
        raise InputError(f"{architecture.architecture_id} is not an architecture of this space")

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; an unknown field raises `InputError`."""
        return _from_dict(cls, values)
