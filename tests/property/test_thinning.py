"""Windows under arbitrary streams: who is kept in any case, who gets what is left, and that nothing else matters."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fanout.core import ledger, quota
from fanout.core.messages import PRIORITIES, Priority
from fanout.core.policy import DEBT_WINDOWS_MAX, WINDOW_MS, DropReason, Thinning, take_slot
from fanout.core.profiles import LIVE, Policy
from fanout.core.records import ATTACH, KEYED, Attach, encode
from tests.support.rooms import DecidedRoom, Rec, message

RESERVED, SHARED, CAP, ALLOWED = 2, 4, 2, 3
POLICY = Policy(
    reserved_slots=RESERVED,
    shared_slots_max=SHARED,
    sender_slots_max=CAP,
    allowlist_slots=ALLOWED,
    allowlist_users=frozenset({"vip"}),
    allowlist_types=frozenset({"question"}),
    raised_types=frozenset({"gift"}),
    high_per_s=5,
    high_burst=3,
    late_low_ms=500,
    late_normal_ms=1_500,
)
PROFILE = msgspec.structs.replace(LIVE, policy=POLICY)
BEGIN_MS = 1_790_000_000_000
CHAT = (Priority.NORMAL, Priority.LOW)


class Said(NamedTuple):
    """A message: ms since the one before it, class, sender, type."""

    step_ms: int
    priority: Priority
    sender: str
    type: str = ""


class Decided(NamedTuple):
    """Its fate, and whether it is on the allowlist."""

    window: int
    priority: Priority
    sender: str
    allowed: bool
    reason: DropReason | None


steps = st.sampled_from([0, 0, 0, 0, 1, 50, 150, 200, 450, 2_000])
priorities = st.sampled_from(PRIORITIES)
senders = st.sampled_from(["", "ann", "bob", "cyd", "vip"])
types = st.sampled_from(["", "", "chat", "question"])
streams = st.lists(st.builds(Said, steps, priorities, senders, types), max_size=120)


def decide(stream: list[Said]) -> list[Decided]:
    thinning = Thinning()
    decisions = []
    at_ms = BEGIN_MS
    for said in stream:
        at_ms += said.step_ms
        thinning.clock_ms = at_ms
        reason = take_slot(thinning, POLICY, SHARED, said.priority, said.sender, said.type)
        allowed = said.sender == "vip" or said.type == "question"
        decisions.append(Decided(at_ms // WINDOW_MS, said.priority, said.sender, allowed, reason))
        assert 0 <= thinning.debt <= DEBT_WINDOWS_MAX * SHARED
        assert thinning.shared_used <= SHARED and thinning.reserved_used <= RESERVED
        assert thinning.allowlist_used <= ALLOWED
        assert len(thinning.senders or {}) <= SHARED
    return decisions


@given(streams)
def test_system_and_high_are_kept_in_any_case(stream: list[Said]) -> None:
    assert all(one.reason is None for one in decide(stream) if one.priority not in CHAT)


@given(streams)
def test_a_window_gives_chat_and_likes_no_more_than_what_high_left(stream: list[Said]) -> None:
    high: Counter[int] = Counter()
    shared: Counter[tuple[int, Priority]] = Counter()
    allowed: Counter[int] = Counter()
    for window, priority, _, is_allowed, reason in decide(stream):
        if reason is not None:
            continue
        if priority not in CHAT:
            high[window] += priority is Priority.HIGH
        elif is_allowed and allowed[window] < ALLOWED:
            allowed[window] += 1
        else:
            shared[window, priority] += 1
            left = max(0, SHARED - max(0, high[window] - RESERVED))
            assert shared[window, Priority.NORMAL] + shared[window, Priority.LOW] <= left
    assert all(count <= SHARED // 2 for (_, priority), count in shared.items() if priority is Priority.LOW)


@given(streams)
def test_the_slots_of_the_allowlist_are_there_for_it_whatever_others_say(stream: list[Said]) -> None:
    seen: Counter[int] = Counter()
    for one in decide(stream):
        if one.allowed and one.priority in CHAT:
            seen[one.window] += 1
            assert one.reason is None or seen[one.window] > ALLOWED


@given(streams, st.lists(st.integers(0, RESERVED), min_size=120, max_size=120))
def test_high_within_its_reserved_slots_costs_nobody_anything(stream: list[Said], gifts: list[int]) -> None:
    chat = [said for said in stream if said.priority is not Priority.HIGH]
    mixed: list[Said] = []
    at_ms, window, places = BEGIN_MS, 0, 0
    for said, count in zip(chat, gifts, strict=False):
        at_ms += said.step_ms
        if at_ms // WINDOW_MS > window:
            window, places = at_ms // WINDOW_MS, RESERVED
        mixed.append(said)
        mixed.extend([Said(0, Priority.HIGH, "ann")] * min(count, places))
        places -= min(count, places)
    decided = [one for one in decide(mixed) if one.priority is not Priority.HIGH]
    assert decided == decide(chat)


@given(streams)
def test_a_sender_never_gets_more_than_its_share_of_a_window(stream: list[Said]) -> None:
    kept = Counter(
        (one.window, one.sender)
        for one in decide(stream)
        if one.reason is None and one.sender and one.priority in CHAT and not one.allowed
    )
    assert all(count <= CAP for count in kept.values())


@given(streams)
def test_an_open_window_keeps_the_first_chat_message_of_a_quiet_second(stream: list[Said]) -> None:
    quiet_ms = (DEBT_WINDOWS_MAX + 1) * WINDOW_MS
    *_, last = decide([*stream, Said(quiet_ms, Priority.NORMAL, "dan")])
    assert last.reason is None


# --- the worker: all stages ---

records = st.lists(
    st.one_of(
        st.builds(lambda said, id_: (said, id_, 0), st.builds(Said, steps, priorities, senders, types), st.just(0)),
        st.builds(lambda said, id_: (said, id_, KEYED), st.builds(Said, steps, priorities, senders), st.integers(1, 4)),
        st.builds(
            lambda said, id_: (said, id_, -1),
            st.builds(Said, steps, priorities, senders, st.sampled_from(["chat", "gift"])),
            st.just(0),
        ),
    ),
    max_size=100,
)
cuts = st.lists(st.integers(1, 30), min_size=1)
ages = st.sampled_from([0, 0, 1, 400, 1_000, 4_000, 60_000])


def log_of(stream: list[tuple[Said, int, int]]) -> list[Rec]:
    """Return an Attach and the records; flags of -1: a foreign producer's JSON."""
    at_ms, log = BEGIN_MS, [Rec(0, encode(ATTACH, Attach(3, 1, 1)), timestamp=BEGIN_MS)]
    for offset, (said, id_, flags) in enumerate(stream, 1):
        at_ms += said.step_ms
        if flags < 0:
            word, sender = said.priority.word, said.sender
            body = {"room": "live:stage", "data": 1, "priority": word, "sender": sender, "type": said.type}
            value = msgspec.json.encode(body)
        else:
            value = message(said.priority, id_ or 100 + offset, sender=said.sender, type_=said.type, flags=flags)
        log.append(Rec(offset, value, timestamp=at_ms))
    return log


