"""The store on Redis ≥ 7: history, epochs, keys, leases, members. The rules stand in ``scripts/*.lua``.

Keys, after the prefix: ``{app/room}:epoch:{meta,rel,rec,keyed}`` (braces: one hash tag per room, one cluster slot),
``rooms:{app/epoch}``, ``outcomes:{app/<shard>}:{all,order}``, ``epoch:<partition>``, ``key:{app/room}:<key>``,
``lease:{<pool>}[:born]``, ``shards:<room>``, ``members:{<room>#<shard>}:{all,order,applied}``, ``mark:<partition>``,
``{config}:{versions,policies}``. Numbers are below 2^53, because Lua knows doubles only; message ids, which are larger,
go as bytes or text.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from fanout.adapters.redis_client import (
    CONFIG_GET,
    CONFIG_LOGGED,
    CONFIG_PUT,
    CONFIG_VERSIONS,
    EPOCH_CLAIM,
    EPOCH_POLICY,
    EPOCH_SAW,
    HISTORY_READ,
    HISTORY_STORE,
    KEY_SETTLE,
    LEASE_ACQUIRE,
    LEASE_SET,
    LEASE_TABLE,
    MEMBERS_APPLY,
    MEMBERS_PAGE,
    AnyClient,
    Call,
    Script,
    connect,
)
from fanout.adapters.redis_ledgers import RedisLedgers, opening_field, pack_opening, room_base
from fanout.core.errors import Fenced, Unavailable
from fanout.core.limits import HISTORY_META_S, IDEMPOTENCY_S, KEYED_IDS_MAX, POLICIES_KEPT_MAX
from fanout.core.policies import PolicyAt
from fanout.ports import (
    Claim,
    Clock,
    Earlier,
    HistoryBatch,
    HistoryPage,
    KeyedId,
    Lease,
    MemberChange,
    MemberPage,
    PoliciesSet,
    RoomMeta,
    Store,
)

_PAIR: Final = struct.Struct(">QQ")
_NUMBER: Final = struct.Struct(">Q")
_META_MS: Final = HISTORY_META_S * 1_000
_KEYED_MS: Final = IDEMPOTENCY_S * 1_000
_encode: Final = msgspec.msgpack.Encoder().encode
_FORGOTTEN: Final = -2  # an answer of epoch_saw.lua
_decode_policies: Final = msgspec.msgpack.Decoder(list[tuple[int, int, str]]).decode
_decode_lease: Final = msgspec.msgpack.Decoder(tuple[int, int, str, str, int]).decode


async def _one(client: AnyClient, script: Script, key: str, *arguments: object, blobs: Sequence[bytes] = ()) -> Any:
    """Run a script once; raises Unavailable, also where the script failed."""
    return _checked((await client.run(script, [(key.encode(), _encode(arguments), *blobs)]))[0])


class RedisHistory:
    """``ports.History``: per room two streams, a meta hash and a sorted set of keyed ids, on one hash tag."""

    def __init__(self, client: AnyClient, prefix: str, clock: Clock, ledgers: RedisLedgers) -> None:
        self._client = client
        self._prefix = prefix
        self._clock = clock
        self._ledgers = ledgers

    async def load(self, rooms: Sequence[tuple[str, str]]) -> Sequence[RoomMeta | None]:
        """Return the meta of (key, epoch) pairs, in one pipeline; raises Unavailable."""
        question = _encode((0, 0, 0, 0, self._clock.wall_ms(), 1, 1))
        answers = await self._client.run(HISTORY_READ, [(self._key(key, epoch), question) for key, epoch in rooms])
        return [_meta(epoch, _checked(answer)) for (_, epoch), answer in zip(rooms, answers, strict=True)]

    async def store(self, batches: Sequence[HistoryBatch]) -> Sequence[BaseException | None]:
        """Store batches, pipelined; per batch None or what went wrong."""
        try:
            await self._ledgers.note(batches)
        except Unavailable as error:
            return [error] * len(batches)
        answers = await self._client.run(HISTORY_STORE, [_batch(self._key(b.key, b.epoch), b) for b in batches])
        # 0 is by far the most frequent answer: no call for it
        return [
            None if answer == 0 else _refusal(batch, answer) for batch, answer in zip(batches, answers, strict=True)
        ]

    async def read(
        self, key: str, epoch: str, *, after: int, limit: int, bytes_max: int, reverse: bool = False
    ) -> HistoryPage:
        """Return entries beyond ``after``; at least one where there is one, however large. Raises Unavailable."""
        limit = max(0, limit)
        now_ms, with_state = self._clock.wall_ms(), int(limit == 0)
        question = _encode((after, limit, bytes_max, int(reverse), now_ms, with_state, 0))
        (answer,) = await self._client.run(HISTORY_READ, [(self._key(key, epoch), question)])
        found = _checked(answer)
        if found is None:
            return HistoryPage(None, [], truncated=False)
        return HistoryPage(_meta(epoch, found), found[8], truncated=bool(found[9]))

    def _key(self, key: str, epoch: str) -> bytes:
        return room_base(self._prefix, key, epoch)


def _batch(key: bytes, batch: HistoryBatch) -> Call:
    """Return the call of ``history_store.lua``."""
    entries, keyed = batch.entries, batch.keyed
    numbers = (
        batch.owner,
        batch.head,
        batch.last,
        batch.n,
        batch.applied,
        batch.now_ms,
        batch.reliable_max,
        batch.reliable_ttl_ms,
        batch.recent_max,
        batch.recent_ttl_ms,
        [(entry.offset, entry.kind, entry.prev, entry.at_ms) for entry in entries],
        [one.at_ms for one in keyed],
        _META_MS,
        _KEYED_MS,
        KEYED_IDS_MAX,
        [opening_field(one.at_ms) for one in batch.openings] if batch.openings else (),
    )
    call = [key, _encode(numbers), batch.state]
    call += [entry.encoded for entry in entries]
    if keyed:
        call += [_PAIR.pack(one.id, one.offset) for one in keyed]
    if batch.openings:
        call += [pack_opening(one) for one in batch.openings]
    return tuple(call)


def _refusal(batch: HistoryBatch, answer: object) -> BaseException:
    if isinstance(answer, int):
        return Fenced(f"{batch.key}: owner {answer} has been here, {batch.owner} is older")
    return answer if isinstance(answer, Unavailable) else Unavailable(f"redis: {answer}")


def _checked(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer if isinstance(answer, Unavailable) else Unavailable(f"redis: {answer}")
    return answer


def _meta(epoch: str, answer: list[Any] | None) -> RoomMeta | None:
    """Return the meta out of an answer of ``history_read.lua``."""
    if answer is None:
        return None
    head, last, floor, n, applied, owner, state, flat = answer[:8]
    scored = zip(flat[::2], flat[1::2], strict=True)
    keyed = tuple(KeyedId(*_ids(member), at_ms=int(at_ms)) for member, at_ms in scored)
    return RoomMeta(epoch, head, last, floor, n, applied, owner, state, keyed)


def _ids(member: bytes) -> tuple[int, int]:
    """Return (message id, offset) of a member of the sorted set."""
    id, offset = _PAIR.unpack(member)
    return id, offset


class RedisEpochs:
    """``ports.Epochs``: a hash per partition."""

    def __init__(self, client: AnyClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def claim(self, partition: int, log_end: int, wall_ms: int, fresh_epoch: str) -> Claim:
        """Take a partition over; raises Unavailable."""
        answer = await _one(self._client, EPOCH_CLAIM, self._key(partition), log_end, wall_ms, fresh_epoch)
        epoch, owner, highest, renewed, kept = answer
        policies = tuple(at for app, packed in sorted(_pairs(kept)) for at in _policies_at(app.decode(), packed))
        return Claim(epoch.decode(), owner, highest, bool(renewed), policies)

    async def saw(self, partition: int, owner: int, highest: int, told: int = 0) -> None:
        """Raise the highest offset seen; raises Fenced for an older owner, and where the store has lost the claim, or
        what it was told."""
        stored = await _one(self._client, EPOCH_SAW, self._key(partition), owner, highest, told)
        if stored == _FORGOTTEN:
            raise Fenced(f"partition {partition}: the store has forgotten that {told} was seen")
        _check_owner(partition, owner, stored)

    async def keep_policy(self, partition: int, owner: int, at: PolicyAt) -> None:
        """Keep the policies that a record brought; raises Unavailable, and Fenced as ``saw`` does."""
        numbers = (owner, at.app, at.offset, at.version, POLICIES_KEPT_MAX)
        stored = await _one(self._client, EPOCH_POLICY, self._key(partition), *numbers, blobs=(at.policies,))
        _check_owner(partition, owner, stored)

    async def current(self, partition: int) -> str | None:
        """Return the epoch, or None; raises Unavailable."""
        epoch = await self._client.command(b"HGET", self._key(partition), b"epoch")
        return epoch.decode() if epoch is not None else None

    def _key(self, partition: int) -> str:
        return f"{self._prefix}:epoch:{partition}"


def _check_owner(partition: int, owner: int, stored: int) -> None:
    if stored:
        raise Fenced(f"partition {partition} is owned by {stored if stored > 0 else 'nobody'}, not by {owner}")


def _pairs(flat: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _policies_at(app: str, packed: bytes) -> list[PolicyAt]:
    """Return what ``epoch_policy.lua`` has packed for an app."""
    return [PolicyAt(app, offset, version, text.encode()) for offset, version, text in _decode_policies(packed)]


class RedisConfigs:
    """``ports.Configs``: two hashes by app, versions apart, so that a look at all of them is small."""

    def __init__(self, client: AnyClient, prefix: str) -> None:
        self._client = client
        self._base = f"{prefix}:{{config}}"

    async def versions(self) -> Mapping[str, tuple[int, int]]:
        """Return (version, logged) by app; raises Unavailable."""
        flat = await _one(self._client, CONFIG_VERSIONS, self._base)
        return {app.decode(): _versions(text) for app, text in _pairs(flat)}

    async def get(self, app: str) -> PoliciesSet | None:
        """Return what an app has set, or None; raises Unavailable."""
        found = await _one(self._client, CONFIG_GET, self._base, app)
        return PoliciesSet(*_versions(found[0]), found[1]) if found is not None else None

    async def put(self, app: str, previous: int, version: int, policies: bytes) -> bool:
        """Set, where the version is still ``previous``; raises Unavailable."""
        return bool(await _one(self._client, CONFIG_PUT, self._base, app, previous, version, blobs=(policies,)))

    async def logged(self, app: str, version: int) -> None:
        """Note that a version is on all partitions; raises Unavailable."""
        await _one(self._client, CONFIG_LOGGED, self._base, app, version)


def _versions(text: bytes) -> tuple[int, int]:
    version, logged = text.split()
    return int(version), int(logged)


class RedisKeys:
    """``ports.Keys``: a string per key: id, offset + 1 (0 = not confirmed), digest."""

    def __init__(self, client: AnyClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def claim(self, room: str, key: str, id: int, digest: bytes, ttl_s: int) -> Earlier | None:
        """Store (id, digest) under the key and return None, or return what stands there; raises Unavailable."""
        value = _PAIR.pack(id, 0) + digest
        found = await self._client.command(b"SET", self._key(room, key), value, b"NX", b"GET", b"EX", ttl_s)
        if found is None:
            return None
        earlier, place = _PAIR.unpack_from(found)
        return Earlier(earlier, place - 1 if place else None, found[_PAIR.size :])

    async def settle(self, room: str, key: str, id: int, offset: int, ttl_s: int) -> None:
        """Note where the record of ``id`` stands; raises Unavailable."""
        number, place = _NUMBER.pack(id), _NUMBER.pack(offset + 1)
        await _one(self._client, KEY_SETTLE, self._key(room, key), ttl_s * 1_000, blobs=(number, place))

    def _key(self, room: str, key: str) -> str:
        return f"{self._prefix}:key:{{{room}}}:{key}"


class RedisLeases:
    """``ports.Leases``: a hash per pool; the clock is Redis's own."""

    def __init__(self, client: AnyClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def acquire(self, pool: str, size: int, holder: str, address: str, wall_ms: int, ttl_ms: int) -> Lease | None:
        """Lease the number that has been free longest, or return None; raises Unavailable."""
        key = self._key(pool)
        answer = await _one(self._client, LEASE_ACQUIRE, key, size, holder, address, wall_ms, ttl_ms)
        if answer is None:
            return None
        number, generation, expires_ms, used_ms, pool_age_ms = answer
        return Lease(pool, number, generation, holder, address, expires_ms, used_ms, pool_age_ms)

    async def renew(self, lease: Lease, ttl_ms: int, used_ms: int = 0) -> bool:
        """Prolong; False when a higher generation holds the number; raises Unavailable."""
        return bool(await self._set(lease, ttl_ms, used_ms))

    async def release(self, lease: Lease, used_ms: int | None = None) -> None:
        """Give the number back; raises Unavailable."""
        await self._set(lease, 0, -1 if used_ms is None else used_ms)

    async def _set(self, lease: Lease, ttl_ms: int, used_ms: int) -> int:
        fields = (lease.number, lease.generation, lease.holder, lease.address, ttl_ms, used_ms)
        return int(await _one(self._client, LEASE_SET, self._key(lease.pool), *fields))

    async def table(self, pool: str) -> Mapping[int, Lease]:
        """Return the unexpired leases by number; raises Unavailable."""
        now_ms, flat = await _one(self._client, LEASE_TABLE, self._key(pool))
        found = {}
        for number, packed in zip(flat[::2], flat[1::2], strict=True):
            generation, expires_ms, holder, address, used_ms = _decode_lease(packed)
            if expires_ms > now_ms:
                found[int(number)] = Lease(pool, int(number), generation, holder, address, expires_ms, used_ms)
        return found

    def _key(self, pool: str) -> str:
        return f"{self._prefix}:lease:{{{pool}}}"


class RedisMembers:
    """``ports.Members``: per room shard a hash of the members, and their order for the pages."""

    def __init__(self, client: AnyClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    async def shards(self, room: str, wanted: int) -> int:
        """Return the room's number of shards; raises Unavailable."""
        key = f"{self._prefix}:shards:{{{room}}}"
        if wanted <= 0:
            return int(await self._client.command(b"GET", key) or 0)
        return int(await self._client.command(b"SET", key, wanted, b"NX", b"GET") or wanted)

    async def apply(self, room: str, shard: int, changes: Sequence[MemberChange], applied: int) -> None:
        """Write changes of one shard; raises Unavailable."""
        flat = [part for user, joined in changes for part in (user, joined is not None)]
        blobs = [joined for _, joined in changes if joined is not None]
        await _one(self._client, MEMBERS_APPLY, self._key(room, shard), applied, flat, blobs=blobs)

    async def mark(self, partition: int, applied: int) -> None:
        """Note that everything before ``applied`` of a members partition is written; raises Unavailable."""
        await self._client.command(b"SET", f"{self._prefix}:mark:{partition}", applied)

    async def marked(self, partition: int) -> int | None:
        """Return the mark, or None; raises Unavailable."""
        mark = await self._client.command(b"GET", f"{self._prefix}:mark:{partition}")
        return int(mark) if mark is not None else None

    async def contains(self, room: str, shard: int, user: str) -> bool:
        """True where the user is a member; raises Unavailable."""
        return bool(await self._client.command(b"HEXISTS", f"{self._key(room, shard)}:all", user))

    async def page(self, room: str, shard: int, start_user: str, limit: int) -> MemberPage:
        """Return up to ``limit`` members from ``start_user`` on, in the order of the user ids' bytes."""
        flat = await _one(self._client, MEMBERS_PAGE, self._key(room, shard), start_user, limit)
        following = flat.pop().decode() if len(flat) % 2 else None
        items = [(user.decode(), joined) for user, joined in zip(flat[::2], flat[1::2], strict=True)]
        return MemberPage(items, following)

    async def count(self, room: str, shards: int) -> int:
        """Return the members of all shards; raises Unavailable."""
        if shards <= 0:
            return 0
        counts = await self._client.commands([(b"HLEN", f"{self._key(room, shard)}:all") for shard in range(shards)])
        return sum(counts)

    def _key(self, room: str, shard: int) -> str:
        return f"{self._prefix}:members:{{{room}#{shard}}}"


def redis_store(url: str, *, prefix: str, clock: Clock) -> Store:
    """Return a store on ``redis://``, ``rediss://``, ``redis+cluster://`` or ``rediss+cluster://``.

    ``clock`` decides which history entries have expired; leases and keys go by Redis's clock.
    """
    client = connect(url)
    ledgers = RedisLedgers(client, prefix, clock)
    return Store(
        history=RedisHistory(client, prefix, clock, ledgers),
        epochs=RedisEpochs(client, prefix),
        keys=RedisKeys(client, prefix),
        leases=RedisLeases(client, prefix),
        members=RedisMembers(client, prefix),
        ledgers=ledgers,
        configs=RedisConfigs(client, prefix),
        backend=client,
    )
