"""The store's twin: history, epochs, keys, leases and members in the memory of one process.

The rules are those of ``adapters/scripts``; the contract suite and a property test hold the two together.
Unlike Redis it keeps nothing across a restart, each call is one step that never waits, its clock is the injected one
(so leases, keys and rooms end by it), and ``MemoryState.available`` takes it away and gives it back.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import Final

import msgspec

from fanout.adapters.memory_configs import MemoryConfigs
from fanout.adapters.memory_ledgers import Books
from fanout.adapters.memory_rooms import Room, within
from fanout.core.errors import FanoutError, Fenced, Unavailable
from fanout.core.limits import HISTORY_META_S, POLICIES_KEPT_MAX
from fanout.core.policies import PolicyAt
from fanout.ports import (
    Claim,
    Clock,
    Earlier,
    HistoryBatch,
    HistoryPage,
    Lease,
    MemberChange,
    MemberPage,
    NotedOutcome,
    PoliciesSet,
    RoomMeta,
    Store,
    StoredLedger,
)

_OFFSET: Final = attrgetter("offset")
_AT_MS: Final = attrgetter("at_ms")


@dataclass(slots=True)
class _Shard:
    """Members of one room shard; ``order`` holds the users, sorted, for the pages."""

    members: dict[str, bytes] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    applied: int = 0


@dataclass(slots=True, weakref_slot=True, eq=False)
class MemoryState:
    """Everything one twin holds. Stores that share a state see the same data, as clients of one Redis do.

    Of more than ``rooms_max`` rooms or ``keys_max`` idempotency keys the oldest goes.
    """

    available: bool = True
    rooms_max: int = 100_000
    keys_max: int = 1_000_000
    rooms: OrderedDict[tuple[str, str], Room] = field(default_factory=OrderedDict)
    books: Books = field(default_factory=Books)
    epochs: dict[int, Claim] = field(default_factory=dict)
    configs: dict[str, PoliciesSet] = field(default_factory=dict)
    keys: OrderedDict[tuple[str, str], tuple[Earlier, int]] = field(default_factory=OrderedDict)
    leases: dict[str, dict[int, Lease]] = field(default_factory=dict)
    pools_born_ms: dict[str, int] = field(default_factory=dict)
    shard_counts: dict[str, int] = field(default_factory=dict)
    shards: dict[tuple[str, int], _Shard] = field(default_factory=dict)
    marks: dict[int, int] = field(default_factory=dict)

    def check(self) -> None:
        """Raise Unavailable where the store was taken away."""
        if not self.available:
            raise Unavailable("the store in memory was taken away")

    def flush(self) -> None:
        """Forget everything, as FLUSHALL does (for tests and simulations)."""
        for part in (self.rooms, self.epochs, self.keys, self.leases, self.shard_counts, self.shards, self.marks):
            part.clear()
        self.books.clear()
        self.configs.clear()
        self.pools_born_ms.clear()


class MemoryHistory:
    """``ports.History`` in memory."""

    def __init__(self, state: MemoryState, clock: Clock) -> None:
        self._state = state
        self._clock = clock

    async def load(self, rooms: Sequence[tuple[str, str]]) -> Sequence[RoomMeta | None]:
        """Return the meta of (key, epoch) pairs."""
        self._state.check()
        now_ms = self._clock.wall_ms()
        found = [self._room(key, epoch, now_ms) for key, epoch in rooms]
        return [room.meta(now_ms, state=True, keyed=True) if room is not None else None for room in found]

    async def store(self, batches: Sequence[HistoryBatch]) -> Sequence[BaseException | None]:
        """Store batches; per batch None or what went wrong."""
        results: list[BaseException | None] = []
        for batch in batches:
            try:
                self._store(batch)
            except FanoutError as error:
                results.append(error)
            else:
                results.append(None)
        return results

    def _store(self, batch: HistoryBatch) -> None:
        self._state.check()
        if batch.openings or batch.outcomes:
            self._state.books.note(batch)
        rooms, now_ms = self._state.rooms, self._clock.wall_ms()
        room = self._room(batch.key, batch.epoch, now_ms) or Room(batch.epoch)
        room.store(batch)
        room.gone_ms = now_ms + max(batch.reliable_ttl_ms, batch.recent_ttl_ms) + HISTORY_META_S * 1_000
        rooms[batch.key, batch.epoch] = room
        rooms.move_to_end((batch.key, batch.epoch))
        while len(rooms) > self._state.rooms_max or next(iter(rooms.values())).gone_ms < now_ms:
            rooms.popitem(last=False)

    def _room(self, key: str, epoch: str, now_ms: int) -> Room | None:
        room = self._state.rooms.get((key, epoch))
        return room if room is not None and room.gone_ms >= now_ms else None

    async def read(
        self, key: str, epoch: str, *, after: int, limit: int, bytes_max: int, reverse: bool = False
    ) -> HistoryPage:
        """Return entries beyond ``after``; at least one where there is one, however large."""
        self._state.check()
        now_ms = self._clock.wall_ms()
        room = self._room(key, epoch, now_ms)
        if room is None:
            return HistoryPage(None, [], truncated=False)
        if limit <= 0:
            return HistoryPage(room.meta(now_ms, state=True, keyed=False), [], truncated=False)
        found = room.read(now_ms, after, reverse=reverse)
        entries = within([entry.encoded for entry in found[:limit]], bytes_max)
        meta = room.meta(now_ms, state=False, keyed=False)
        return HistoryPage(meta, entries, truncated=len(entries) < len(found))


class MemoryEpochs:
    """``ports.Epochs`` in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def claim(self, partition: int, log_end: int, wall_ms: int, fresh_epoch: str) -> Claim:
        """Take a partition over."""
        self._state.check()
        before = self._state.epochs.get(partition)
        owner = max(before.owner + 1, wall_ms) if before else wall_ms
        renewed = before is None or log_end < before.highest
        if before is None or renewed:
            newest = {at.app: at._replace(offset=-1) for at in (before.policies if before else ())}
            claim = Claim(fresh_epoch, owner, 0, renewed, tuple(newest.values()))
        else:
            claim = before._replace(owner=owner, renewed=False)
        self._state.epochs[partition] = claim
        return claim

    async def saw(self, partition: int, owner: int, highest: int, told: int = 0) -> None:
        """Raise the highest offset seen; raises Fenced for an older owner, and where the store has lost the claim, or
        what it was told."""
        before = self._owned(partition, owner)
        if before.highest < told:
            raise Fenced(f"partition {partition}: the store has forgotten that {told} was seen")
        self._state.epochs[partition] = before._replace(owner=owner, highest=max(before.highest, highest))

    async def keep_policy(self, partition: int, owner: int, at: PolicyAt) -> None:
        """Keep the policies that a record brought; raises Fenced for an older owner, and where the claim is lost."""
        before = self._owned(partition, owner)
        mine = {one.offset: one for one in before.policies if one.app == at.app}
        mine.setdefault(at.offset, at)
        below = [offset for offset in mine if offset < before.highest]
        kept = sorted(offset for offset in mine if not below or offset >= max(below))[-POLICIES_KEPT_MAX:]
        others = [one for one in before.policies if one.app != at.app]
        policies = sorted([*others, *(mine[offset] for offset in kept)], key=lambda one: (one.app, one.offset))
        self._state.epochs[partition] = before._replace(policies=tuple(policies))

    def _owned(self, partition: int, owner: int) -> Claim:
        self._state.check()
        before = self._state.epochs.get(partition)
        if before is None or before.owner > owner:
            raise Fenced(f"partition {partition} is owned by {before.owner if before else 'nobody'}, not by {owner}")
        return before

    async def current(self, partition: int) -> str | None:
        """Return the epoch, or None."""
        self._state.check()
        claim = self._state.epochs.get(partition)
        return claim and claim.epoch

    def lose(self, partition: int) -> None:
        """Forget a partition's epoch, as a store does that comes back from an old copy; for tests and simulations."""
        self._state.epochs.pop(partition, None)


