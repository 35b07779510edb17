"""
Leases: one holder, epochs that only grow, and no clock.
"""

from __future__ import annotations

from bridge.state import Lease, Store


def test_the_first_takes_it_and_the_second_sees_it(any_store: Store) -> None:
    """
    Of two that saw nobody, one gets the lease.
    """
    assert any_store.lease("gate") is None

    first = any_store.acquire("gate", "legacy:a", None)
    second = any_store.acquire("gate", "legacy:b", None)

    assert first == Lease("gate", "legacy:a", 1, 0)
    assert second is None
    assert any_store.lease("gate") == first


def test_a_holder_that_lives_is_not_taken_over(any_store: Store) -> None:
    """
    A watcher that saw an older renewal loses, whatever its clock said.
    """
    held = any_store.acquire("gate", "a", None)
    assert held is not None
    renewed = any_store.renew(held)

    assert any_store.acquire("gate", "b", held) is None
    assert renewed == Lease("gate", "a", 1, 1)


def test_a_silent_holder_is_taken_over_in_a_new_epoch(any_store: Store) -> None:
    """
    The old holder finds out at its next renewal, and can't release what isn't its own.
    """
    held = any_store.acquire("gate", "a", None)
    assert held is not None

    taken = any_store.acquire("gate", "b", held)

    assert taken == Lease("gate", "b", 2, 0)
    assert any_store.renew(held) is None
    assert any_store.release(held) is False


def test_a_release_keeps_the_epoch(any_store: Store) -> None:
    """
    No epoch is ever used twice.
    """
    held = any_store.acquire("gate", "a", None)
    assert held is not None
    assert any_store.release(held) is True
    free = any_store.lease("gate")

    assert free == Lease("gate", None, 1, 0)
    assert any_store.acquire("gate", "b", free) == Lease("gate", "b", 2, 0)


def test_the_new_epoch_lies_above_the_fence(any_store: Store) -> None:
    """
    A state that was lost and made anew doesn't begin below the application's fence.
    """
    first = any_store.acquire("consumer", "a", None, floor=41)
    assert first is not None
    second = any_store.acquire("consumer", "b", first, floor=99)

    assert (first.epoch, second and second.epoch) == (42, 100)


def test_all_leases_are_read_at_once(any_store: Store) -> None:
    """
    For who runs which loop.
    """
    gate = any_store.acquire("gate", "a", None)
    consumer = any_store.acquire("consumer", "legacy:b", None)

    assert any_store.leases() == {"gate": gate, "consumer": consumer}


def test_all_leases_of_a_process_are_renewed_at_once(any_store: Store) -> None:
    """
    Each that is still its own, and none that went to another.
    """
    held = [any_store.acquire(str(number), "legacy:a", None) for number in range(3)]
    assert all(held)
    any_store.acquire("0", "legacy:b", held[0])

    renewed = any_store.renew_all([each for each in held if each is not None])

    assert [None, 1, 1] == [each and each.renewals for each in renewed]
