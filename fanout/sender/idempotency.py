"""Idempotency keys: a repeated publish gets the first one's id, and where that is known its position, appended once.

The key → id stands in the store before the append, (id, offset) after it. Between the two nobody can know whether the
log has the record, so a repeat appends again under the same id and the room worker drops what comes second.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from fanout.core.errors import IDEMPOTENCY_CONFLICT, Refused, Unavailable
from fanout.core.limits import IDEMPOTENCY_S
from fanout.core.messages import PRIORITIES, Priority
from fanout.core.records import Message, encode_body
from fanout.ports import Keys
from fanout.runtime.metrics import MESSAGES_REPEATED

_DIGEST_BYTES: Final = 16


class Claimed(NamedTuple):
    """``id`` and class to publish under; ``offset`` of the record where it is on the log (then nothing is appended).

    ``idempotent`` False: the store did not answer, so the key is not remembered and a repeat would be a second message.
    """

    id: int
    offset: int | None
    idempotent: bool
    priority: Priority


def digest(message: Message, asked: Priority) -> bytes:
    """Return what tells two bodies under one key apart: everything the caller said, not when."""
    tags = sorted((message.tags or {}).items())
    merge = () if message.merge is None else (message.merge,)
    said = (asked.value, message.data, message.sender, message.type, message.parent, message.ttl_ms, tags, *merge)
    return hashlib.blake2b(encode_body(said), digest_size=_DIGEST_BYTES).digest()


class KeyedPublishes:
    """Claims and settles keys in the store."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def claim(self, room: str, key: str, id: int, body: bytes, priority: Priority) -> Claimed:
        """Claim ``key`` in ``room`` (``app/room``) for ``id``; raises Refused ``idempotency_conflict``.

        The class stands behind the digest: a repeat is the first one's, though the quota of HIGH is used up by now.
        """
        said = body + bytes((priority.value,))
        try:
            earlier = await self._keys.claim(room, key, id, said, IDEMPOTENCY_S)
        except Unavailable:
            MESSAGES_REPEATED.labels("unknown").inc()
            return Claimed(id, None, False, priority)
        if earlier is None:
            return Claimed(id, None, True, priority)
        if earlier.digest[:-1] != body:
            raise Refused(IDEMPOTENCY_CONFLICT, "id: it came with another body in the last 10 minutes")
        MESSAGES_REPEATED.labels("appended_again" if earlier.offset is None else "answered").inc()
        return Claimed(earlier.id, earlier.offset, True, PRIORITIES[earlier.digest[-1]])

    async def settle(self, room: str, key: str, id: int, offset: int) -> None:
        """Note where the record stands. Without an answer a repeat is appended again and dropped by the worker."""
        try:
            await self._keys.settle(room, key, id, offset, IDEMPOTENCY_S)
        except Unavailable:
            MESSAGES_REPEATED.labels("unsettled").inc()
