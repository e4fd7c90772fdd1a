from __future__ import annotations

from typing import Any

from loadtest import scenario as scenarios
from loadtest.tally import Seen, Sent
from loadtest.verdict import Report, complaints, failures, figures, settled

SCENARIO = scenarios.load("live_room", {"viewers": 10, "processes": 1})


def by_class(**counts: int) -> dict[str, int]:
    return {"system": 0, "high": 0, "normal": 0, "low": 0} | counts


def a_ledger(written: int = 20, pending: int = 0) -> dict[str, Any]:
    """Three messages accepted, two kept, for ten viewers."""
    return {
        "accepted": by_class(normal=3),
        "kept": by_class(normal=2),
        "merged": by_class(),
        "folds": by_class(),
        "dropped": {"room": {"window_full": by_class(normal=1)}},
        "edge": {
            "offered": by_class(normal=written + pending),
            "written": by_class(normal=written),
            "dropped": {},
            "pending": by_class(normal=pending),
            "unreported": by_class(),
            "unconfirmed": by_class(normal=written),
        },
    }


def a_report(deliveries: int = 20, **seen: Any) -> Report:
    latency = {5: deliveries}
    return Report(Seen(sessions=10, deliveries=deliveries, latency_ms=latency, **seen), Sent({"normal": 3}), 0.5)


def test_a_run_in_which_everybody_tells_the_same_passes() -> None:
    found = figures(SCENARIO, a_ledger(), a_report())
    assert complaints(a_ledger(), a_report()) == []
    assert failures(SCENARIO, found) == []
    assert (found["p99_ms"], found["lost"], found["ledger_error"], found["kept"]) == (5, 0, 0, 2)


def test_a_delivery_that_was_written_but_not_seen_is_lost() -> None:
    found = figures(SCENARIO, a_ledger(), a_report(deliveries=19))
    assert found["lost"] == 1
    assert failures(SCENARIO, found) == ["lost is 1, the mark is 0"]


def test_a_delivery_that_was_seen_but_not_written_is_an_error_of_the_ledger() -> None:
    (sentence,) = complaints(a_ledger(), a_report(deliveries=21))
    assert "written are only 20" in sentence


def test_a_ledger_that_does_not_add_up_is_an_error() -> None:
    ledger = a_ledger()
    ledger["kept"]["normal"] = 1
    assert len(complaints(ledger, a_report())) == 2  # accepted ≠ fates, and kept × sessions ≠ offered


def test_messages_that_the_api_accepted_and_the_ledger_does_not_know_are_an_error() -> None:
    report = a_report()
    report.sent.accepted["high"] = 1
    (sentence,) = complaints(a_ledger(), report)
    assert "the API accepted" in sentence


def test_a_closed_socket_and_one_that_never_came_fail_the_mark() -> None:
    found = figures(SCENARIO, a_ledger(), a_report(closed={3001: 1}))
    assert found["closed"] == 1
    report = a_report()
    report.seen.sessions, report.seen.failed = 9, 1
    assert figures(SCENARIO, a_ledger(), report)["closed"] == 1


def test_a_run_without_deliveries_fails() -> None:
    assert "nothing was delivered" in failures(SCENARIO, figures(SCENARIO, a_ledger(0), a_report(0)))


def test_the_ledger_is_settled_when_nothing_is_pending_and_all_that_was_seen_is_reported() -> None:
    assert settled(a_ledger(), a_report())
    assert not settled(a_ledger(written=19), a_report())
    assert not settled(a_ledger(written=20, pending=1), a_report())
