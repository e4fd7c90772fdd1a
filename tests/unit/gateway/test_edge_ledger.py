"""Fates of deliveries, counted."""

from __future__ import annotations

from fanout.gateway.edge_ledger import DropReason, EdgeLedger


def test_what_is_offered_is_pending_until_it_is_written_or_dropped() -> None:
    ledger = EdgeLedger()
    ledger.offer((0, 2, 6, 4))
    ledger.write_many((0, 1, 2, 0), 2)
    ledger.drop(DropReason.SKIPPED, (0, 0, 1, 3))
    assert ledger.pending == (0, 0, 1, 1)
    assert ledger.written == (0, 2, 4, 0)
    assert ledger.dropped == {"skipped": (0, 0, 1, 3)}
    assert ledger.balance == (0, 0, 0, 0)


def test_a_replay_is_offered_and_written_at_once() -> None:
    ledger = EdgeLedger()
    ledger.replay((0, 0, 5, 0))
    assert (ledger.offered, ledger.written, ledger.pending) == ((0, 0, 5, 0), (0, 0, 5, 0), (0, 0, 0, 0))


def test_dropping_nothing_leaves_no_reason_behind() -> None:
    ledger = EdgeLedger()
    ledger.drop(DropReason.CLOSED, (0, 0, 0, 0))
    ledger.write_many((1, 1, 1, 1), 0)
    assert ledger.dropped == {}


def test_a_new_instance_begins_with_what_is_pending() -> None:
    ledger = EdgeLedger()
    ledger.offer((0, 0, 9, 0))
    ledger.write((0, 0, 4, 0))
    ledger.drop(DropReason.CLOSED, (0, 0, 2, 0))
    ledger.restart()
    assert (ledger.offered, ledger.written, ledger.dropped, ledger.pending) == (
        (0, 0, 3, 0),
        (0, 0, 0, 0),
        {},
        (0, 0, 3, 0),
    )
    assert ledger.balance == (0, 0, 0, 0)
