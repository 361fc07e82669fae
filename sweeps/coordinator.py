"""Who computes which entry of a sweep, how far they are, and what has been finished.

An object store has no locks. Here they are leases: whoever holds one renews it, and one that is not renewed
is free after a while. The next attempt of a computation takes over from a dead one at once, by its owner's
name. A holder that was taken for dead, and is not, learns so when it renews. Leases only save work: two that
compute the same entry write equal results.

In a sweep one coordinator is an actor of Ray's; a single process has one of its own.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from sweeps.store import Activity, EntryBusyError, OnBusy, now_ms

LEASE_S = 30.0
"""Seconds after which a lease that is not renewed is free."""

_RENEW_EVERY_S = LEASE_S / 6
_ASK_EVERY_S = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """What a coordinator knows."""

    coordinator: str
    """Which coordinator; one that Ray had to start anew is another, and has forgotten what was finished."""
    finished: frozenset[str]
    """Places of entries that were finished, or seen to be."""
    running: dict[str, Activity]
    """Place -> the attempt that computes it."""


@dataclass(slots=True)
class _Lease:
    token: str
    owner: str
    until_s: float
    activity: Activity


class Coordination(Protocol):
    """What can be asked of a coordinator, wherever it runs; see `Coordinator`."""

    def acquire(self, place: str, token: str, owner: str) -> bool:
        """See `Coordinator.acquire`."""

    def renew(self, place: str, token: str, owner: str) -> bool:
        """See `Coordinator.renew`."""

    def release(self, place: str, token: str) -> None:
        """See `Coordinator.release`."""

    def report(self, place: str, token: str, report: dict[str, Any]) -> None:
        """See `Coordinator.report`."""

    def finished(self, place: str) -> None:
        """See `Coordinator.finished`."""

    def forget(self, place: str) -> None:
        """See `Coordinator.forget`."""

    def state(self) -> State:
        """See `Coordinator.state`."""


class Coordinator:
    """Leases, progress and finished entries of one sweep; any thread may call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Know nothing yet.

        Args:
            clock: tells seconds; never goes back.
        """
        self._clock = clock
        self._id = uuid.uuid4().hex
        self._leases: dict[str, _Lease] = {}
        self._finished: set[str] = set()
        self._lock = threading.RLock()

    def acquire(self, place: str, token: str, owner: str) -> bool:
        """Lease a place, if it is free or held by an earlier attempt of the same owner.

        Args:
            place: of the entry.
            token: of this attempt alone.
            owner: names the computation that this is an attempt of.
        """
        with self._lock:
            held = self._held(place)
            if held is not None and held.owner != owner:
                return False
            self._leases[place] = _Lease(token, owner, self._clock() + LEASE_S, Activity(now_ms(), None))
            return True

    def renew(self, place: str, token: str, owner: str) -> bool:
        """Keep a lease; False when another attempt has it. One that ran out meanwhile is taken again."""
        with self._lock:
            held = self._held(place)
            if held is None:
                return self.acquire(place, token, owner)
            if held.token != token:
                return False
            held.until_s = self._clock() + LEASE_S
            return True

    def release(self, place: str, token: str) -> None:
        """Give a lease back, unless another attempt has it."""
        with self._lock:
            held = self._leases.get(place)
            if held is not None and held.token == token:
                del self._leases[place]

    def report(self, place: str, token: str, report: dict[str, Any]) -> None:
        """Tell those who watch of an epoch whose checkpoint is kept."""
        with self._lock:
            held = self._leases.get(place)
            if held is not None and held.token == token:
                held.activity = Activity(held.activity.start_ms, report)

    def finished(self, place: str) -> None:
        """Tell that a place has its result."""
        with self._lock:
            self._finished.add(place)

    def forget(self, place: str) -> None:
        """Tell that a place has no result any more."""
        with self._lock:
            self._finished.discard(place)

    def state(self) -> State:
        """What is known now."""
        with self._lock:
            leases = {place: self._held(place) for place in self._leases}
            running = {place: lease.activity for place, lease in leases.items() if lease is not None}
            return State(self._id, frozenset(self._finished), running)

    def _held(self, place: str) -> _Lease | None:
        lease = self._leases.get(place)
        return None if lease is None or lease.until_s <= self._clock() else lease


class Lease:
    """A place that this process holds, for as long as it says so."""

    def __init__(self, coordinator: Coordination, place: str, owner: str) -> None:
        self._coordinator = coordinator
        self._place = place
        self._token = uuid.uuid4().hex
        self._owner = owner or self._token
        self._stop = threading.Event()
        self._lost = threading.Event()

    @property
    def lost(self) -> bool:
        """Whether another attempt has taken the place."""
        return self._lost.is_set()

    def report(self, report: dict[str, Any]) -> None:
        """See `Coordinator.report`."""
        self._coordinator.report(self._place, self._token, report)

    @contextmanager
    def held(self, on_busy: OnBusy) -> Iterator[None]:
        """Hold the place for the length of a `with`.

        Raises:
            EntryBusyError: with `on_busy="defer"`, when another computation has it.
        """
        while not self._coordinator.acquire(self._place, self._token, self._owner):
            if on_busy == "defer":
                raise EntryBusyError(f"{self._place} is being computed")
            time.sleep(_ASK_EVERY_S)
        thread = threading.Thread(target=self._renew, name=f"lease of {self._place}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            self._coordinator.release(self._place, self._token)

    def _renew(self) -> None:
        while not self._stop.wait(_RENEW_EVERY_S):
            try:
                kept = self._coordinator.renew(self._place, self._token, self._owner)
            except Exception as error:  # of Ray, when the coordinator cannot be reached for a while
                logger.warning("the lease of %s could not be renewed: %s", self._place, error)
                continue
            if not kept:
                self._lost.set()
                return
