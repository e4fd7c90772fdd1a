"""A room in memory and as it is stored: routes that come, go and are lost, ids that repeat, states read back."""

from __future__ import annotations

import msgspec
import pytest

from fanout.core.errors import RecordError
from fanout.core.ledger import NOTHING, Stay
from fanout.core.limits import CHUNK_SLOTS, IDEMPOTENCY_S, KEYED_IDS_MAX, STAY_REMEMBERED_MS
from fanout.core.policy import DropReason
from fanout.core.profiles import GROUP, LIVE, Policy
from fanout.core.records import Attached
from fanout.core.room_log import NONE
from fanout.core.room_state import (
    Keyed,
    RoomState,
    StoredState,
    Values,
    shared_targets,
)
from tests.support.rooms import report


@pytest.fixture
def room() -> RoomState:
    return RoomState.fresh("app/live:a", LIVE, 41)


def again(room: RoomState) -> RoomState:
    """Return the room as a new owner loads it."""
    loaded = RoomState(
        room.key, room.profile, head=room.head, last=room.last, floor=room.floor, n=room.n, applied=room.applied
    )
    loaded.restore(room.encode(), ())
    return loaded


def test_a_room_without_a_past_begins_at_the_log_offset_of_its_first_record(room: RoomState) -> None:
    assert (room.head, room.last, room.floor, room.n, room.applied) == (41, 41, 41, 0, 41)
    assert room.attached(7) == Attached(7, 41, 41, 41, 0)
    assert room.targets == ()


def test_slots_in_force_are_the_profiles_until_a_budget_changes_them(room: RoomState) -> None:
    assert room.shared_slots == LIVE.policy.shared_slots_max
    room.put_in_force(Values(3))
    assert room.shared_slots == 3


def test_a_degraded_room_sheds_the_types_of_its_policy_and_another_one_none(room: RoomState) -> None:
    assert (room.degraded, room.off_types, room.merged_types) == (False, frozenset(), frozenset())
    room.put_in_force(Values(20, 50_000, True))
    assert (room.degraded, room.off_types) == (True, frozenset({"typing"}))
    assert room.merged_types == frozenset({"join", "leave"})
    room.use(Policy(degrade_off_types=frozenset({"wave"})))
    assert room.off_types == {"wave"}
    room.use(Policy(degrade_members=0))
    assert (room.degraded, room.off_types, room.merged_types) == (False, frozenset(), frozenset())


def test_a_room_that_is_not_thinned_is_never_degraded() -> None:
    room = RoomState.fresh("app/group:g", GROUP, 0)
    room.put_in_force(Values(20, 10**6, True))
    assert not room.degraded and not room.off_types


def test_stored_state_comes_back_as_it_was(room: RoomState) -> None:
    room.attach(5, 100, 1)
    room.announce(5, 100, report(subscriptions=2, offered=[0, 0, 2, 0], written=[0, 0, 2, 0]))
    room.attach(6, 200, 1)
    room.drop(DropReason.SENDER_CAP, 2)
    room.ledger.accepted[2] = 1
    room.thinning.clock_ms, room.thinning.senders = 17, {"ann": 1}
    room.put_in_force(Values(8, 9_000, True))
    loaded = again(room)
    assert loaded.encode() == room.encode()
    assert loaded.targets == room.targets == ((5, 100), (6, 200))
    assert loaded.values == Values(8, 9_000, True)
    assert loaded.degraded
    assert loaded.shared_slots == 8
    assert not loaded.is_changed
    assert loaded.keyed is None


def test_empty_places_share_one_object_after_a_load(room: RoomState) -> None:
    room.attach(5, 100, 1)
    room.ledger.kept[2] = 3
    room.attach(6, 100, 1)
    room.announce(6, 100, report(offered=[0, 0, 1, 0], written=[0, 0, 1, 0]))
    stays = again(room).stays
    assert stays[5].edge is NOTHING
    assert stays[5].kept_before is NONE
    assert stays[5].taken is NONE
    assert stays[6].kept_before == (0, 0, 3, 0)
    assert stays[6].edge.offered == (0, 0, 1, 0)


def test_a_room_whose_state_was_never_stored_starts_empty(room: RoomState) -> None:
    room.restore(b"", [(1, 2, 3)])
    assert room.stays == {}
    assert room.keyed is not None and len(room.keyed) == 1


def test_stored_state_of_a_newer_version_is_read_as_far_as_it_is_known(room: RoomState) -> None:
    room.attach(5, 100, 1)
    places = [*msgspec.msgpack.decode(room.encode(), type=list[msgspec.Raw]), msgspec.Raw(b"\xa3new")]
    room.restore(msgspec.msgpack.encode(places), ())
    assert room.targets == ((5, 100),)


def test_stored_state_of_an_older_version_is_filled_with_defaults(room: RoomState) -> None:
    room.ledger.accepted[1] = 4
    first = msgspec.msgpack.decode(room.encode(), type=list[msgspec.Raw])[:1]
    room.restore(msgspec.msgpack.encode(first), ())
    assert room.ledger.accepted == [0, 4, 0, 0]
    assert room.values == Values()


