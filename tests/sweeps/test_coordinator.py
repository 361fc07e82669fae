"""Leases: one holder at a time, free when not renewed, taken over by the next attempt of the same owner."""

import pytest

from sweeps import coordinator as coordinator_module
from sweeps.coordinator import LEASE_S, Coordinator, Lease
from sweeps.store import EntryBusyError


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_lease_is_one_owners_until_it_is_released() -> None:
    coordinator = Coordinator()
    assert coordinator.acquire("retrain/a", "1", "trial 1")
    assert not coordinator.acquire("retrain/a", "2", "trial 2")
    assert coordinator.acquire("retrain/b", "2", "trial 2")
    coordinator.release("retrain/a", "2")  # not theirs
    assert not coordinator.acquire("retrain/a", "2", "trial 2")
    coordinator.release("retrain/a", "1")
    assert coordinator.acquire("retrain/a", "2", "trial 2")


def test_a_lease_that_is_not_renewed_is_free() -> None:
    clock = Clock()
    coordinator = Coordinator(clock)
    coordinator.acquire("retrain/a", "1", "trial 1")
    for _ in range(5):
        clock.now_s += LEASE_S * 0.9
        assert coordinator.renew("retrain/a", "1", "trial 1")
    assert set(coordinator.state().running) == {"retrain/a"}
    clock.now_s += LEASE_S
    assert not coordinator.state().running
    assert coordinator.acquire("retrain/a", "2", "trial 2")
    # Whoever was only slow learns that it is not theirs any more.
    assert not coordinator.renew("retrain/a", "1", "trial 1")


def test_one_that_ran_out_and_that_nobody_took_is_kept_when_renewed() -> None:
    clock = Clock()
    coordinator = Coordinator(clock)
    coordinator.acquire("retrain/a", "1", "trial 1")
    clock.now_s += 2 * LEASE_S
    assert coordinator.renew("retrain/a", "1", "trial 1")
    assert not coordinator.acquire("retrain/a", "2", "trial 2")


def test_the_next_attempt_of_an_owner_takes_over_at_once_and_the_earlier_one_is_told() -> None:
    coordinator = Coordinator()
    coordinator.acquire("retrain/a", "first", "trial 1")
    assert coordinator.acquire("retrain/a", "second", "trial 1")
    assert not coordinator.renew("retrain/a", "first", "trial 1")
    coordinator.report("retrain/a", "first", {"epoch": 9})
    coordinator.release("retrain/a", "first")
    assert coordinator.state().running["retrain/a"].report is None
    coordinator.report("retrain/a", "second", {"epoch": 3})
    assert coordinator.state().running["retrain/a"].report == {"epoch": 3}


def test_what_is_finished_is_known_until_it_is_forgotten() -> None:
    coordinator = Coordinator()
    coordinator.finished("warm/a")
    coordinator.finished("warm/b")
    coordinator.forget("warm/a")
    assert coordinator.state().finished == {"warm/b"}


def test_a_thread_renews_what_is_held_and_tells_of_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_module, "_RENEW_EVERY_S", 0.01)
    clock = Clock()
    coordinator = Coordinator(clock)
    lease = Lease(coordinator, "retrain/a", "trial 1")
    with lease.held("defer"):
        with pytest.raises(EntryBusyError), Lease(coordinator, "retrain/a", "trial 2").held("defer"):
            pass
        for _ in range(3):
            clock.now_s += LEASE_S * 0.9
            assert lease_is_renewed(coordinator, clock)
        assert not lease.lost
        coordinator.acquire("retrain/a", "another token", "trial 1")
        lease._lost.wait(10)
        assert lease.lost
    # Given back it would be free; it is the other's now.
    assert set(coordinator.state().running) == {"retrain/a"}


def lease_is_renewed(coordinator: Coordinator, clock: Clock) -> bool:
    deadline = 1000
    while deadline and coordinator._leases["retrain/a"].until_s < clock.now_s + LEASE_S:
        deadline -= 1
        coordinator_module.time.sleep(0.01)
    return deadline > 0
