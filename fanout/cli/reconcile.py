"""Does a room's ledger add up, with itself and with what senders and viewers counted?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fanout.core.ledger import differences


@dataclass(frozen=True, slots=True)
class Witness:
    """What was counted outside the engine: answered publishes, and deliveries by viewers.

    ``stayed``: all of them, all the time. Of those who were cut off nobody knows what was on its way to them, and what
    they came back for was offered anew.
    """

    accepted: int
    viewers: int
    received: int
    stayed: bool = True


def total(counts: Mapping[str, int]) -> int:
    """Return the sum over the classes."""
    return sum(counts.values())


def sent(ledger: Mapping[str, Any]) -> int:
    """Return the publications that went to gateways: messages that were kept, and what merged ones became."""
    return total(ledger["kept"]) + total(ledger["folds"])


def dropped_before(ledger: Mapping[str, Any]) -> dict[str, int]:
    """Return messages dropped before the gateways, by ``stage reason``."""
    return {
        f"{stage} {reason}": total(counts)
        for stage, reasons in ledger["dropped"].items()
        for reason, counts in reasons.items()
    }


def dropped_at_edge(ledger: Mapping[str, Any]) -> dict[str, int]:
    """Return deliveries that gateways did not make, by reason."""
    return {reason: total(counts) for reason, counts in ledger["edge"]["dropped"].items()}


def reported(ledger: Mapping[str, Any], witness: Witness) -> bool:
    """True once the gateways have told everything: each publication was offered to every viewer and has a fate."""
    edge = ledger["edge"]
    told = total(edge["offered"]) >= sent(ledger) * witness.viewers if witness.stayed else True
    return told and total(edge["written"]) >= witness.received and total(edge["pending"]) == 0


def errors(ledger: Mapping[str, Any], witness: Witness) -> list[str]:
    """Return a sentence for everything that does not add up; empty: it reconciles."""
    found = differences(ledger)
    accepted = total(ledger["accepted"])
    if accepted != witness.accepted:
        found.append(f"senders were answered {witness.accepted} times, the ledger accepted {accepted}")
    written = total(ledger["edge"]["written"])
    if written != witness.received and (witness.stayed or written < witness.received):
        found.append(f"gateways wrote {written} deliveries, viewers received {witness.received}")
    offered = total(ledger["edge"]["offered"])
    if witness.stayed and offered != sent(ledger) * witness.viewers:
        found.append(
            f"{sent(ledger)} publications × {witness.viewers} viewers are not the {offered} deliveries offered"
        )
    return found