def test_unreadable_state_is_an_error(room: RoomState) -> None:
    with pytest.raises(RecordError, match="undecodable"):
        room.restore(b"\xc1", ())


def test_the_stored_form_has_fixed_places(room: RoomState) -> None:
    assert msgspec.msgpack.decode(room.encode(), type=StoredState) == StoredState(
        room.ledger, {}, room.thinning, room.values, [], room.spans
    )
    assert len(msgspec.msgpack.decode(room.encode())) == 6


def test_the_largest_state_is_bounded(room: RoomState) -> None:
    huge = 1 << 50
    for slot in range(CHUNK_SLOTS):
        room.attach(slot, huge, huge)
        counts = [huge] * 4
        dropped = {f"reason-{number}": counts for number in range(16)}
        room.announce(slot, huge, report(instance=huge, head=huge, subscriptions=huge, offered=counts, dropped=dropped))
    assert len(room.encode()) < 320_000


def test_equal_targets_of_rooms_are_one_object(room: RoomState) -> None:
    other = RoomState.fresh("app/live:b", LIVE, 0)
    for slot in (3, 1):
        room.attach(slot, 7, 1)
    for slot in (1, 3):
        other.attach(slot, 7, 2)
    assert room.targets is other.targets


def test_shared_targets_are_bounded() -> None:
    for number in range(5_000):
        shared_targets(((number, 1),))
    assert shared_targets(((0, 1),)) == ((0, 1),)


def test_attaching_again_changes_nothing(room: RoomState) -> None:
    assert room.attach(5, 100, 1)
    targets, state = room.targets, room.encode()
    assert room.attach(5, 100, 1)
    assert room.targets is targets
    assert room.encode() == state


def test_an_older_generation_cannot_take_a_slot_back(room: RoomState) -> None:
    room.attach(5, 100, 1)
    assert not room.attach(5, 99, 9)
    assert not room.announce(5, 99, report(instance=9))
    assert room.targets == ((5, 100),)


def test_a_newer_generation_replaces_the_route_and_accounts_what_the_old_one_left(room: RoomState) -> None:
    room.attach(5, 100, 1)
    room.announce(5, 100, report(subscriptions=3, offered=[0, 0, 3, 0], pending=[0, 0, 3, 0]))
    room.ledger.kept[2] = 2
    assert room.attach(5, 101, 1)
    assert room.targets == ((5, 101),)
    assert room.ledger.edge.unreported == (0, 0, 9, 0)
    assert room.stays[5] == Stay(101, 1, (0, 0, 2, 0), head=41)


def test_another_instance_in_the_same_generation_begins_a_new_stay(room: RoomState) -> None:
    room.attach(5, 100, 1)
    room.announce(5, 100, report(subscriptions=1, offered=[0, 0, 4, 0], written=[0, 0, 4, 0]))
    room.attach(5, 100, 2)
    room.announce(5, 100, report(instance=2, subscriptions=1, offered=[0, 0, 1, 0], written=[0, 0, 1, 0]))
    assert room.ledger.edge.offered == (0, 0, 4, 0)
    assert room.stays[5].edge.offered == (0, 0, 1, 0)


def test_detach_ends_the_stay_with_its_last_report(room: RoomState) -> None:
    room.attach(5, 100, 1)
    last = report(subscriptions=0, offered=[0, 0, 4, 0], written=[0, 0, 3, 0], dropped={"closed": [0, 0, 1, 0]})
    assert room.detach(5, 100, 1, last)
    assert room.targets == ()
    assert room.ledger.edge.dropped == {"closed": (0, 0, 1, 0)}
    assert room.ledger.edge.unreported == NONE
    assert not room.detach(5, 100, 1, last)


def test_a_gateway_that_leaves_in_words_is_offered_nothing_that_is_under_way(room: RoomState) -> None:
    room.attach(5, 100, 1)
    room.ledger.kept[2] = 3
    room.detach(5, 100, 1, report(subscriptions=2, offered=[0, 0, 4, 0], written=[0, 0, 4, 0], taken=[0, 0, 2, 0]))
    assert room.ledger.edge.unreported == NONE
    assert room.ledger.edge.offered == (0, 0, 4, 0)


def test_what_was_under_way_at_the_last_report_of_a_dead_gateway_is_unreported(room: RoomState) -> None:
    room.ledger.kept[2] = 10
    room.attach(5, 100, 1)
    room.ledger.kept[2] = 14
    room.announce(5, 100, report(subscriptions=7, offered=[0, 0, 21, 0], written=[0, 0, 21, 0], taken=[0, 0, 3, 0]))
    room.ledger.kept[2] = 20
    room.expire(5, 100)
    assert room.stays[5].gone == (0, 0, 7, 0), "ten were sent, three had come"


def test_a_route_that_was_lost_counts_on_from_what_its_gateway_had_taken(room: RoomState) -> None:
    room.ledger.kept[2] = 10
    room.announce(5, 100, report(subscriptions=1, taken=[0, 0, 30, 0]))
    room.ledger.kept[2] = 12
    room.expire(5, 100)
    assert room.stays[5].gone == (0, 0, 2, 0)