@given(records, ages)
def test_every_message_has_one_fate_and_each_stage_takes_what_is_its_own(
    stream: list[tuple[Said, int, int]], age_ms: int
) -> None:
    log = log_of(stream)
    now_ms = log[-1].timestamp + age_ms
    decided = DecidedRoom(PROFILE)
    turn = decided.turn(log, now_ms=now_ms)
    report = ledger.report(decided.room.encode())
    assert ledger.differences(report) == []
    assert sum(report["accepted"].values()) == len(stream)
    assert turn.parked == []

    due = expected(stream, log, now_ms)
    found = Counter(
        {
            (stage, Priority[word.upper()]): count
            for stage, reasons in report["dropped"].items()
            if stage != "policy"
            for counts in reasons.values()
            for word, count in counts.items()
            if count
        }
    )
    assert found == due
    for stage, reasons in report["dropped"].items():
        assert stage == "repeat" or all(counts["system"] == counts["high"] == 0 for counts in reasons.values())


def expected(stream: list[tuple[Said, int, int]], log: list[Rec], now_ms: int) -> Counter[tuple[str, Priority]]:
    """Return what repeats and lateness take, by a model that looks at one record after the other."""
    due: Counter[tuple[str, Priority]] = Counter()
    ids: set[int] = set()
    full_at_us = clock_ms = 0
    for (said, id_, flags), record in zip(stream, log[1:], strict=True):
        priority = said.priority
        if flags < 0:
            if said.type == "gift" and Priority.HIGH.outranks(priority):
                priority = Priority.HIGH
            if priority is Priority.HIGH:
                now_us = max(record.timestamp, clock_ms) * 1_000
                if quota.wait_us(full_at_us, now_us, POLICY):
                    priority = Priority.NORMAL
                else:
                    full_at_us = quota.taken(full_at_us, now_us, POLICY)
        limit_ms = {Priority.NORMAL: POLICY.late_normal_ms, Priority.LOW: POLICY.late_low_ms}.get(priority)
        is_late = limit_ms is not None and record.timestamp < now_ms - limit_ms
        if not is_late:
            clock_ms = record.timestamp
        if flags == KEYED and id_ in ids:
            due["repeat", priority] += 1
        elif is_late:
            due["late", priority] += 1
        if flags == KEYED:
            ids.add(id_)
    return due


