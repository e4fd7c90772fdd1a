"""Counts that add up: reports that repeat, gateways that die, states that are read back."""

from __future__ import annotations

import json

import pytest

from fanout.core import ledger
from fanout.core.errors import RecordError
from fanout.core.ledger import NOTHING, Edge, Ledger, Stay
from fanout.core.limits import EDGE_REASONS_MAX
from fanout.core.policy import DropReason
from fanout.core.profiles import LIVE
from fanout.core.records import RoomReport, encode_body
from fanout.core.room_log import NONE
from fanout.core.room_state import RoomState
from tests.support.rooms import report


def a_stay() -> Stay:
    return Stay(1, 1, NONE)


def test_a_report_that_comes_twice_changes_nothing() -> None:
    stay = a_stay()
    said = report(subscriptions=3, offered=[0, 3, 6, 0], written=[0, 3, 5, 0], pending=[0, 0, 1, 0])
    assert ledger.take_report(stay, said)
    edge = stay.edge
    assert not ledger.take_report(stay, said)
    assert stay.edge == edge == Edge((0, 3, 6, 0), (0, 3, 5, 0), {}, (0, 0, 1, 0))


@pytest.mark.parametrize(
    "said",
    [
        report(head=5),
        report(subscriptions=1),
        report(taken=[0, 0, 1, 0]),
        report(pending=[0, 0, 0, 1], offered=[0, 0, 0, 1]),
        report(dropped={"closed": [0, 0, 0, 0]}),
    ],
)
def test_a_report_that_says_something_new_is_told_apart(said: RoomReport) -> None:
    assert ledger.take_report(a_stay(), said)


def test_what_was_kept_and_had_not_come_by_the_last_report_was_sent_since() -> None:
    stay = Stay(1, 1, (1, 1, 1, 1))
    ledger.take_report(stay, report(subscriptions=2, taken=[0, 0, 1, 0]))
    assert ledger.sent_since(stay, (1, 2, 4, 1)) == (0, 1, 2, 0)
    stay.gone = (9, 9, 9, 9)
    assert ledger.sent_since(stay, (100, 100, 100, 100)) == (9, 9, 9, 9)


def test_folds_are_sent_to_the_slots_as_kept_messages_are() -> None:
    room = RoomState.fresh("app/live:a", LIVE, 0)
    room.ledger = Ledger(kept=[0, 1, 2, 0], merged=[0, 0, 0, 90], folds=[0, 0, 0, 1])
    room.attach(1, 1, 1)
    room.ledger.folds[3] += 2
    room.ledger.kept[2] += 1
    room.announce(1, 1, report(subscriptions=10, taken=[0, 0, 1, 1]))
    lost = ledger.report(room.encode(), leased={})["edge"]
    assert lost["unreported"] == lost["offered"] == {"system": 0, "high": 0, "normal": 0, "low": 10}


def test_what_came_from_the_history_only_makes_nothing_negative() -> None:
    stay = a_stay()
    ledger.take_report(stay, report(taken=[0, 0, 5, 0]))
    assert ledger.sent_since(stay, (0, 1, 2, 0)) == (0, 1, 0, 0)


def test_a_dead_gateways_deliveries_are_unreported_up_to_its_last_subscriptions() -> None:
    stay = a_stay()
    ledger.take_report(
        stay, report(subscriptions=10, offered=[0, 0, 10, 0], written=[0, 0, 7, 0], pending=[0, 0, 3, 0])
    )
    left = ledger.ended(stay, (0, 0, 2, 0))
    assert left.offered == (0, 0, 30, 0)
    assert left.written == (0, 0, 7, 0)
    assert left.pending == NONE
    assert left.unreported == (0, 0, 23, 0)


def test_sums_keep_every_reason() -> None:
    one = Edge(dropped={"closed": (0, 0, 1, 0)})
    other = Edge(dropped={"closed": (0, 0, 2, 0), "skipped": (0, 0, 0, 4)})
    assert ledger.add(one, other).dropped == {"closed": (0, 0, 3, 0), "skipped": (0, 0, 0, 4)}
    assert one.dropped == {"closed": (0, 0, 1, 0)}


def test_reasons_beyond_the_bound_are_counted_together() -> None:
    stay = a_stay()
    dropped = {f"reason-{number}": [0, 0, 1, 0] for number in range(EDGE_REASONS_MAX)} | {"other": [0, 0, 5, 0]}
    ledger.take_report(stay, report(dropped=dropped))
    assert len(stay.edge.dropped) == EDGE_REASONS_MAX
    assert stay.edge.dropped["other"] == (0, 0, 6, 0)
    assert sum(counts[2] for counts in stay.edge.dropped.values()) == EDGE_REASONS_MAX + 5


@pytest.mark.parametrize(
    "said",
    [
        report(offered=[0, 0, 0]),
        report(written=[0, 0, 0, 0, 0]),
        report(pending=[0, 0, -1, 0]),
        report(taken=[0, 0, 0]),
        report(dropped={"closed": []}),
        report(subscriptions=-1),
    ],
)
def test_counts_of_another_shape_are_refused(said: RoomReport) -> None:
    with pytest.raises(RecordError, match="bad_report"):
        ledger.check_report(said)


