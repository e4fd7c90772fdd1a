"""Lateness: a message that is older than its class allows is not delivered any more. Pure.

A worker that stood still for a minute finds a minute of chat that nobody wants to read at once. What is too old is
skipped by its header, so that the backlog drains quickly and the room is live again; SYSTEM and HIGH are never too old.
It is the only decision that looks at the wall clock, against the record's time: a replay may find too old what the
owner before it kept, and each message has the fate that was stored for it.
"""

from __future__ import annotations

from typing import Final

from fanout.core.profiles import Policy

Before = tuple[int, int, int, int]  # by class: record times (Unix ms) below are too old; 0 = none is

NEVER: Final[Before] = (0, 0, 0, 0)


def late_before(policy: Policy, now_ms: int) -> Before:
    """Return from which record time on messages are young enough, by class; ``now_ms`` is the wall clock, Unix ms.

    A clock that is behind the broker's finds nothing late.
    """
    normal_ms, low_ms = policy.late_normal_ms, policy.late_low_ms
    return (0, 0, now_ms - normal_ms if normal_ms else 0, now_ms - low_ms if low_ms else 0)