@given(records, cuts, ages)
def test_batch_boundaries_alter_nothing(stream: list[tuple[Said, int, int]], sizes: list[int], age_ms: int) -> None:
    log = log_of(stream)
    now_ms = log[-1].timestamp + age_ms
    whole, parts = DecidedRoom(PROFILE), DecidedRoom(PROFILE)
    whole.turn(log, now_ms=now_ms)
    rest, number = log, 0
    while rest:
        size = sizes[number % len(sizes)]
        parts.turn(rest[:size], now_ms=now_ms)
        rest, number = rest[size:], number + 1
    assert parts.entries(3) == whole.entries(3)
    assert parts.history() == whole.history()
    assert parts.room.encode() == whole.room.encode()


@given(records, cuts, st.integers(0, 100), ages)
def test_another_owner_in_mid_window_decides_as_the_first_would_have(
    stream: list[tuple[Said, int, int]], sizes: list[int], crash: int, age_ms: int
) -> None:
    log = log_of(stream)
    now_ms = log[-1].timestamp + age_ms
    straight, first = DecidedRoom(PROFILE), DecidedRoom(PROFILE)
    straight.turn(log, now_ms=now_ms)
    rest, number = log, 0
    while rest:
        size = sizes[number % len(sizes)]
        first.turn(rest[:size], now_ms=now_ms)
        rest, number = rest[size:], number + 1
    second = first.crashed(min(crash, len(first.stored)))
    second.turn(log, now_ms=now_ms)
    assert second.room.encode() == straight.room.encode()


@given(records, st.integers(0, 100), ages)
def test_a_replay_that_comes_late_changes_only_what_was_not_stored(
    stream: list[tuple[Said, int, int]], stored: int, age_ms: int
) -> None:
    log = log_of(stream)
    first = DecidedRoom(PROFILE)
    for record in log:
        first.turn([record], now_ms=record.timestamp)
    second = first.crashed(min(stored, len(first.stored)))
    before = ledger.report(second.room.encode())
    second.turn(log, now_ms=log[-1].timestamp + age_ms)
    after = ledger.report(second.room.encode())
    assert ledger.differences(after) == []
    assert sum(after["accepted"].values()) == len(stream)
    assert after["accepted"]["system"] == after["kept"]["system"] + repeats(after, "system")
    assert after["accepted"]["high"] == after["kept"]["high"] + repeats(after, "high")
    assert all(after["kept"][word] >= count for word, count in before["kept"].items())


def repeats(report: dict[str, dict[str, dict[str, dict[str, int]]]], word: str) -> int:
    return sum(counts[word] for counts in report["dropped"].get("repeat", {}).values())