def test_detach_without_a_report_leaves_what_was_sent_unreported(room: RoomState) -> None:
    room.attach(5, 100, 1)
    room.announce(5, 100, report(subscriptions=2))
    room.ledger.kept[1] = 3
    assert room.detach(5, 100, 1, None)
    assert room.ledger.edge.unreported == (0, 6, 0, 0)


@pytest.mark.parametrize(("generation", "instance"), [(99, 1), (101, 1), (100, 2)])
def test_detach_of_another_stay_is_ignored(room: RoomState, generation: int, instance: int) -> None:
    room.attach(5, 100, 1)
    assert not room.detach(5, generation, instance, None)
    assert room.targets == ((5, 100),)


def test_announce_heals_a_route_that_was_lost(room: RoomState) -> None:
    assert room.announce(5, 100, report(subscriptions=1))
    assert room.targets == ((5, 100),)
    assert room.is_changed


def test_a_report_without_news_leaves_the_room_unchanged(room: RoomState) -> None:
    room.announce(5, 100, report(subscriptions=1))
    room.is_changed = False
    state = room.encode()
    assert room.announce(5, 100, report(subscriptions=1))
    assert not room.is_changed
    assert room.encode() == state


def test_a_slot_whose_lease_is_gone_gets_nothing_more(room: RoomState) -> None:
    room.attach(5, 100, 1)
    room.announce(5, 100, report(subscriptions=2))
    room.ledger.kept[2] = 4
    assert room.expire(5, 100)
    assert room.targets == ()
    assert room.stays[5].gone == (0, 0, 4, 0)
    assert not room.expire(5, 100)


@pytest.mark.parametrize(("slot", "generation"), [(4, 100), (5, 99)])
def test_another_slots_or_an_older_generations_loss_does_not_matter(
    room: RoomState, slot: int, generation: int
) -> None:
    room.attach(5, 100, 1)
    assert not room.expire(slot, generation)
    assert room.targets == ((5, 100),)


def test_a_gateway_that_comes_back_gets_its_stay_back_and_nothing_is_counted_twice(room: RoomState) -> None:
    room.attach(5, 100, 1)
    room.announce(5, 100, report(subscriptions=2))
    room.ledger.kept[2] = 4
    room.expire(5, 100)
    room.announce(5, 100, report(subscriptions=2, offered=[0, 0, 8, 0], written=[0, 0, 8, 0]))
    assert room.targets == ((5, 100),)
    assert room.stays[5].gone is None
    assert room.stays[5].edge.offered == (0, 0, 8, 0)
    assert room.ledger.edge == NOTHING


def test_a_gateway_lost_long_ago_is_moved_to_the_stays_that_ended(room: RoomState) -> None:
    room.attach(5, 100, 1)
    room.attach(6, 100, 1)
    room.announce(5, 100, report(subscriptions=2))
    room.ledger.kept[2] = 1
    room.expire(5, 100)
    room.settle_gone()
    assert 5 in room.stays
    room.thinning.clock_ms = STAY_REMEMBERED_MS + 1
    room.settle_gone()
    assert set(room.stays) == {6}
    assert room.ledger.edge.unreported == (0, 0, 2, 0)


def test_an_id_at_a_lower_position_is_a_repeat() -> None:
    keyed = Keyed([(7, 10, 1_000)])
    assert keyed.is_repeat(7, 11, 1_000)
    assert not keyed.is_repeat(7, 10, 1_000)
    assert not keyed.is_repeat(8, 11, 1_000)


def test_an_id_is_remembered_for_ten_minutes_of_record_time() -> None:
    keyed = Keyed([(7, 10, 1_000)])
    assert keyed.is_repeat(7, 11, 1_000 + IDEMPOTENCY_S * 1_000)
    assert not keyed.is_repeat(7, 11, 1_001 + IDEMPOTENCY_S * 1_000)
    keyed.add(8, 12, 1_001 + IDEMPOTENCY_S * 1_000)
    assert len(keyed) == 1


def test_an_id_that_comes_again_after_its_time_keeps_its_new_place() -> None:
    keyed = Keyed([(7, 10, 0)])
    keyed.add(7, 20, IDEMPOTENCY_S * 1_000)
    assert keyed.is_repeat(7, 21, 2 * IDEMPOTENCY_S * 1_000)
    assert not keyed.is_repeat(7, 15, IDEMPOTENCY_S * 1_000)


def test_the_oldest_ids_leave_beyond_the_bound() -> None:
    keyed = Keyed((number, number, 0) for number in range(KEYED_IDS_MAX + 3))
    assert len(keyed) == KEYED_IDS_MAX
    assert not keyed.is_repeat(2, 1 << 40, 0)
    assert keyed.is_repeat(3, 1 << 40, 0)


def test_a_group_keeps_its_kinds(room: RoomState) -> None:
    assert room.kinds == (0, 0, 1, 2)
    assert RoomState.fresh("app/group:a", GROUP, 0).kinds == (0, 0, 0, 2)
