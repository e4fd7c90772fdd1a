"""Durable members of a room: changes go through the ``members`` log and are answered once they are applied.

A user added here may subscribe when the answer has come: the call waits for the mark that the owner of the members
partition sets behind these records. Where the mark does not come in time the answer is 503; to repeat the call is safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from fanout.core import records
from fanout.core.errors import BAD_REQUEST, LIMIT_EXCEEDED, UNAVAILABLE, UNKNOWN_ROOM, Refused
from fanout.core.limits import (
    CURSOR_TTL_S,
    MEMBER_SHARDS,
    MEMBERS_APPLIED_TIMEOUT_S,
    MEMBERS_PER_CALL_MAX,
    RETRY_AFTER_S,
)
from fanout.core.messages import check_room, check_user, room_key
from fanout.core.profiles import Profiles
from fanout.core.records import JOINED, MEMBERS, Joined, decode_body
from fanout.ports import Clock, Log, LogWriter, Store
from sharding.paging import Cursor, seal, unseal
from sharding.placement import partition_of, shard_key, shard_of

LABELS_MAX: Final = 16  # roles, and tags, of one member
LABEL_BYTES_MAX: Final = 64
_ASK_FIRST_S: Final = 0.005
_ASK_LAST_S: Final = 0.1


class MemberSpec(msgspec.Struct, forbid_unknown_fields=True):
    """One member with what audiences may select them by."""

    user: str
    roles: list[str] = []
    tags: list[str] = []


class MembersBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of PUT and DELETE ``/v1/rooms/{room}/members``: up to 10,000 user ids, or objects with roles and tags."""

    users: list[str | MemberSpec]


class MembersChanged(msgspec.Struct):
    """``users`` were written; they count from now on."""

    room: str
    users: int


class MemberItem(msgspec.Struct):
    """A member and since when."""

    user: str
    joined_ms: int
    roles: list[str]
    tags: list[str]


class MembersPage(msgspec.Struct):
    """A page; ``next`` is the ``cursor`` of the next one, or null. The order is the engine's own."""

    items: list[MemberItem]
    next: str | None