class MemoryKeys:
    """``ports.Keys`` in memory."""

    def __init__(self, state: MemoryState, clock: Clock) -> None:
        self._state = state
        self._clock = clock

    async def claim(self, room: str, key: str, id: int, digest: bytes, ttl_s: int) -> Earlier | None:
        """Store (id, digest) under the key and return None, or return what stands there."""
        self._state.check()
        keys, now_ms = self._state.keys, self._clock.wall_ms()
        found = keys.get((room, key))
        if found is not None and found[1] > now_ms:
            return found[0]
        while keys and (len(keys) >= self._state.keys_max or next(iter(keys.values()))[1] <= now_ms):
            keys.popitem(last=False)
        keys[room, key] = (Earlier(id, None, digest), now_ms + ttl_s * 1_000)
        keys.move_to_end((room, key))
        return None

    async def settle(self, room: str, key: str, id: int, offset: int, ttl_s: int) -> None:
        """Note where the record of ``id`` stands; does nothing when the key is another's or has expired."""
        self._state.check()
        now_ms = self._clock.wall_ms()
        found = self._state.keys.get((room, key))
        if found is not None and found[1] > now_ms and found[0].id == id:
            self._state.keys[room, key] = (found[0]._replace(offset=offset), now_ms + ttl_s * 1_000)
            self._state.keys.move_to_end((room, key))


