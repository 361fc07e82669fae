"""The searches by their names, so that one program can run any of them over the same data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.models.architecture import CandidateSpace
from easrec.nas.alternating import Method, alternate
from easrec.nas.darts import Darts, darts_settings
from easrec.nas.proxylessnas import ProxylessNas, proxylessnas_settings
from easrec.nas.recnas import RecNas, recnas_settings
from easrec.nas.search import SearchConfig, SearchResult, WarmUp, search
from easrec.training import OnEpoch

SearchMethod = Literal["easrec", "darts", "proxylessnas", "recnas"]

_METHODS: dict[str, Callable[[], Method]] = {"darts": Darts, "proxylessnas": ProxylessNas, "recnas": RecNas}
_SETTINGS: dict[str, Callable[[SearchConfig], SearchConfig]] = {
    "easrec": lambda config: config,
    "darts": darts_settings,
    "proxylessnas": proxylessnas_settings,
    "recnas": recnas_settings,
}


def _check(method: str) -> None:
    if method not in get_args(SearchMethod):
        raise InputError(f"method must be one of {', '.join(get_args(SearchMethod))}, got {method!r}")


def method_settings(method: SearchMethod, config: SearchConfig) -> SearchConfig:
    """A method's own settings, as its paper has them, with what is left of `config`: seed, sizes, budget."""
    _check(method)
    return _SETTINGS[method](config)


def method_space(method: SearchMethod, space: CandidateSpace) -> CandidateSpace:
    """A method's candidates: EASRec's own, or the same sizes with softmax attention and without gates."""
    _check(method)
    return space if method == "easrec" else replace(space, attention="softmax", gate_layers=0)


def first_weights(method: SearchMethod) -> Literal["warm", "fresh"]:
    """Where the derived network's first weights come from: the warm-up's supernet, or nowhere."""
    _check(method)
    return "warm" if method == "easrec" else "fresh"


def search_by(
    method: SearchMethod,
    data: SplitData,
    space: CandidateSpace,
    config: SearchConfig,
    *,
    warm: WarmUp | None = None,
    device: str = "cpu",
    checkpoint_dir: Path | str | None = None,
    on_epoch: OnEpoch | None = None,
) -> SearchResult:
    """Search by a method; other arguments, result and errors as of `easrec.nas.search.search`.

    Raises:
        InputError: there is no such method, or it has no use for one of the settings.
    """
    _check(method)
    if method == "easrec":
        return search(
            data, space, config, warm=warm, device=device, checkpoint_dir=checkpoint_dir, on_epoch=on_epoch
        )
    return alternate(
        _METHODS[method](),
        data,
        space,
        config,
        warm=warm,
        device=device,
        checkpoint_dir=checkpoint_dir,
        on_epoch=on_epoch,
    )