class MemberLists:
    """Changes and pages of durable member lists. ``writer`` is the sender's durable one."""

    def __init__(self, *, log: Log, store: Store, writer: LogWriter, profiles: Profiles, clock: Clock) -> None:
        self._log, self._store, self._profiles, self._clock = log, store, profiles, clock
        self._writer = writer

    async def put(self, app: str, room: str, users: Sequence[str | MemberSpec]) -> None:
        """Add users, or give them other roles and tags; returns when they count. Raises Refused, Unavailable."""
        specs = self._check(room, users)
        at_ms = self._clock.wall_ms()
        joined = {spec.user: records.encode(JOINED, Joined(at_ms, spec.roles, spec.tags)) for spec in specs}
        await self._change(app, room, joined, wanted=MEMBER_SHARDS)

    async def delete(self, app: str, room: str, users: Sequence[str | MemberSpec]) -> None:
        """Remove users; returns when they no longer count. Raises Refused, Unavailable."""
        specs = self._check(room, users)
        await self._change(app, room, {spec.user: None for spec in specs}, wanted=0)

    async def page(self, app: str, room: str, *, cursor: str, limit: int, key: bytes) -> MembersPage:
        """Return the next ``limit`` members; ``key`` seals the cursors. Raises Refused, Unavailable."""
        self._check_room(room)
        name = room_key(app, room)
        now_ms = self._clock.wall_ms()
        at: Cursor | None = unseal(key, name, cursor, now_ms) if cursor else Cursor(0, "")
        shards = await self._shards(name, wanted=0)
        items: list[MemberItem] = []
        while at is not None and at.shard < shards and len(items) < limit:
            page = await self._store.members.page(name, at.shard, at.user, limit - len(items))
            items += [_item(user, encoded) for user, encoded in page.items]
            at = Cursor(at.shard, page.next_user) if page.next_user is not None else Cursor(at.shard + 1, "")
        more = at is not None and at.shard < shards
        following = seal(key, name, at, now_ms + CURSOR_TTL_S * 1_000) if at is not None and more else None
        return MembersPage(items, following)

    async def count(self, app: str, room: str) -> int:
        """Return how many members the room has. Raises Refused, Unavailable."""
        self._check_room(room)
        name = room_key(app, room)
        return await self._store.members.count(name, await self._shards(name, wanted=0))

    def _check_room(self, room: str) -> None:
        profile = self._profiles.of(check_room(room))
        if profile.subscribe != "members":
            raise Refused(BAD_REQUEST, f"room: a room of profile {profile.name} keeps no member list")

    def _check(self, room: str, users: Sequence[str | MemberSpec]) -> list[MemberSpec]:
        self._check_room(room)
        if not 0 < len(users) <= MEMBERS_PER_CALL_MAX:
            raise Refused(LIMIT_EXCEEDED, f"users: {len(users)}, 1 to {MEMBERS_PER_CALL_MAX} are possible")
        specs = [MemberSpec(user) if isinstance(user, str) else user for user in users]
        for spec in specs:
            check_user(spec.user, "users")
            _check_labels(spec.roles, "roles")
            _check_labels(spec.tags, "tags")
        return specs

    async def _shards(self, name: str, *, wanted: int) -> int:
        shards = await self._store.members.shards(name, wanted)
        if shards == 0:
            raise Refused(UNKNOWN_ROOM, "the room has never had a member")
        return shards

    async def _change(self, app: str, room: str, values: Mapping[str, bytes | None], *, wanted: int) -> None:
        """Append one record a user to its shard's partition, and wait until the owners have applied them."""
        name = room_key(app, room)
        shards = await self._shards(name, wanted=wanted)
        by_partition: dict[int, list[tuple[bytes, bytes | None]]] = {}
        partitions = self._log.partitions(MEMBERS)
        for user, value in values.items():
            partition = partition_of(shard_key(name, shard_of(user, shards)), partitions)
            by_partition.setdefault(partition, []).append((f"{name}/{user}".encode(), value))
        appends = (self._append(partition, changes) for partition, changes in by_partition.items())
        ends = dict(await asyncio.gather(*appends))
        await self._applied(ends)

    async def _append(self, partition: int, changes: Sequence[tuple[bytes, bytes | None]]) -> tuple[int, int]:
        placed = await self._writer.append_many(MEMBERS, partition, changes)
        return partition, placed.offset + len(changes)

    async def _applied(self, ends: Mapping[int, int]) -> None:
        """Wait until every partition's mark has reached its end; raises Refused ``unavailable`` after a bound."""
        deadline_s = self._clock.monotonic_s() + MEMBERS_APPLIED_TIMEOUT_S
        pause_s = _ASK_FIRST_S
        waiting = dict(ends)
        while True:
            marks = await asyncio.gather(*(self._store.members.marked(partition) for partition in waiting))
            waiting = {
                partition: end
                for (partition, end), mark in zip(waiting.items(), marks, strict=True)
                if mark is None or mark < end
            }
            if not waiting:
                return
            if self._clock.monotonic_s() >= deadline_s:
                detail = "the change is on the log and not applied yet; repeat the call"
                raise Refused(UNAVAILABLE, detail, retry_after_s=RETRY_AFTER_S)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _ASK_LAST_S)


def _check_labels(labels: Sequence[str], field: str) -> None:
    if len(labels) > LABELS_MAX or any(not 0 < len(label.encode()) <= LABEL_BYTES_MAX for label in labels):
        raise Refused(BAD_REQUEST, f"{field}: at most {LABELS_MAX} of 1 to {LABEL_BYTES_MAX} bytes")


def _item(user: str, encoded: bytes) -> MemberItem:
    joined = decode_body(encoded, Joined)
    return MemberItem(user, joined.at_ms, joined.roles, joined.tags)