class MemoryLeases:
    """``ports.Leases`` in memory. A lease stays in the table's state after its end, for its generation."""

    def __init__(self, state: MemoryState, clock: Clock) -> None:
        self._state = state
        self._clock = clock

    async def acquire(self, pool: str, size: int, holder: str, address: str, wall_ms: int, ttl_ms: int) -> Lease | None:
        """Lease the number that has been free longest (never leased first), or return None."""
        self._state.check()
        now_ms = self._clock.wall_ms()
        held = self._state.leases.setdefault(pool, {})
        free_ms, number = min((held[n].expires_ms if n in held else 0, n) for n in range(size))
        if free_ms > now_ms:
            return None
        generation = max(held[number].generation + 1, wall_ms) if number in held else wall_ms
        used_ms = held[number].used_ms if number in held else 0
        held[number] = Lease(pool, number, generation, holder, address, now_ms + ttl_ms, used_ms)
        pool_age_ms = now_ms - self._state.pools_born_ms.setdefault(pool, now_ms)
        return msgspec.structs.replace(held[number], pool_age_ms=pool_age_ms)

    async def renew(self, lease: Lease, ttl_ms: int, used_ms: int = 0) -> bool:
        """Prolong; False when a higher generation holds the number. A lease that the store has lost stands again."""
        self._state.check()
        held = self._state.leases.setdefault(lease.pool, {})
        if lease.number in held:
            used_ms = max(used_ms, held[lease.number].used_ms)
        now_ms = self._clock.wall_ms()
        self._state.pools_born_ms.setdefault(lease.pool, now_ms)
        if lease.number in held and held[lease.number].generation > lease.generation:
            held[lease.number] = msgspec.structs.replace(held[lease.number], used_ms=used_ms)
            return False
        expires_ms = now_ms + ttl_ms
        held[lease.number] = msgspec.structs.replace(lease, expires_ms=expires_ms, used_ms=used_ms, pool_age_ms=0)
        return True

    async def release(self, lease: Lease, used_ms: int | None = None) -> None:
        """Give the number back."""
        self._state.check()
        held = self._state.leases.get(lease.pool, {})
        if lease.number in held and held[lease.number].generation == lease.generation:
            used_ms = held[lease.number].used_ms if used_ms is None else used_ms
            now_ms = self._clock.wall_ms()
            held[lease.number] = Lease(lease.pool, lease.number, lease.generation, "", "", now_ms, used_ms)

    async def table(self, pool: str) -> Mapping[int, Lease]:
        """Return the unexpired leases by number."""
        self._state.check()
        now_ms = self._clock.wall_ms()
        return {n: lease for n, lease in self._state.leases.get(pool, {}).items() if lease.expires_ms > now_ms}


