"""Thinning: which messages of a loud room become publications. Pure, O(1) a message, decided in log order.

Per window of record time (200 ms) a room has ``reserved_slots`` that only HIGH may take and ``shared_slots`` for all.
HIGH beyond its own takes shared slots of this window, then of the next ones: its debt, capped at five windows' shared
slots. NORMAL and LOW get what HIGH left, LOW only in the first half of it, so that likes never crowd chat out of a
window; what users or types on the allowlist say takes ``allowlist_slots`` of its own before. SYSTEM and HIGH are kept
in any case and SYSTEM takes no slot.

Lives here: why a message is dropped before the gateways, and the state of the windows. Lives elsewhere: who counts it
(``ledger``), what stands in the store (``room_state``), drops at the gateways.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from fanout.core.messages import Priority
from fanout.core.profiles import Policy

WINDOW_MS: Final = 200
DEBT_WINDOWS_MAX: Final = 5  # a flood of gifts silences chat for at most one second after it ends

_SYSTEM: Final = Priority.SYSTEM
_HIGH: Final = Priority.HIGH
_LOW: Final = Priority.LOW


REPEAT: Final = "repeat"  # the stage of what stands already: nobody misses it


class DropReason(Enum):
    """Every fate before the gateways that is no publication: (stage, reason), as in the ledger and in metrics."""

    WINDOW_FULL = ("policy", "window_full")  # no slot of the window is left for its class
    SENDER_CAP = ("policy", "sender_cap")  # its sender has had its share of this window
    DEGRADED = ("policy", "degraded")  # its type is off in a room of this size
    FOLDS_FULL = ("merge", "folds_full")  # more keys or larger payloads than a room folds in a window
    KEYED = (REPEAT, "keyed")  # the same idempotency key stands at a lower position
    LATE = ("late", "too_old")  # older than its class allows when the worker came to it

    def __init__(self, stage: str, word: str) -> None:
        self.stage = stage
        self.word = word

    __hash__ = object.__hash__  # Enum's own is written in Python: 120 ns for each message that is dropped


# To look a member up on its class takes 80 ns in Python 3.11, a message dropped by a loud room 300.
_WINDOW_FULL: Final = DropReason.WINDOW_FULL
_SENDER_CAP: Final = DropReason.SENDER_CAP


class Thinning(msgspec.Struct, array_like=True, gc=False):
    """Where a room stands in its windows; part of its stored state, fixed places.

    ``clock_ms`` is the room's record clock, ``window`` the number of the open window, ``senders`` the shared slots that
    each sender has taken in it (at most ``shared_slots`` names), ``debt`` the shared slots of later windows that HIGH
    has taken already, ``allowlist_used`` the slots of the allowlist. ``high_full_at_us`` is the ``quota`` bucket of
    what foreign producers say as HIGH, in record time.
    """

    clock_ms: int = 0
    window: int = 0
    reserved_used: int = 0
    shared_used: int = 0
    debt: int = 0
    senders: dict[str, int] | None = None
    allowlist_used: int = 0
    high_full_at_us: int = 0


def take_slot(
    thinning: Thinning, policy: Policy, shared_slots: int, priority: Priority, sender: str, type_: str
) -> DropReason | None:
    """Take a slot for a message at ``thinning.clock_ms``; return why there is none, or None: it is kept.

    ``shared_slots`` is the value in force (Budget records change it). An empty ``sender`` is
    nobody in particular and has no cap; the cap counts shared slots only.
    """
    window = thinning.clock_ms // WINDOW_MS
    if window > thinning.window:
        _open(thinning, window, shared_slots)
    if priority is _HIGH:
        _take_high(thinning, policy.reserved_slots, shared_slots)
        return None
    if priority is _SYSTEM:
        return None
    if (policy.allowlist_users or policy.allowlist_types) and _take_allowlisted(thinning, policy, sender, type_):
        return None
    left_for = (shared_slots + 1) // 2 if priority is _LOW else shared_slots
    if thinning.shared_used >= left_for:
        return _WINDOW_FULL
    if sender:
        senders = thinning.senders
        if senders is None:
            senders = thinning.senders = {}
        taken = senders.get(sender, 0)
        if taken >= policy.sender_slots_max:
            return _SENDER_CAP
        senders[sender] = taken + 1
    thinning.shared_used += 1
    return None


def _open(thinning: Thinning, window: int, shared_slots: int) -> None:
    # Windows nobody spoke in pay debt as well: it is time that the clients had for themselves.
    idle = window - thinning.window - 1
    debt = max(0, min(thinning.debt, DEBT_WINDOWS_MAX * shared_slots) - idle * shared_slots)
    paid = min(debt, shared_slots)
    thinning.window = window
    thinning.reserved_used = 0
    thinning.shared_used = paid
    thinning.debt = debt - paid
    thinning.senders = None
    thinning.allowlist_used = 0


def _take_allowlisted(thinning: Thinning, policy: Policy, sender: str, type_: str) -> bool:
    is_named = sender in policy.allowlist_users or type_ in policy.allowlist_types
    if not is_named or thinning.allowlist_used >= policy.allowlist_slots:
        return False
    thinning.allowlist_used += 1
    return True


def _take_high(thinning: Thinning, reserved_slots: int, shared_slots: int) -> None:
    if thinning.reserved_used < reserved_slots:
        thinning.reserved_used += 1
    elif thinning.shared_used < shared_slots:
        thinning.shared_used += 1
    elif thinning.debt < DEBT_WINDOWS_MAX * shared_slots:
        thinning.debt += 1
