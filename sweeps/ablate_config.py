"""What a user asks of an ablation. Imports nothing slow: the command line's help is made from it."""

from dataclasses import dataclass
from typing import Literal, get_args

from easrec.errors import InputError
from sweeps.compare_config import ComparedConfig

Group = Literal["gates", "attention", "key-norm", "depth-cost", "weights", "search-weights", "warmup"]


@dataclass(frozen=True, kw_only=True)
class AblateConfig(ComparedConfig):
    """Change one setting of EASRec at a time: the paper's Table V, and decisions that the paper leaves open.

    gates: data-aware gates of 2, 1 and 0 layers (Table V). attention: causal against bidirectional.
    key-norm: of a feature over positions against that of a position. depth-cost: how the depth enters the
    resource term. weights: independent candidates against nested slices. search-weights: weights that learn
    in the search against those of the warm-up. warmup: of all candidates mixed, of three networks a step, and
    none, the same epochs in sum.
    """

    groups: tuple[Group, ...] = ()
    """Which settings are changed. Left out: all of them."""
    beside_paper: bool = False
    """Also print the paper's Table V, which is of ML-1M, beside the gates."""

    def check(self) -> None:
        """Refuse options that cannot be meant; `InputError` names the option and its value."""
        ComparedConfig.check(self)
        for name in self.groups:
            if name not in get_args(Group):
                raise InputError(f"--groups must be some of {', '.join(get_args(Group))}, got {name}")
            if self.groups.count(name) > 1:
                raise InputError(f"--groups names {name} twice")
        if self.beside_paper and self.dataset != "ml-1m":
            raise InputError(
                f"--beside-paper: the paper's Table V is of ml-1m, and the data are {self.data_name}; give "
                "--dataset ml-1m"
            )
        if self.beside_paper and "gates" not in self.chosen:
            raise InputError("--beside-paper belongs to --groups gates, which is not among the groups")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The groups, in the order of the tables."""
        return tuple(name for name in get_args(Group) if name in (self.groups or get_args(Group)))
