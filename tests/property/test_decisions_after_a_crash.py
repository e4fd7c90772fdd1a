"""A new owner that starts from any stored state decides the same: entries, positions, counts, ledger."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from fanout.core import ledger
from fanout.core.ledger_spans import Opening, view
from fanout.core.limits import LEDGER_SPAN_MS, LEDGER_SPANS
from fanout.core.messages import Priority
from fanout.core.outcome import Outcome
from fanout.core.profiles import LIVE, Policy
from fanout.core.records import KEYED, TRACKED, Entry, decode_body
from tests.support.rooms import DecidedRoom, Rec, attach, detach, message, report

PROFILE = msgspec.structs.replace(
    LIVE,
    policy=Policy(
        reserved_slots=2,
        shared_slots_max=4,
        allowlist_slots=1,
        allowlist_users=frozenset({"bob"}),
        raised_types=frozenset({"gift"}),
        high_per_s=4,
        high_burst=2,
    ),
)

priorities = st.sampled_from(list(Priority))
senders = st.sampled_from(["", "ann", "bob"])
values = st.one_of(
    st.builds(message, priorities, st.integers(1, 1 << 40), sender=senders),
    st.builds(message, priorities, st.integers(1, 4), sender=senders, flags=st.just(KEYED)),
    st.builds(message, priorities, st.integers(5, 1 << 40), sender=senders, flags=st.just(TRACKED)),
    st.builds(attach, st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)),
    st.builds(detach, st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)),
    st.builds(
        lambda slot, said: detach(slot, 1, 1, said),
        st.integers(1, 3),
        st.builds(
            report, subscriptions=st.integers(0, 3), offered=st.just([0, 0, 2, 0]), written=st.just([0, 0, 2, 0])
        ),
    ),
    st.just(b'{"room":"live:stage","data":{"a":1},"sender":"bot"}'),
    st.just(b'{"room":"live:stage","data":{"a":1},"type":"gift"}'),
)
steps = st.lists(
    st.tuples(values, st.sampled_from([0, 0, 10, 199, 200, 5_000, 120_000, 400_000])), min_size=1, max_size=60
)


@dataclass
class Log:
    """A log, and how it is cut into turns."""

    steps: list[tuple[bytes, int]]
    cuts: list[int]
    records: list[Rec] = field(default_factory=list)

    def __post_init__(self) -> None:
        at_ms = 1_800_000_000_000
        for offset, (value, step_ms) in enumerate(self.steps):
            at_ms += step_ms
            self.records.append(Rec(offset, value, timestamp=at_ms))

    def turns(self, start: int = 0) -> list[list[Rec]]:
        """Return the records from a log offset on, in turns."""
        rest = self.records[start:]
        turns: list[list[Rec]] = []
        while rest:
            size = self.cuts[len(turns) % len(self.cuts)]
            turns.append(rest[:size])
            rest = rest[size:]
        return turns


logs = st.builds(Log, steps, st.lists(st.integers(1, 9), min_size=1, max_size=5))


def history(*owners: DecidedRoom) -> dict[int, Entry]:
    """Return the entries that owners stored one after the other, as the store keeps them: the first one counts."""
    found: dict[int, Entry] = {}
    for owner in owners:
        for entry in owner.history():
            if entry.offset > max(found, default=0):
                found[entry.offset] = entry
    return found


def openings(*owners: DecidedRoom) -> dict[int, Opening]:
    """Return the openings that owners stored one after the other, as the store keeps them: a ring."""
    found: dict[int, Opening] = {}
    for owner in owners:
        for batch in owner.stored:
            found |= {one.at_ms // LEDGER_SPAN_MS % LEDGER_SPANS: one for one in batch.openings}
    return found


def outcomes(*owners: DecidedRoom) -> dict[int, Outcome]:
    """Return the outcomes that owners stored one after the other: the last one counts."""
    noted = [one for owner in owners for batch in owner.stored for one in batch.outcomes]
    return {one.id: decode_body(one.encoded, Outcome) for one in noted}


@settings(max_examples=150)
@given(log=logs, crash=st.integers(0, 60), committed=st.integers(0, 60), again=st.integers(0, 60))
def test_a_crash_at_any_point_changes_nothing(log: Log, crash: int, committed: int, again: int) -> None:
    straight = DecidedRoom(PROFILE)
    for turn in log.turns():
        straight.turn(turn)

    first = DecidedRoom(PROFILE)
    for turn in log.turns():
        first.turn(turn)
    stored = min(crash, len(first.stored))
    second = first.crashed(stored)
    start = min(committed, first.stored[stored - 1].applied if stored else 0)
    for turn in log.turns(start):
        second.turn(turn)
    stored_again = min(again, len(second.stored))
    if stored_again:
        third = second.crashed(stored_again, owner=3)
        for turn in log.turns(0):
            third.turn(turn)
        assert third.room.encode() == straight.room.encode()
        assert openings(third) == openings(straight)
        assert outcomes(third) == outcomes(straight)

    assert second.room.encode() == straight.room.encode()
    assert (second.room.head, second.room.last, second.room.n) == (
        straight.room.head,
        straight.room.last,
        straight.room.n,
    )
    first_part = DecidedRoom(PROFILE)
    first_part.stored = first.stored[:stored]
    assert history(first_part, second) == history(straight)
    assert openings(second) == openings(straight)
    assert outcomes(second) == outcomes(straight)
    assert ledger.differences(ledger.report(second.room.encode())) == []


@given(log=logs, since_ms=st.integers(0, 3_600_000))
def test_the_ledger_of_a_while_is_what_was_counted_in_it(log: Log, since_ms: int) -> None:
    """Whatever came since: the difference of the counts is that of a room which has seen nothing before."""
    decided = DecidedRoom(PROFILE)
    for turn in log.turns():
        decided.turn(turn)
    newest_ms = log.records[-1].timestamp
    state = decided.room.encode()
    found = view(state, list(openings(decided).values()), newest_ms - since_ms)
    assert found.from_ms % LEDGER_SPAN_MS == 0
    assert newest_ms - since_ms - LEDGER_SPAN_MS < found.from_ms <= newest_ms - since_ms
    assert ledger.differences(ledger.shown(found.ledger)) == []

    before = DecidedRoom(PROFILE)
    before.turn([record for record in log.records if record.timestamp < found.from_ms])
    base = ledger.report(before.room.encode())
    for fate in ("accepted", "kept"):
        since_begin = ledger.shown(found.ledger)[fate]
        whole = ledger.report(state)[fate]
        assert since_begin == {word: whole[word] - base[fate][word] for word in whole}
    everything = view(state, [], None)
    assert ledger.shown(everything.ledger) == ledger.report(state)


@given(log=logs, slice_records=st.integers(1, 9))
def test_slices_of_a_turn_change_nothing_but_the_cut_of_its_chunks(log: Log, slice_records: int) -> None:
    whole, sliced = DecidedRoom(PROFILE), DecidedRoom(PROFILE)
    for turn in log.turns():
        whole.turn(turn)
        sliced.turn(turn, slice_records=slice_records)
    assert sliced.stored == whole.stored
    assert sliced.received.keys() == whole.received.keys()
    for slot, generation in whole.received:
        assert sliced.entries(slot, generation) == whole.entries(slot, generation)


@given(log=logs)
def test_offsets_rise_and_the_chain_of_reliable_publications_is_whole(log: Log) -> None:
    decided = DecidedRoom(PROFILE)
    for turn in log.turns():
        decided.turn(turn)
    last = count = 0
    offset = 0
    for entry in decided.history():
        assert entry.offset > offset
        offset = entry.offset
        assert entry.prev == last
        if entry.kind == 0:
            last, count = entry.offset, count + 1
        assert entry.n == count


@given(log=logs)
def test_every_slot_receives_a_chain_without_holes_from_its_answer_on(log: Log) -> None:
    decided = DecidedRoom(PROFILE)
    for turn in log.turns():
        decided.turn(turn)
    for batches in decided.received.values():
        last: int | None = None
        attached_at = -1
        for batch in batches:
            if batch.attached is not None:
                attached_at = last = batch.attached.last
                assert batch.entries == []
                continue
            assert last is not None, "the first word to a slot is the answer to its attach"
            # A slot that left and came back starts from its new answer, so nothing is missing in between either.
            assert batch.prev == last
            for entry in batch.entries:
                assert entry.prev == last
                last = entry.offset if entry.kind == 0 else last
        assert attached_at >= 0


@given(log=logs, crash=st.integers(0, 60))
def test_gateways_are_told_how_much_was_thinned_up_to_a_position_whoever_tells(log: Log, crash: int) -> None:
    """What one record a turn counts up to each position is what any other cut and any other owner says of it."""
    single = DecidedRoom(PROFILE)
    thinned: dict[int, list[int]] = {}
    for record in log.records:
        single.turn([record])
        thinned[single.room.applied] = list(single.room.thinned)

    first = DecidedRoom(PROFILE)
    for turn in log.turns():
        first.turn(turn)
    second = first.crashed(min(crash, len(first.stored)))
    for turn in log.turns():
        second.turn(turn)
    for owner in (single, first, second):
        for batches in owner.received.values():
            said = [batch.thinned for batch in batches if batch.thinned is not None]
            assert [counts for _, *counts in said] == [thinned[upto] for upto, *_ in said]
            assert [upto for upto, *_ in said] == sorted({upto for upto, *_ in said})
