"""The searches by their names, and on what terms each of them runs over the same data."""

from dataclasses import replace
from typing import Literal, get_args

from easrec.errors import InputError
from easrec.models.architecture import CandidateSpace
from easrec.nas.alternating import Method, without_unused
from easrec.nas.darts import Darts
from easrec.nas.proxylessnas import ProxylessNas
from easrec.nas.recnas import RecNas
from easrec.nas.search_config import SearchConfig

OtherSearch = Literal["darts", "proxylessnas", "recnas"]
"""Searches beside EASRec's own, which is `easrec.nas.search.search`."""

_METHODS: dict[str, Method] = {"darts": Darts(), "proxylessnas": ProxylessNas(), "recnas": RecNas()}


def method_of(name: str) -> Method:
    """A search with the settings of its paper, for `easrec.nas.alternating.alternate`.

    Raises:
        InputError: there is none of this name.
    """
    if name not in _METHODS:
        raise InputError(f"method must be one of {', '.join(get_args(OtherSearch))}, got {name!r}")
    return _METHODS[name]


def method_settings(method: Method, config: SearchConfig) -> SearchConfig:
    """A method's own settings, as its paper has them, with what it uses of EASRec's: seed, sizes, budget."""
    return method.settings(without_unused(method, config))


def method_space(space: CandidateSpace) -> CandidateSpace:
    """The candidates of a search beside EASRec's: the same sizes with softmax attention and without gates."""
    return replace(space, attention="softmax", gate_layers=0)
