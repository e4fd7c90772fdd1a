"""Windows under arbitrary streams: who is kept in any case, who gets what is left, and that nothing else matters."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fanout.core import ledger
from fanout.core.messages import Priority
from fanout.core.policy import DEBT_WINDOWS_MAX, WINDOW_MS, DropReason, Thinning, take_slot
from fanout.core.profiles import LIVE, Policy
from fanout.core.records import ATTACH, Attach, encode
from tests.support.rooms import DecidedRoom, Rec, message

RESERVED, SHARED, CAP = 2, 4, 2
POLICY = Policy(reserved_slots=RESERVED, shared_slots_max=SHARED, sender_slots_max=CAP)
PROFILE = msgspec.structs.replace(LIVE, policy=POLICY)

Said = tuple[int, Priority, str]  # (ms since the last one, class, sender)
streams = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 0, 1, 50, 150, 200, 450, 2_000]),
        st.sampled_from(list(Priority)),
        st.sampled_from(["", "ann", "bob", "cyd"]),
    ),
    max_size=120,
)


def decide(stream: list[Said]) -> list[tuple[int, Priority, str, DropReason | None]]:
    """Return (window, class, sender, why not) of every message."""
    thinning = Thinning()
    decisions = []
    at_ms = 1_000_000
    for step_ms, priority, sender in stream:
        at_ms += step_ms
        thinning.clock_ms = at_ms
        reason = take_slot(thinning, POLICY, SHARED, priority, sender, "")
        decisions.append((at_ms // WINDOW_MS, priority, sender, reason))
        assert 0 <= thinning.debt <= DEBT_WINDOWS_MAX * SHARED
        assert thinning.shared_used <= SHARED and thinning.reserved_used <= RESERVED
        assert len(thinning.senders or {}) <= SHARED
    return decisions


@given(streams)
def test_system_and_high_are_kept_in_any_case(stream: list[Said]) -> None:
    assert all(
        reason is None for _, priority, _, reason in decide(stream) if priority in (Priority.SYSTEM, Priority.HIGH)
    )


@given(streams)
def test_a_window_gives_chat_and_likes_no_more_than_what_high_left(stream: list[Said]) -> None:
    kept: Counter[tuple[int, Priority]] = Counter()
    for window, priority, _, reason in decide(stream):
        if reason is None:
            kept[window, priority] += 1
            left = max(0, SHARED - max(0, kept[window, Priority.HIGH] - RESERVED))
            if priority in (Priority.NORMAL, Priority.LOW):
                assert kept[window, Priority.NORMAL] + kept[window, Priority.LOW] <= left
    assert all(count <= SHARED // 2 for (_, priority), count in kept.items() if priority is Priority.LOW)


@given(streams)
def test_a_sender_never_gets_more_than_its_share_of_a_window(stream: list[Said]) -> None:
    kept = Counter(
        (window, sender)
        for window, priority, sender, reason in decide(stream)
        if reason is None and sender and priority in (Priority.NORMAL, Priority.LOW)
    )
    assert all(count <= CAP for count in kept.values())


@given(streams)
def test_an_open_window_keeps_the_first_chat_message_of_a_quiet_second(stream: list[Said]) -> None:
    quiet_ms = (DEBT_WINDOWS_MAX + 1) * WINDOW_MS
    *_, (_, _, _, reason) = decide([*stream, (quiet_ms, Priority.NORMAL, "dan")])
    assert reason is None


@given(streams, st.lists(st.integers(1, 30), min_size=1))
def test_batch_boundaries_alter_nothing_and_the_ledger_adds_up(stream: list[Said], cuts: list[int]) -> None:
    at_ms, log = 1_000_000, [Rec(0, encode(ATTACH, Attach(3, 1, 1)), timestamp=1_000_000)]
    for offset, (step_ms, priority, sender) in enumerate(stream, 1):
        at_ms += step_ms
        log.append(Rec(offset, message(priority, offset, sender=sender), timestamp=at_ms))
    whole, parts = DecidedRoom(PROFILE), DecidedRoom(PROFILE)
    whole.turn(log)
    rest, number = log, 0
    while rest:
        size = cuts[number % len(cuts)]
        parts.turn(rest[:size])
        rest, number = rest[size:], number + 1
    assert parts.entries(3) == whole.entries(3)
    assert parts.history() == whole.history()
    assert parts.room.encode() == whole.room.encode()
    report = ledger.report(whole.room.encode())
    assert ledger.differences(report) == []
    assert sum(report["accepted"].values()) == len(stream)
