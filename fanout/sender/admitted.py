"""A message between admission and its append, and how a batch of them is cut into appends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fanout.core import records
from fanout.core.limits import APPEND_BYTES_MAX, APPEND_RECORDS_MAX
from fanout.core.messages import Priority
from fanout.core.outcome import Fate, Outcome
from fanout.core.records import MESSAGE, Message
from fanout.ports import NotedOutcome
from fanout.sender.appender import KeyedValue
from fanout.sender.idempotency import Claimed


class Place(NamedTuple):
    """Where a room's records go; ``key`` is ``app/room``."""

    key: str
    key_bytes: bytes
    partition: int


class Admitted(NamedTuple):
    """A checked message with its id and its class. ``asked`` is the class that its publisher named, ``client_user``
    owns its idempotency key where a client sent it.
    """

    room: str
    place: Place
    id: int
    message: Message
    priority: Priority
    asked: Priority
    flags: int
    client_user: str = ""
    claimed: Claimed | None = None

    @property
    def key(self) -> str:
        """The idempotency key in the store: a client's is its user's own, so that nobody can take another's."""
        return f"{self.client_user}\n{self.message.key}" if self.client_user else self.message.key

    def pending(self) -> NotedOutcome:
        """Return the outcome until a room worker has decided."""
        at_ms = self.message.sent_ms
        outcome = Outcome(self.room, at_ms, Fate.PENDING.value, self.priority.value)
        return NotedOutcome(self.id, at_ms, records.encode_body(outcome))

    def record(self) -> KeyedValue:
        """Return key and value of the record."""
        value = records.encode(MESSAGE, self.message, priority=self.priority.value, flags=self.flags, id=self.id)
        return self.place.key_bytes, value


class Part(NamedTuple):
    """What one append takes: the messages' numbers in their batch, and their records."""

    partition: int
    indexes: list[int]
    records: list[KeyedValue]


def parts(batch: Iterable[tuple[int, Admitted]]) -> Iterator[Part]:
    """Cut a numbered batch into appends: one partition each, in order, within the bounds of an append."""
    open_parts: dict[int, Part] = {}
    sizes: dict[int, int] = {}
    for index, admitted in batch:
        key, value = record = admitted.record()
        partition, size = admitted.place.partition, len(key or b"") + len(value or b"")
        part = open_parts.get(partition)
        if part is not None and (len(part.indexes) >= APPEND_RECORDS_MAX or sizes[partition] + size > APPEND_BYTES_MAX):
            yield part
            part = None
        if part is None:
            part = open_parts[partition] = Part(partition, [], [])
            sizes[partition] = 0
        part.indexes.append(index)
        part.records.append(record)
        sizes[partition] += size
    yield from open_parts.values()
