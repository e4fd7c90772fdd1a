"""What a sender can learn about one message: its fate, for ten minutes. Pure.

Kept for messages that ask for it (``track``), and for one in about a thousand of the others, picked by their place on
the log: who looks into a complaint has a sample of everything. Lives elsewhere: what the fate is (``policy``, the room
worker).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from fanout.core.limits import OUTCOME_SHARDS

_SHARDING: Final = 1_000_003  # a prime: the low bits of ids are nodes and counters, which are mostly alike


class Fate(Enum):
    """What became of a message; the value is the word told."""

    KEPT = "kept"
    MERGED = "merged"
    DROPPED = "dropped"
    PENDING = "pending"  # on the log, not decided yet


class Outcome(msgspec.Struct, array_like=True, frozen=True):
    """The fate of one message, as stored.

    ``class_`` is the header byte of its class, ``at_ms`` its record time (the sender's clock while it is pending),
    ``offset`` its position where it has one (else 0), ``stage`` and ``reason`` say why it was dropped, ``deliveries``
    is the number of subscriptions that gateways had last reported when it was kept.
    """

    room: str
    at_ms: int
    fate: str
    class_: int
    offset: int = 0
    stage: str = ""
    reason: str = ""
    deliveries: int = 0


def shard_of(id: int) -> int:
    """Return the part of its app's outcomes that a message's belongs to."""
    return id % _SHARDING % OUTCOME_SHARDS
