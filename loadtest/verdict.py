"""Whether the sockets, the publishers and the engine's ledger tell the same story. Pure.

    accepted by the API      = accepted in the ledger             (the room is new in each run)
    sent × viewers           = offered by the gateways            (nobody came or left while messages flowed)
    written by the gateways  = deliveries that the sockets counted

The last two hold exactly where no socket was closed by the engine; where one was, what it missed is bounded by its
messages and the run fails by the mark ``closed`` anyway.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fanout.core.ledger import differences
from loadtest.scenario import Scenario
from loadtest.tally import Seen, Sent, quantile


class Report(msgspec.Struct):
    """What locust's master wrote."""

    seen: Seen
    sent: Sent
    connect_s: float


def settled(ledger: dict[str, Any], report: Report) -> bool:
    """True where the gateways have reported all that the sockets saw; reports come within 10 s."""
    edge = ledger["edge"]
    return _sum(edge["pending"]) == 0 and _sum(edge["written"]) >= report.seen.deliveries > 0


def complaints(ledger: dict[str, Any], report: Report) -> list[str]:
    """Return a sentence for each sum that does not add up."""
    found = differences(ledger)
    accepted = {word: count for word, count in ledger["accepted"].items() if count}
    if accepted != report.sent.accepted:
        found.append(f"the API accepted {report.sent.accepted}, the ledger knows {accepted}")
    if not report.seen.closed and not report.seen.failed:
        due = (_sum(ledger["kept"]) + _sum(ledger["folds"])) * report.seen.sessions
        offered = _sum(ledger["edge"]["offered"])
        if due != offered:
            found.append(f"sent × sessions is {due}, offered is {offered}")
    written = _sum(ledger["edge"]["written"])
    if written < report.seen.deliveries:
        found.append(f"the sockets counted {report.seen.deliveries} deliveries, written are only {written}")
    return found


def figures(scenario: Scenario, ledger: dict[str, Any], report: Report) -> dict[str, Any]:
    """Return the figures of the run, those with marks among them by the marks' names."""
    seen, sent = report.seen, report.sent
    return {
        "viewers": seen.sessions,
        "connect_s": report.connect_s,
        "accepted": sum(sent.accepted.values()),
        "kept": _sum(ledger["kept"]),
        "deliveries": seen.deliveries,
        "deliveries_per_s": round(seen.deliveries / scenario.seconds),
        "written": _sum(ledger["edge"]["written"]),
        "bytes": seen.bytes,
        "late_publishes": sent.late,
        "p50_ms": quantile(seen.latency_ms, 0.5),
        "p99_ms": quantile(seen.latency_ms, 0.99),
        "lost": max(0, _sum(ledger["edge"]["written"]) - seen.deliveries),
        "doubled": seen.doubled,
        "disordered": seen.disordered,
        "refused": sum(sent.refused.values()),
        "closed": sum(seen.closed.values()) + scenario.viewers - seen.sessions,
        "ledger_error": len(complaints(ledger, report)),
    }


def failures(scenario: Scenario, found: dict[str, Any]) -> list[str]:
    """Return a sentence for each mark that was missed; a run without deliveries has missed its purpose."""
    missed = []
    for name, highest in msgspec.to_builtins(scenario.marks).items():
        if found[name] > highest:
            missed.append(f"{name} is {found[name]}, the mark is {highest}")
    if not found["deliveries"]:
        missed.append("nothing was delivered")
    return missed


def _sum(by_class: dict[str, int]) -> int:
    return sum(by_class.values())