class MemoryLedgers:
    """``ports.Ledgers`` in memory."""

    def __init__(self, state: MemoryState, clock: Clock) -> None:
        self._state = state
        self._clock = clock

    async def read(self, rooms: Sequence[tuple[str, str]]) -> Sequence[StoredLedger | None]:
        """Return what is stored of the ledgers of (key, epoch) pairs."""
        self._state.check()
        now_ms = self._clock.wall_ms()
        found = [self._state.rooms.get(place) for place in rooms]
        return [
            StoredLedger(room.state, [*room.openings.values()]) if room and room.gone_ms >= now_ms else None
            for room in found
        ]

    async def rooms(self, app: str, epoch: str, since_ms: int = 0) -> Sequence[str]:
        """Return the keys of an app's rooms in which a span has begun since."""
        self._state.check()
        return self._state.books.rooms(app, epoch, since_ms)

    async def expect(self, app: str, outcomes: Sequence[NotedOutcome]) -> None:
        """Note what is known of messages that have just been appended."""
        self._state.check()
        self._state.books.expect(app, outcomes)

    async def outcome(self, app: str, id: int) -> bytes | None:
        """Return the outcome of a message."""
        self._state.check()
        return self._state.books.outcome(app, id, self._clock.wall_ms())


class MemoryMembers:
    """``ports.Members`` in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def shards(self, room: str, wanted: int) -> int:
        """Return the room's number of shards; the first caller with ``wanted`` > 0 fixes it."""
        self._state.check()
        if wanted > 0:
            return self._state.shard_counts.setdefault(room, wanted)
        return self._state.shard_counts.get(room, 0)

    async def apply(self, room: str, shard: int, changes: Sequence[MemberChange], applied: int) -> None:
        """Write changes of one shard; changes nothing where ``applied`` is not above what stands."""
        self._state.check()
        held = self._state.shards.setdefault((room, shard), _Shard())
        if applied <= held.applied:
            return
        held.applied = applied
        for user, joined in changes:
            if joined is None and held.members.pop(user, None) is not None:
                del held.order[bisect_left(held.order, user)]
            elif joined is not None:
                if user not in held.members:
                    insort(held.order, user)
                held.members[user] = joined

    async def mark(self, partition: int, applied: int) -> None:
        """Note that everything before ``applied`` of a members partition is written."""
        self._state.check()
        self._state.marks[partition] = applied

    async def marked(self, partition: int) -> int | None:
        """Return the mark, or None."""
        self._state.check()
        return self._state.marks.get(partition)

    async def contains(self, room: str, shard: int, user: str) -> bool:
        """True where the user is a member."""
        self._state.check()
        held = self._state.shards.get((room, shard))
        return held is not None and user in held.members

    async def page(self, room: str, shard: int, start_user: str, limit: int) -> MemberPage:
        """Return up to ``limit`` members from ``start_user`` on, in the order of the user ids' bytes."""
        self._state.check()
        held = self._state.shards.get((room, shard), _Shard())
        start = bisect_left(held.order, start_user)
        users = list(islice(held.order, start, start + limit + 1))
        following = users[limit] if len(users) > limit else None
        return MemberPage([(user, held.members[user]) for user in users[:limit]], following)

    async def count(self, room: str, shards: int) -> int:
        """Return the members of all shards."""
        self._state.check()
        return sum(len(self._state.shards[room, n].members) for n in range(shards) if (room, n) in self._state.shards)


class MemoryBackend:
    """``ports.StoreBackend`` in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def ping(self) -> None:
        """Return, or raise Unavailable when the store was taken away."""
        self._state.check()

    async def close(self) -> None:
        """Do nothing: other stores may share the state, and it ends with the last of them."""


def memory_store(clock: Clock, state: MemoryState | None = None) -> Store:
    """Return a store in memory, on a state of its own or on the given one."""
    held = state if state is not None else MemoryState()
    return Store(
        history=MemoryHistory(held, clock),
        epochs=MemoryEpochs(held),
        keys=MemoryKeys(held, clock),
        leases=MemoryLeases(held, clock),
        members=MemoryMembers(held),
        ledgers=MemoryLedgers(held, clock),
        configs=MemoryConfigs(held),
        backend=MemoryBackend(held),
    )
