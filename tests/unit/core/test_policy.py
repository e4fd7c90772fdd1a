"""Windows of a loud room: who gets slots, who does not, and why."""

from __future__ import annotations

import pytest

from fanout.core.messages import Priority
from fanout.core.policy import DEBT_WINDOWS_MAX, WINDOW_MS, DropReason, Thinning, take_slot
from fanout.core.profiles import Policy

POLICY = Policy(reserved_slots=2, shared_slots_max=4, sender_slots_max=2)
ALLOWING = Policy(
    reserved_slots=2,
    shared_slots_max=4,
    allowlist_slots=3,
    allowlist_users=frozenset({"vip"}),
    allowlist_types=frozenset({"question"}),
)
WINDOW = 5_000


@pytest.fixture
def thinning() -> Thinning:
    return Thinning(clock_ms=WINDOW * WINDOW_MS, window=WINDOW)


def take(
    thinning: Thinning, priority: Priority, sender: str = "", type_: str = "", *, shared: int = 4
) -> DropReason | None:
    return take_slot(thinning, POLICY, shared, priority, sender, type_)


def taken(thinning: Thinning, priority: Priority, times: int) -> int:
    return sum(take(thinning, priority) is None for _ in range(times))


def go_on(thinning: Thinning, windows: int = 1) -> None:
    thinning.clock_ms += windows * WINDOW_MS


def test_normal_gets_all_shared_slots_of_a_window_and_no_more(thinning: Thinning) -> None:
    assert taken(thinning, Priority.NORMAL, 10) == 4
    assert take(thinning, Priority.NORMAL) is DropReason.WINDOW_FULL


def test_the_next_window_has_all_its_slots_again(thinning: Thinning) -> None:
    taken(thinning, Priority.NORMAL, 10)
    go_on(thinning)
    assert taken(thinning, Priority.NORMAL, 10) == 4


def test_a_record_clock_that_stands_still_stays_in_its_window(thinning: Thinning) -> None:
    taken(thinning, Priority.NORMAL, 4)
    thinning.clock_ms += WINDOW_MS - 1
    assert take(thinning, Priority.NORMAL) is DropReason.WINDOW_FULL


def test_like_is_dropped_before_chat_when_window_is_full(thinning: Thinning) -> None:
    assert taken(thinning, Priority.LOW, 10) == 2  # the first half is all that likes may fill
    assert taken(thinning, Priority.NORMAL, 10) == 2
    assert take(thinning, Priority.LOW) is DropReason.WINDOW_FULL


def test_a_single_shared_slot_is_open_to_likes(thinning: Thinning) -> None:
    assert take(thinning, Priority.LOW, shared=1) is None
    assert take(thinning, Priority.LOW, shared=1) is DropReason.WINDOW_FULL


def test_without_shared_slots_only_system_and_high_are_kept(thinning: Thinning) -> None:
    assert take(thinning, Priority.LOW, shared=0) is DropReason.WINDOW_FULL
    assert take(thinning, Priority.NORMAL, shared=0) is DropReason.WINDOW_FULL
    assert all(take(thinning, Priority.HIGH, shared=0) is None for _ in range(50))
    assert take(thinning, Priority.SYSTEM, shared=0) is None


def test_high_takes_its_reserved_slots_first_and_leaves_the_shared_ones(thinning: Thinning) -> None:
    assert taken(thinning, Priority.HIGH, 2) == 2
    assert taken(thinning, Priority.NORMAL, 10) == 4


def test_chat_never_takes_the_reserved_slots(thinning: Thinning) -> None:
    taken(thinning, Priority.NORMAL, 10)
    taken(thinning, Priority.HIGH, 2)
    assert (thinning.reserved_used, thinning.shared_used, thinning.debt) == (2, 4, 0)


def test_high_beyond_its_own_slots_takes_shared_ones_and_is_kept(thinning: Thinning) -> None:
    assert taken(thinning, Priority.HIGH, 5) == 5
    assert taken(thinning, Priority.NORMAL, 10) == 1


def test_high_beyond_all_slots_takes_those_of_later_windows(thinning: Thinning) -> None:
    assert taken(thinning, Priority.HIGH, 2 + 4 + 5) == 11
    go_on(thinning)
    assert taken(thinning, Priority.NORMAL, 10) == 0
    go_on(thinning)
    assert taken(thinning, Priority.NORMAL, 10) == 3
    go_on(thinning)
    assert taken(thinning, Priority.NORMAL, 10) == 4


def test_windows_in_which_nobody_speaks_pay_debt_too(thinning: Thinning) -> None:
    taken(thinning, Priority.HIGH, 2 + 4 + 9)
    go_on(thinning, 3)
    assert taken(thinning, Priority.NORMAL, 10) == 3


