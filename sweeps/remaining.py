"""Training what is not known yet of a fixed list of trials, with a line for each that ends."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from sweeps.cluster import Cluster
from sweeps.reporter import duration_text
from sweeps.store import OnBusy, Store
from sweeps.trainable import SharedData
from sweeps.tuner import train_trials


class _Member(Protocol):
    @property
    def trial_id(self) -> str: ...


M = TypeVar("M", bound=_Member)


def train_remaining(
    members: Sequence[M],
    shared: SharedData,
    store: Store,
    cluster: Cluster,
    *,
    program: Callable[..., None],
    label: Callable[[M], str],
    outcome: Callable[[M], str | None],
    failed: Callable[[M], bool],
    say: Callable[[str], None],
    on_end: Callable[[M], None] = lambda member: None,
    **more: Any,
) -> dict[str, str]:
    """Run those that are neither known nor failed; those that deferred to another one come again at the end.

    Args:
        members: all trials.
        shared: what they train on.
        store: where their results go.
        cluster: what each may use.
        program: as of `sweeps.tuner.train_trials`.
        label: how people call one.
        outcome: what people are told of one that is known; None while it is not.
        failed: whether one cannot be trained.
        say: prints a line, with the time.
        on_end: called with each that ends, however it did.
        more: as of `sweeps.tuner.train_trials`.

    Returns:
        As of `sweeps.tuner.train_trials`.
    """
    crashed: dict[str, str] = {}
    by_id = {member.trial_id: member for member in members}
    passes: tuple[OnBusy, ...] = ("defer", "wait")
    for on_busy in passes:
        store.refresh()
        missing = [
            member
            for member in members
            if member.trial_id not in crashed and not failed(member) and outcome(member) is None
        ]
        known = len(members) - len(missing)
        if on_busy == "defer" and known:
            say(f"{known} of {len(members)} are known already; they are not repeated")
        if not missing:
            continue
        pass_begun_s, ended = time.monotonic(), itertools.count(1)

        def end(
            trial_id: str, pass_begun_s: float = pass_begun_s, ended: Any = ended, known: int = known
        ) -> None:
            on_end(by_id[trial_id])
            store.refresh()
            number = next(ended)
            per_s = number / (time.monotonic() - pass_begun_s)
            say(
                f"{label(by_id[trial_id])}: "
                f"{outcome(by_id[trial_id]) or 'not finished'}; {known + number} of {len(members)}; "
                f"{60 * per_s:.2g} a minute; "
                f"about {duration_text((len(members) - known - number) / per_s)} left"
            )

        crashed |= train_trials(
            missing,
            shared,
            store,
            cluster,
            on_busy=on_busy,
            on_end=end,
            program=program,
            label=label,
            **more,
        )
    return crashed
