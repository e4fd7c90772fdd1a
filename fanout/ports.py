"""What the engine needs from the world, as small Protocols. Adapters: ``memory`` (the twins), ``kafka``, ``redis``.

Every method that talks to a server raises ``Unavailable`` when the server does not answer within the adapter's bound;
nothing is known then about what the server did. One contract suite (``tests/contract``) runs over all adapters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import msgspec

from fanout.core.ledger_spans import Opening
from fanout.core.policies import PolicyAt
from fanout.core.records import PARTITIONS

# --- the log ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Topics:
    """Which topics this engine uses: a prefix, so that several engines share one Kafka, and the partition counts.

    Counts are fixed at creation: keys are hashed over them, so another count would be another order.
    """

    prefix: str = "fanout"
    partitions: Mapping[str, int] = field(default_factory=lambda: dict(PARTITIONS))

    def name(self, topic: str) -> str:
        """Return the name of a topic on the log, with the prefix."""
        return f"{self.prefix}.{topic}"


class LogRecord(Protocol):
    """A record as read. ``timestamp`` is the broker's append time in ms; the shape is aiokafka's: nothing is copied.

    Its partition stands beside it, where it was polled.
    """

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


class Appended(NamedTuple):
    """Where a record (or the first of a batch) went."""

    partition: int
    offset: int
    at_ms: int


class LogWriter(Protocol):
    """Appends; what has returned is on the log with the acks of this writer. Order per partition is call order."""

    async def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> Appended:
        """Append one record. Raises Unavailable when the log does not take it in time (it may still have it)."""

    async def append_many(
        self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None]]
    ) -> Appended:
        """Append records that stand next to one another in the partition; returns the place of the first."""

    async def close(self) -> None: ...


class LogReader(Protocol):
    """Reads partitions that were named by hand (a gateway reads its own chunk partition)."""

    async def poll(self, records_max: int, timeout_s: float) -> Mapping[int, Sequence[LogRecord]]:
        """Return records by partition, in order; empty after ``timeout_s``. Raises OutOfRange, Unavailable."""

    def position(self, partition: int) -> int:
        """Return the log offset of the next record that ``poll`` will return."""

    def seek(self, partition: int, offset: int) -> None: ...

    async def close(self) -> None: ...


class Assignment(Protocol):
    """Told about partitions that come and go. Called inside the rebalance: must not await, only note and pause."""

    def assigned(self, partitions: Iterable[int]) -> None: ...
    def revoked(self, partitions: Iterable[int]) -> None: ...


class GroupReader(LogReader, Protocol):
    """Reads the partitions that the group gives to this process."""

    def pause(self, partitions: Iterable[int]) -> None: ...
    def resume(self, partitions: Iterable[int]) -> None: ...

    async def committed(self, partition: int) -> int | None:
        """Return the log offset of the first record that no owner has finished, or None before the first commit."""

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Store offsets (next to read) for partitions that this process still owns; raises Fenced where it does not."""


