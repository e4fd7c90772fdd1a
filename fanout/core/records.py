"""Formats on the log and in the history: these bytes are a contract between versions and between processes.

A record is a fixed header ``u8 version, u8 kind, u8 class, u8 flags, u64 id`` (big endian, 12 bytes) and a msgpack
body. Bodies are arrays with fixed places: a newer version appends places, an older reader ignores what it does not
know, a newer reader fills what is missing with the default. A record whose first byte is ``{`` is JSON from a foreign
producer.

Lives here: structs, headers, encoding and decoding. Lives elsewhere: what is decided about a record (``policy``),
the state of a room (``room_state``).
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from fanout.core.errors import RecordError

VERSION: Final = 1
HEADER: Final = struct.Struct(">BBBBQ")
HEADER_BYTES: Final = HEADER.size
FOREIGN_FIRST_BYTE: Final = ord("{")

# Topics (the prefix can be set, so that several engines share one Kafka)
MESSAGES: Final = "messages"
MEMBERS: Final = "members"
TASKS: Final = "tasks"
CHUNKS: Final = "chunks"
DEAD: Final = "dead"
PARTITIONS: Final[dict[str, int]] = {MESSAGES: 64, MEMBERS: 64, TASKS: 64, CHUNKS: 256, DEAD: 1}

# Record kinds (header byte 1). 1-15 messages, 16-31 members, 32-47 tasks, 48-63 chunks.
MESSAGE: Final = 1
ATTACH: Final = 2
DETACH: Final = 3
ANNOUNCE: Final = 4
BUDGET: Final = 5
TICK: Final = 6
MODERATION: Final = 7
POLICY: Final = 8
JOINED: Final = 16  # Left is a tombstone: the same key without a value
TASK: Final = 32
CHUNK: Final = 48

# Flags (header byte 3)
KEYED: Final = 1  # carries a client's idempotency key
AUDIENCE: Final = 2  # for some, not for everybody: takes the way through tasks
MERGE: Final = 4  # is folded with others of its window
TRACKED: Final = 8  # the sender asks for the outcome
BINARY: Final = 16  # the payload is not JSON and reaches Protobuf sessions only

Counts = list[int]  # one count per class, index = Priority.value: SYSTEM, HIGH, NORMAL, LOW


class Merge(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How messages of a window are folded into one: ``latest``, ``sum`` or ``top`` ``n`` by ``value``."""

    key: str
    op: str
    value: float = 1.0
    n: int = 1


class Audience(msgspec.Struct, array_like=True, frozen=True):
    """Who gets a message that is not for everybody. Empty places do not restrict."""

    users: list[str] = []
    tags: str = ""
    roles: list[str] = []
    excepted: list[str] = []


class Message(msgspec.Struct, array_like=True, gc=False):
    """Body of a MESSAGE record. ``data`` is never parsed behind admission; ``sent_ms`` is the sender's wall clock."""

    data: bytes
    sender: str = ""
    type: str = ""
    sent_ms: int = 0
    parent: int = 0
    ttl_ms: int = 0
    key: str = ""
    tags: dict[str, str] | None = None
    merge: Merge | None = None
    audience: Audience | None = None


class Attach(msgspec.Struct, array_like=True, gc=False):
    """A gateway asks for a room (key = ``app/room``). ``instance`` tells two stays of a room on one slot apart."""

    slot: int
    generation: int
    instance: int


class RoomReport(msgspec.Struct, array_like=True, gc=False):
    """What one gateway did for one room since ``instance`` began: cumulative: a repeated report changes nothing.

    offered = written + dropped (all reasons) + pending, per class; ``unconfirmed`` is the part of written whose session
    never acknowledges. ``head`` is the newest stored offset that the gateway holds. ``taken`` are the publications by
    class that came to it since then: what was sent and is not among them is under way.
    """

    key: str
    instance: int
    head: int
    subscriptions: int
    offered: Counts
    written: Counts
    dropped: dict[str, Counts]
    pending: Counts
    unconfirmed: Counts
    users: int = 0
    taken: Counts = msgspec.field(default_factory=lambda: [0, 0, 0, 0])


class Detach(msgspec.Struct, array_like=True, gc=False):
    """A gateway gives a room up; the last report comes with it."""

    slot: int
    generation: int
    instance: int
    report: RoomReport | None = None


class Announce(msgspec.Struct, array_like=True, gc=False):
    """One per gateway, partition and ten seconds (no key): rooms changed or touched, with their reports."""

    slot: int
    generation: int
    pressure: int
    rooms: list[RoomReport]


class Budget(msgspec.Struct, array_like=True, gc=False):
    """Values that change decisions (no key, one per partition, at most one a second): room key → slots, members.

    ``degraded`` names those of them that are degraded from here on; the others are not, or not any more.
    """

    rooms: dict[str, tuple[int, int]]
    degraded: list[str] = []


class PolicyChange(msgspec.Struct, array_like=True, gc=False):
    """The policies of an app's rooms from here on (no key, one in each partition).

    ``version`` rises: one that is not above the version in force changes nothing. ``policies`` is JSON, namespace →
    fields of a Policy; a namespace that is not in it has its profile's.
    """

    app: str
    version: int
    policies: bytes