def test_debt_is_capped_at_five_windows_however_many_gifts_come(thinning: Thinning) -> None:
    assert taken(thinning, Priority.HIGH, 500) == 500
    assert thinning.debt == DEBT_WINDOWS_MAX * 4
    for _ in range(DEBT_WINDOWS_MAX):
        go_on(thinning)
        assert taken(thinning, Priority.NORMAL, 10) == 0
    go_on(thinning)
    assert taken(thinning, Priority.NORMAL, 10) == 4


def test_debt_shrinks_with_the_shared_slots_in_force(thinning: Thinning) -> None:
    taken(thinning, Priority.HIGH, 500)
    go_on(thinning)
    take(thinning, Priority.HIGH, shared=1)
    assert thinning.debt == DEBT_WINDOWS_MAX * 1 - 1


def test_a_sender_has_a_share_of_the_shared_slots(thinning: Thinning) -> None:
    assert [take(thinning, Priority.NORMAL, "ann") for _ in range(3)] == [None, None, DropReason.SENDER_CAP]
    assert take(thinning, Priority.NORMAL, "bob") is None
    go_on(thinning)
    assert take(thinning, Priority.NORMAL, "ann") is None


def test_nobody_in_particular_has_no_share(thinning: Thinning) -> None:
    assert taken(thinning, Priority.NORMAL, 4) == 4
    assert thinning.senders is None


def test_gifts_do_not_count_against_their_senders_share(thinning: Thinning) -> None:
    for _ in range(3):
        take(thinning, Priority.HIGH, "ann")
    assert take(thinning, Priority.NORMAL, "ann") is None


def test_system_takes_no_slot(thinning: Thinning) -> None:
    assert taken(thinning, Priority.SYSTEM, 100) == 100
    assert (thinning.reserved_used, thinning.shared_used, thinning.debt) == (0, 0, 0)


def allowed(thinning: Thinning, priority: Priority, sender: str = "", type_: str = "", *, times: int = 1) -> int:
    return sum(take_slot(thinning, ALLOWING, 4, priority, sender, type_) is None for _ in range(times))


@pytest.mark.parametrize("priority", [Priority.NORMAL, Priority.LOW])
@pytest.mark.parametrize(("sender", "type_"), [("vip", ""), ("ann", "question"), ("vip", "question")])
def test_the_allowlist_has_slots_of_its_own_and_takes_them_first(
    thinning: Thinning, priority: Priority, sender: str, type_: str
) -> None:
    assert allowed(thinning, priority, sender, type_, times=3) == 3
    assert (thinning.allowlist_used, thinning.shared_used) == (3, 0)


def test_beyond_its_slots_the_allowlist_shares_with_all_others(thinning: Thinning) -> None:
    assert allowed(thinning, Priority.NORMAL, "vip", times=10) == 3 + 2
    assert allowed(thinning, Priority.NORMAL, "", "question", times=10) == 2
    assert thinning.senders == {"vip": 2}
    assert allowed(thinning, Priority.NORMAL, "ann", times=10) == 0


def test_a_full_window_still_has_room_for_the_allowlist(thinning: Thinning) -> None:
    taken(thinning, Priority.NORMAL, 10)
    assert allowed(thinning, Priority.NORMAL, "ann", "chat") == 0
    assert allowed(thinning, Priority.LOW, "vip") == 1


def test_the_next_window_has_the_slots_of_the_allowlist_again(thinning: Thinning) -> None:
    allowed(thinning, Priority.NORMAL, "vip", times=10)
    go_on(thinning)
    assert allowed(thinning, Priority.NORMAL, "vip", times=10) == 3 + 2


def test_gifts_take_none_of_the_slots_of_the_allowlist(thinning: Thinning) -> None:
    assert allowed(thinning, Priority.HIGH, "vip", times=9) == 9
    assert (thinning.reserved_used, thinning.shared_used, thinning.debt, thinning.allowlist_used) == (2, 4, 3, 0)


def test_nobody_else_gets_the_slots_of_the_allowlist(thinning: Thinning) -> None:
    assert allowed(thinning, Priority.NORMAL, "", "chat", times=10) == 4
    assert thinning.allowlist_used == 0


def test_every_reason_has_a_stage_and_a_word_of_its_own() -> None:
    assert [(reason.stage, reason.word) for reason in DropReason] == [
        ("policy", "window_full"),
        ("policy", "sender_cap"),
        ("policy", "degraded"),
        ("merge", "folds_full"),
        ("repeat", "keyed"),
        ("late", "too_old"),
    ]