class Log(Protocol):
    """Topics with numbered partitions: Kafka, or the twin. Topic names come without the prefix."""

    async def writer(self, *, durable: bool) -> LogWriter:
        """``durable``: acks=all through an idempotent producer; else acks=1, linger 0 (chunks)."""

    async def reader(self, topic: str, partitions: Sequence[int]) -> LogReader:
        """Read named partitions from their end; ``seek`` moves."""

    async def group_reader(self, topic: str, group: str, assignment: Assignment) -> GroupReader:
        """Join a group; partitions arrive through ``assignment``, from the committed offset, else the earliest."""

    async def ends(self, topic: str, partitions: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        """Return (earliest offset, end = offset of the next record) of each partition."""

    async def offset_at(self, topic: str, partition: int, at_ms: int) -> int:
        """Return the offset of the first record whose time is at or after ``at_ms``; the end where there is none."""

    def partitions(self, topic: str) -> int:
        """Return the partition count of a topic, as fixed at its creation."""

    async def ping(self) -> None:
        """Return when the log answers; raises Unavailable."""

    async def close(self) -> None: ...


# --- the store -------------------------------------------------------------------------------------------------------


class RoomMeta(NamedTuple):
    """A room in the history. ``head`` newest stored offset, ``last`` newest reliable, ``floor``: from here on the chain
    is whole, ``n`` reliable publications ever, ``applied`` the last record offset + 1 that ``state`` contains."""

    epoch: str
    head: int
    last: int
    floor: int
    n: int
    applied: int
    owner: int
    state: bytes
    keyed: Sequence[KeyedId] = ()


class KeyedId(NamedTuple):
    """A message id that came with an idempotency key, and where it stands; a later record with it is a repeat."""

    id: int
    offset: int
    at_ms: int


class NotedOutcome(NamedTuple):
    """What became of a message; ``encoded`` is the msgpack of a core.outcome.Outcome of ``at_ms``."""

    id: int
    at_ms: int
    encoded: bytes


class HistoryEntry(msgspec.Struct, frozen=True, gc=False):
    """A publication for the history: ``encoded`` is the msgpack of a records.Entry."""

    offset: int
    kind: int
    prev: int
    at_ms: int
    encoded: bytes


class HistoryBatch(msgspec.Struct, frozen=True, gc=False):  # a Struct: made once per room and poll, 5 × faster
    """All that one poll changes in one room, stored in one step. ``keyed`` are the ids that this batch adds,
    ``openings`` the spans of its ledger that begin in it, ``outcomes`` the fates of messages that may be asked for.

    Entries at or below the stored head are skipped (a replay). The batch is fenced when the stored owner generation is
    higher. ``reliable_max`` and ``reliable_ttl_ms`` (``recent_…``) bound the streams; age is counted from ``now_ms``,
    the newest record time of the batch. Meta outlives the last entry by at least 7 days.
    """

    key: str
    epoch: str
    owner: int
    head: int
    last: int
    n: int
    applied: int
    state: bytes
    entries: Sequence[HistoryEntry]
    now_ms: int
    reliable_max: int
    reliable_ttl_ms: int
    recent_max: int
    recent_ttl_ms: int
    keyed: Sequence[KeyedId] = ()
    openings: Sequence[Opening] = ()
    outcomes: Sequence[NotedOutcome] = ()


class HistoryPage(NamedTuple):
    """Entries after a position, oldest first (or newest first when reversed); ``meta`` None = the room is unknown.

    ``truncated``: more entries follow beyond the limit.
    """

    meta: RoomMeta | None
    entries: Sequence[bytes]
    truncated: bool


class History(Protocol):
    """Durable recent publications and the state of rooms. Keys carry the epoch: another epoch is another room."""

    async def load(self, rooms: Sequence[tuple[str, str]]) -> Sequence[RoomMeta | None]:
        """Return the meta of (key, epoch) pairs, in one pipeline; ``state`` and ``keyed`` (of 10 min) included."""

    async def store(self, batches: Sequence[HistoryBatch]) -> Sequence[BaseException | None]:
        """Store batches, pipelined; per batch None or what went wrong (Fenced, Unavailable)."""

    async def read(
        self, key: str, epoch: str, *, after: int, limit: int, bytes_max: int, reverse: bool = False
    ) -> HistoryPage:
        """Return reliable and recent entries, merged by offset, with offset > ``after`` (reverse: < ``after``, 0 = from
        the newest). ``limit`` 0 returns the meta alone. Expired entries are left out. In the
        meta ``keyed`` is left empty; ``state`` comes only with ``limit`` 0."""


class StoredLedger(NamedTuple):
    """A room's state and the openings of its spans, of one moment; the newest ``LEDGER_SPANS`` of them, unordered."""

    state: bytes
    openings: Sequence[Opening]


class Ledgers(Protocol):
    """Reading what the history's batches have brought: counts of rooms, and outcomes of single messages.

    Openings are stored with the state, in one step. Before a batch that has some its room is listed, and before a batch
    that has outcomes they are noted; a batch for which that failed is not stored, so it comes again.
    """

    async def read(self, rooms: Sequence[tuple[str, str]]) -> Sequence[StoredLedger | None]:
        """Return what is stored of the ledgers of (key, epoch) pairs, in one pipeline; None = the room is unknown."""

    async def rooms(self, app: str, epoch: str, since_ms: int = 0) -> Sequence[str]:
        """Return the keys of an app's rooms of one epoch (that is one partition) in which a span of the ledger has
        begun at ``since_ms`` or later; at most ``ROOMS_LISTED_MAX``, those silent longest are left out."""

    async def expect(self, app: str, outcomes: Sequence[NotedOutcome]) -> None:
        """Note what is known of messages that have just been appended; changes nothing where an outcome stands."""

    async def outcome(self, app: str, id: int) -> bytes | None:
        """Return the outcome of a message, for ``OUTCOME_S`` from its ``at_ms``; of more than ``OUTCOMES_MAX`` of an
        app the oldest have gone."""


class Claim(NamedTuple):
    """What a take-over found and set for a partition. ``policies`` by rising offset, app by app."""

    epoch: str
    owner: int
    highest: int
    renewed: bool
    policies: tuple[PolicyAt, ...] = ()


class Epochs(Protocol):
    """Incarnation of each partition of ``messages``, and who owns it."""

    async def claim(self, partition: int, log_end: int, wall_ms: int, fresh_epoch: str) -> Claim:
        """Take a partition over, in one script: owner = max(previous + 1, wall_ms); where no epoch stands, or the log
        ends below the highest offset seen, ``fresh_epoch`` becomes the epoch (``renewed``), highest 0, and of the
        policies the newest of each app holds from log offset -1, before everything."""

    async def saw(self, partition: int, owner: int, highest: int, told: int = 0) -> None:
        """Raise the highest offset seen (log offset + 1); raises Fenced for an older owner, and where the store has
        lost the claim (it was emptied) or stands below ``told``, the last that it has answered (it failed over to
        older data): claim again, and begin where it stands."""

    async def keep_policy(self, partition: int, owner: int, at: PolicyAt) -> None:
        """Keep the policies that a record brought, for the next owner; raises Fenced as ``saw`` does.

        Those of the app that nobody can begin at any more leave: all but the newest below the highest offset seen, and
        the oldest beyond POLICIES_KEPT_MAX. What stands at that offset already is left as it is."""

    async def current(self, partition: int) -> str | None:
        """Return the epoch, or None before the first owner."""


class Earlier(NamedTuple):
    """A publish with the same idempotency key came before. ``offset`` None: its append has not been confirmed."""

    id: int
    offset: int | None
    digest: bytes


class Keys(Protocol):
    """Idempotency keys of senders, per room, for ``ttl_s``."""

    async def claim(self, room: str, key: str, id: int, digest: bytes, ttl_s: int) -> Earlier | None:
        """Store (id, digest) under the key and return None, or return what stands there."""

    async def settle(self, room: str, key: str, id: int, offset: int, ttl_s: int) -> None:
        """Note where the record of ``id`` stands."""


class Lease(msgspec.Struct, frozen=True):
    """A time-limited right to a number of a pool. ``holder`` is free text (host:pid), ``address`` where to reach it.

    ``used_ms`` is the newest time (Unix ms) that holders of the number have reserved for what they number with it: a
    new holder of an id node begins above it. 0 = the store knows of none. ``pool_age_ms`` (told by ``acquire``) is how
    long the store has known the pool: when that is less than half a TTL, it may have been emptied, and holders of
    before, whom it no longer knows, may still believe in their leases.
    """

    pool: str
    number: int
    generation: int
    holder: str
    address: str
    expires_ms: int
    used_ms: int = 0
    pool_age_ms: int = 0


SLOTS: Final = "slots"
NODES: Final = "nodes"


class Leases(Protocol):
    """Two pools: ``SLOTS`` (chunk partitions of gateways) and ``NODES`` (of ids). The store's clock counts."""

    async def acquire(self, pool: str, size: int, holder: str, address: str, wall_ms: int, ttl_ms: int) -> Lease | None:
        """Lease a free or expired number, the one that has been free longest;
        generation = max(previous + 1, wall_ms). None when all are taken."""

    async def renew(self, lease: Lease, ttl_ms: int, used_ms: int = 0) -> bool:
        """Prolong, and raise ``used_ms``; False when a higher generation holds the number (the caller is fenced; its
        ``used_ms`` counts all the same: the successor may not have known of it)."""

    async def release(self, lease: Lease, used_ms: int | None = None) -> None:
        """Give the number back, with the ``used_ms`` for the next holder where that is known exactly (None leaves what
        was reserved); does nothing when another generation holds it."""

    async def table(self, pool: str) -> Mapping[int, Lease]:
        """Return the unexpired leases by number."""


class MemberChange(NamedTuple):
    """``joined`` None = left."""

    user: str
    joined: bytes | None


class MemberPage(NamedTuple):
    """Members (user, encoded Joined) in key order; ``next_user`` is where the next page begins, or None."""

    items: Sequence[tuple[str, bytes]]
    next_user: str | None


class Members(Protocol):
    """Durable member lists, one hash per room shard, with the log position up to which they are written."""

    async def shards(self, room: str, wanted: int) -> int:
        """Return the room's number of shards; the first caller with ``wanted`` > 0 fixes it. 0 = no such room yet."""

    async def apply(self, room: str, shard: int, changes: Sequence[MemberChange], applied: int) -> None:
        """Write changes of one shard whose records end at log offset ``applied`` - 1; older ones change nothing."""

    async def mark(self, partition: int, applied: int) -> None:
        """Note that everything before log offset ``applied`` of a members partition is written."""

    async def marked(self, partition: int) -> int | None:
        """Return the mark, or None where no owner has set one."""

    async def contains(self, room: str, shard: int, user: str) -> bool: ...

    async def page(self, room: str, shard: int, start_user: str, limit: int) -> MemberPage: ...

    async def count(self, room: str, shards: int) -> int: ...


class PoliciesSet(NamedTuple):
    """An app's policies (JSON) as they were last set; ``logged`` is the last version known to be on all partitions."""

    version: int
    logged: int
    policies: bytes


class Configs(Protocol):
    """What apps have set: the wish. What acts in a room is the record that brought it there."""

    async def versions(self) -> Mapping[str, tuple[int, int]]:
        """Return (version, logged) by app, of all apps that have ever set something."""

    async def get(self, app: str) -> PoliciesSet | None:
        """Return what an app has set, or None."""

    async def put(self, app: str, previous: int, version: int, policies: bytes) -> bool:
        """Set, where the version is still ``previous`` (0 = nothing was set); False where it is another."""

    async def logged(self, app: str, version: int) -> None:
        """Note that a version is on all partitions; a lower one than is noted changes nothing."""


@dataclass(frozen=True, slots=True)
class Store:
    """The shared state, one adapter for all of it."""

    history: History
    epochs: Epochs
    keys: Keys
    leases: Leases
    members: Members
    ledgers: Ledgers
    configs: Configs
    backend: StoreBackend


class StoreBackend(Protocol):
    """The connection behind a Store."""

    async def ping(self) -> None:
        """Return when the store answers; raises Unavailable."""

    async def close(self) -> None: ...


class Clock(Protocol):
    """The only source of time for shells; pure code gets what it returns."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970, UTC."""

    def monotonic_s(self) -> float:
        """Seconds of a clock that never goes back."""