def test_a_good_report_passes() -> None:
    ledger.check_report(report(subscriptions=1, dropped={"closed": [0, 0, 0, 1]}))


def test_a_room_nothing_was_counted_of_has_an_empty_ledger_that_adds_up() -> None:
    empty = ledger.report(b"")
    assert empty["accepted"] == {"system": 0, "high": 0, "normal": 0, "low": 0}
    assert empty["dropped"] == {} and empty["edge"]["dropped"] == {}
    assert ledger.differences(empty) == []


def test_the_ledger_of_a_stored_state_is_json_and_adds_up() -> None:
    room = RoomState.fresh("app/live:a", LIVE, 0)
    room.ledger = Ledger([1, 2, 5, 0], [1, 2, 2, 0], [0, 0, 1, 0], folds=[0, 0, 1, 0])
    room.drop(DropReason.WINDOW_FULL, 2)
    room.drop(DropReason.WINDOW_FULL, 2)
    room.attach(1, 1, 1)
    room.announce(1, 1, report(subscriptions=1, offered=[0, 1, 1, 0], written=[0, 1, 0, 0], pending=[0, 0, 1, 0]))
    room.attach(2, 1, 1)
    room.announce(2, 1, report(subscriptions=1, offered=[0, 0, 1, 0], dropped={"skipped": [0, 0, 1, 0]}))
    found = json.loads(json.dumps(ledger.report(room.encode())))
    assert found["accepted"]["normal"] == 5
    assert found["merged"]["normal"] == found["folds"]["normal"] == 1
    assert found["dropped"] == {"policy": {"window_full": {"system": 0, "high": 0, "normal": 2, "low": 0}}}
    assert found["edge"]["offered"]["normal"] == 2
    assert found["edge"]["dropped"] == {"skipped": {"system": 0, "high": 0, "normal": 1, "low": 0}}
    assert ledger.differences(found) == []


def test_a_lost_gateway_shows_as_unreported_before_its_stay_has_ended() -> None:
    room = RoomState.fresh("app/live:a", LIVE, 0)
    room.attach(1, 1, 1)
    room.announce(1, 1, report(subscriptions=4))
    room.ledger.accepted[2] = room.ledger.kept[2] = 3
    room.expire(1, 1)
    found = ledger.report(room.encode())
    assert found["edge"]["unreported"]["normal"] == found["edge"]["offered"]["normal"] == 12
    assert ledger.differences(found) == []


def test_a_gateway_without_its_lease_shows_as_unreported_though_nobody_has_touched_the_room_since() -> None:
    room = RoomState.fresh("app/live:a", LIVE, 0)
    for slot in (1, 2):
        room.attach(slot, 100, 1)
        room.announce(
            slot, 100, report(subscriptions=4, offered=[0, 0, 4, 0], written=[0, 0, 4, 0], taken=[0, 0, 1, 0])
        )
    room.ledger.accepted[2] = room.ledger.kept[2] = 3
    assert ledger.report(room.encode(), {1: 100, 2: 100})["edge"]["unreported"]["normal"] == 0
    for leased in ({2: 100}, {1: 101, 2: 100}):
        found = ledger.report(room.encode(), leased)
        assert found["edge"]["unreported"]["normal"] == 8
        assert found["edge"]["offered"]["normal"] == 16
        assert ledger.differences(found) == []


def test_counts_that_do_not_add_up_are_named() -> None:
    room = RoomState.fresh("app/live:a", LIVE, 0)
    room.ledger = Ledger([0, 0, 2, 0], [0, 0, 1, 0], edge=Edge(offered=(0, 1, 0, 0)))
    assert ledger.differences(ledger.report(room.encode())) == [
        "high: offered 1, written + dropped + pending + unreported 0",
        "normal: accepted 2, kept + merged + dropped 1",
    ]


def test_unreadable_state_is_an_error() -> None:
    with pytest.raises(RecordError, match="undecodable"):
        ledger.report(b"\x93\x01")


def test_an_edge_without_counts_is_one_shared_object() -> None:
    assert a_stay().edge is NOTHING


def test_who_listens_is_what_living_gateways_last_said() -> None:
    room = RoomState.fresh("app/live:a", LIVE, 0)
    for slot, subscriptions in ((1, 10), (2, 20), (3, 30)):
        said = report(subscriptions=subscriptions)
        said.users = subscriptions - 1
        room.announce(slot, 1, said)
    room.expire(3, 1)
    assert ledger.listening(room.encode(), without_slot=-1) == (30, 28)
    assert ledger.listening(room.encode(), without_slot=2) == (10, 9)
    assert ledger.listening(b"", without_slot=2) == (0, 0)


def test_equal_counts_are_equal_bytes_whatever_was_dropped_first() -> None:
    one, other = Ledger(), Ledger()
    reasons = list(DropReason)
    for reason in reasons:
        ledger.drop(one, reason, 2)
    for reason in reversed(reasons):
        ledger.drop(other, reason, 2)
    assert encode_body(one) == encode_body(other)
