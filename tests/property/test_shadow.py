"""Under the policy that was in force a shadow finds what the room worker has stored, however the log is read."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from fanout.core import ledger
from fanout.core.messages import Priority
from fanout.core.policies import encode_policies
from fanout.core.profiles import LIVE, Policy, Profiles
from fanout.core.records import (
    ANNOUNCE,
    BUDGET,
    KEYED,
    MERGE,
    MESSAGE,
    POLICY,
    Announce,
    Budget,
    Merge,
    Message,
    PolicyChange,
    encode,
    header,
)
from tests.support.rooms import KEY, ROOM, Rec, attach, detach, message, report
from workers import decide
from workers.partition import Partition
from workers.shadow import Comparison, Place, Shadow
from workers.turn import Ownership, Turn

IN_FORCE = Policy(
    reserved_slots=2, shared_slots_min=1, shared_slots_max=4, allowlist_slots=1, allowlist_users=frozenset({"bob"})
)
PROPOSED = Policy(reserved_slots=1, shared_slots_min=2, shared_slots_max=3, sender_slots_max=1, high_per_s=2.0)
PROFILE = msgspec.structs.replace(LIVE, policy=IN_FORCE)

senders = st.sampled_from(["", "ann", "bob"])
merged = st.builds(
    lambda key, op: encode(MESSAGE, Message(b"{}", merge=Merge(key, op)), priority=Priority.LOW.value, flags=MERGE),
    st.sampled_from("ab"),
    st.sampled_from(["sum", "latest"]),
)
types = st.sampled_from(["", "", "typing"])
messages = st.one_of(
    merged,
    st.builds(message, st.sampled_from(list(Priority)), st.integers(1, 1 << 40), sender=senders, type_=types),
    st.builds(message, st.sampled_from(list(Priority)), st.integers(1, 4), sender=senders, flags=st.just(KEYED)),
    st.builds(attach, st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)),
    st.builds(detach, st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)),
    st.sampled_from(
        [
            b'{"room":"live:stage","data":{"a":1},"sender":"bot","priority":"high"}',
            b'{"room":"live:stage","data":1}',
            b'{"room":"live:elsewhere","data":1}',
            b"\x01\x01\x02\x00",
        ]
    ),
)
budgets = st.builds(
    lambda room, slots, members, degraded: encode(BUDGET, Budget({room: (slots, members)}, degraded)),
    st.sampled_from([ROOM, "app/live:other"]),
    st.integers(1, 6),
    st.integers(1, 1 << 20),
    st.sampled_from([[], [ROOM]]),
)
policies = st.builds(
    lambda app, version, policy: encode(POLICY, PolicyChange(app, version, encode_policies(policy))),
    st.sampled_from(["app", "other"]),
    st.integers(1, 6),
    st.sampled_from([{}, {"live": Policy(shared_slots_max=3)}, {"group": Policy()}, {"live": IN_FORCE}]),
)
announces = st.builds(
    lambda slot, room, listening: encode(ANNOUNCE, Announce(slot, 1, 0, [report(subscriptions=listening, key=room)])),
    st.integers(1, 3),
    st.sampled_from([ROOM, "app/live:other"]),
    st.integers(0, 1 << 20),
)
said = st.one_of(
    messages.map(lambda value: (KEY, value)),
    messages.map(lambda value: (KEY, value)),
    messages.map(lambda value: (b"app/live:other", value)),
    st.one_of(budgets, policies, announces).map(lambda value: (None, value)),
)
steps = st.lists(st.tuples(said, st.sampled_from([0, 0, 0, 10, 199, 200, 5_000, 70_000])), min_size=1, max_size=80)
cuts = st.lists(st.integers(1, 30), min_size=1, max_size=5)


def on_the_log(stream: list[tuple[tuple[bytes | None, bytes], int]]) -> list[Rec]:
    """Return the records of a partition."""
    at_ms, records = 1_800_000_000_000, []
    for offset, ((key, value), step_ms) in enumerate(stream):
        at_ms += step_ms
        records.append(Rec(offset, value, key, at_ms))
    return records


def stored(records: list[Rec], policy: Policy) -> dict[str, object]:
    """Return the ledger that the owner of the partition stores for the room, among all that stands there."""
    profile = msgspec.structs.replace(LIVE, policy=policy)
    owned = Partition(Ownership(0, 1, "e1"), 0, 1, Profiles(namespaces={"live": profile}))
    state = b""
    for record in records:
        turn = Turn(1, 0.0)
        owned.take(turn, [record])
        owned.loaded(turn, dict.fromkeys(owned.ask(10)), lambda _target: False)
        decide.close(turn)
        for change in turn.changes:
            if change.room.key == ROOM:
                state = change.batch.state
    found = ledger.report(state)
    assert ledger.differences(found) == []
    del found["edge"]
    return found


def compared(records: list[Rec], sizes: list[int], proposed: Policy) -> Comparison:
    """Return the comparison of records that come in polls of these sizes."""
    comparison = Comparison(ROOM, PROFILE, proposed, Place(0, 1, 0))
    rest, number = records, 0
    while rest:
        size = sizes[number % len(sizes)]
        comparison.take(rest[:size])
        rest, number = rest[size:], number + 1
    return comparison


@settings(max_examples=150)
@given(steps, cuts)
def test_a_shadow_under_the_policy_in_force_has_the_ledger_that_the_worker_stored(
    stream: list[tuple[tuple[bytes | None, bytes], int]], sizes: list[int]
) -> None:
    records = on_the_log(stream)
    comparison = compared(records, sizes, IN_FORCE)
    expected = stored(records, IN_FORCE)
    assert comparison.in_force.counts() == expected
    if all(record.key is not None or header(record.value or b"").kind != POLICY for record in records):
        assert comparison.proposed.counts() == expected


@settings(max_examples=100)
@given(steps, cuts)
def test_a_shadow_under_another_policy_has_the_ledger_of_a_worker_under_that_policy(
    stream: list[tuple[tuple[bytes | None, bytes], int]], sizes: list[int]
) -> None:
    records = [record for record in on_the_log(stream) if record.key is not None]
    comparison = compared(records, sizes, PROPOSED)
    assert comparison.proposed.counts() == stored(records, PROPOSED)
    assert comparison.in_force.counts() == stored(records, IN_FORCE)


@settings(max_examples=100)
@given(steps, cuts)
def test_the_steps_of_a_plot_add_up_to_the_totals(
    stream: list[tuple[tuple[bytes | None, bytes], int]], sizes: list[int]
) -> None:
    comparison = compared(on_the_log(stream), sizes, PROPOSED)
    found = comparison.steps.all()
    sides: list[tuple[int, Shadow]] = [(1, comparison.in_force), (2, comparison.proposed)]
    for place, shadow in sides:
        counts = shadow.room.ledger
        dropped = sum(sum(by_class) for reasons in counts.dropped.values() for by_class in reasons.values())
        fates = [step[place] for step in found]
        assert [sum(each) for each in zip(*fates, strict=True)] == (
            [sum(counts.kept), sum(counts.merged), dropped] if fates else []
        )