class Tick(msgspec.Struct, array_like=True, gc=False):
    """Says nothing (no key): its time ends the windows of merged messages in a partition that has fallen silent."""


class Moderation(msgspec.Struct, array_like=True, gc=False):
    """A command about a user or a message in a room: ``kick``, ``ban``, ``mute``, ``mute_all``, ``recall``, ..."""

    action: str
    user: str = ""
    message: int = 0
    until_ms: int = 0
    by: str = ""
    reason: str = ""
    excepted: list[str] = []


class Joined(msgspec.Struct, array_like=True, gc=False):
    """Durable membership (key ``app/room/user``) or presence (key ``app/room/user/slot``, with a generation)."""

    at_ms: int
    roles: list[str] = []
    tags: list[str] = []
    generation: int = 0


class Entry(msgspec.Struct, array_like=True, gc=False):
    """One publication, in a chunk and in the history.

    ``offset`` is the log offset of its source record + 1 (on the wire only for stored kinds), ``part`` its number among
    the publications of that record, ``kind`` and ``priority`` the values of Kind and Priority, ``prev`` the offset of
    the room's reliable publication before it, ``n`` the count of reliable publications up to and with it, ``at_ms`` the
    record time, ``sent_ms`` the sender's clock at admission (0 = unknown).
    """

    offset: int
    part: int
    kind: int
    priority: int
    prev: int
    n: int
    id: int
    at_ms: int
    sent_ms: int
    data: bytes
    sender: str = ""
    type: str = ""
    tags: dict[str, str] | None = None
    flags: int = 0


class Attached(msgspec.Struct, array_like=True, gc=False):
    """The worker's answer to Attach and to an Announce whose head differs: the room's position at that record."""

    instance: int
    head: int
    last: int
    floor: int
    n: int


class RoomBatch(msgspec.Struct, array_like=True, gc=False):
    """Publications of one room for one gateway, in log order.

    ``source`` (0 messages, 1 tasks) and ``partition`` say where the entries come from, ``owner`` is the generation of
    the worker that owns that partition, ``prev`` the room's last reliable offset before the batch, ``n`` its count
    there. ``sessions`` names the receivers where the batch is not for every subscription. ``thinned``, where it is
    said: a position, and how many messages of each class were thinned up to it, ever. ``degraded``, where the room is
    so: how many publications a client's history call gets at most (0: as many as ever).
    """

    key: str
    source: int
    partition: int
    owner: int
    epoch: str
    prev: int
    n: int
    entries: list[Entry]
    attached: Attached | None = None
    sessions: list[int] | None = None
    thinned: list[int] | None = None
    degraded: int | None = None


class Chunk(msgspec.Struct, array_like=True, gc=False):
    """What one worker has for one gateway out of one poll. The header's id is the slot's generation."""

    slot: int
    rooms: list[RoomBatch]


class RawRoomBatch(msgspec.Struct, array_like=True, gc=False):
    """RoomBatch on the way out: its entries were encoded once, for the chunks and for the history.

    ``entries`` is the msgpack of the whole array.
    """

    key: str
    source: int
    partition: int
    owner: int
    epoch: str
    prev: int
    n: int
    entries: msgspec.Raw
    attached: Attached | None = None
    sessions: list[int] | None = None
    thinned: list[int] | None = None
    degraded: int | None = None


class Parked(msgspec.Struct):
    """A record on the dead-letter topic (JSON, for people): where it came from, why it is here, and its bytes."""

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    at_ms: int
    key: str
    value: bytes


class Header(NamedTuple):
    """The fixed part of a record."""

    version: int
    kind: int
    priority: int
    flags: int
    id: int


T = TypeVar("T")
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODERS: Final[dict[type[Any], msgspec.msgpack.Decoder[Any]]] = {}


def encode(kind: int, body: msgspec.Struct, *, priority: int = 0, flags: int = 0, id: int = 0) -> bytes:
    """Return the bytes of a record."""
    return HEADER.pack(VERSION, kind, priority, flags, id) + _ENCODER.encode(body)


def encode_body(body: object) -> bytes:
    """Return the msgpack bytes of a struct without a header: room batches, history entries, room state."""
    return _ENCODER.encode(body)


def header(value: bytes) -> Header:
    """Return the header of a record; raises RecordError ``short_header`` or ``unknown_version``."""
    if len(value) < HEADER_BYTES:
        raise RecordError("short_header", f"a record has at least {HEADER_BYTES} bytes, this one {len(value)}")
    found = Header._make(HEADER.unpack_from(value))
    if found.version != VERSION:
        raise RecordError("unknown_version", f"this engine reads version {VERSION}, not {found.version}")
    return found


def body(value: bytes, of: type[T], start: int = HEADER_BYTES) -> T:
    """Return the body of a record as ``of``; raises RecordError ``undecodable``."""
    decoder = _DECODERS.get(of)
    if decoder is None:
        decoder = _DECODERS[of] = msgspec.msgpack.Decoder(of)
    try:
        return decoder.decode(value[start:])  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError("undecodable", f"{of.__name__}: {error}") from error


def decode_body(value: bytes, of: type[T]) -> T:
    """Return what ``encode_body`` encoded; raises RecordError ``undecodable``."""
    return body(value, of, 0)
