"""Ledgers and outcomes on Redis: which rooms an app has, the openings of their spans, outcomes of single messages.

Openings are fields ``o0`` to ``o12`` of a room's meta: a ring over the spans of an hour, written by
``scripts/history_store.lua`` together with the state.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from fanout.adapters.redis_client import OUTCOMES_NOTE, PIPELINE_CALLS_MAX, AnyClient, Call, Command
from fanout.core.errors import Unavailable
from fanout.core.ledger_spans import Opening
from fanout.core.limits import (
    LEDGER_SPAN_MS,
    LEDGER_SPANS,
    OUTCOME_S,
    OUTCOME_SHARDS,
    OUTCOMES_MAX,
    ROOMS_LISTED_MAX,
    ROOMS_LISTED_S,
)
from fanout.core.messages import split_key
from fanout.core.outcome import shard_of
from fanout.ports import Clock, HistoryBatch, NotedOutcome, StoredLedger

_NUMBER: Final = struct.Struct(">Q")
_LISTED_MS: Final = ROOMS_LISTED_S * 1_000
_OUTCOME_MS: Final = OUTCOME_S * 1_000
_FIELDS: Final = tuple(f"o{place}" for place in range(LEDGER_SPANS))
_encode: Final = msgspec.msgpack.Encoder().encode


def room_base(prefix: str, key: str, epoch: str) -> bytes:
    """Return the base of a room's keys."""
    return f"{prefix}:{{{key}}}:{epoch}".encode()


def opening_field(at_ms: int) -> str:
    """Return the field of an opening in its room's meta: a place in the ring."""
    return _FIELDS[at_ms // LEDGER_SPAN_MS % LEDGER_SPANS]


def pack_opening(opening: Opening) -> bytes:
    """Return the value of that field: the beginning of the span, then the counts."""
    return _NUMBER.pack(opening.at_ms) + opening.counts


class RedisLedgers:
    """``ports.Ledgers``; ``note`` is the writing half, for the history."""

    def __init__(self, client: AnyClient, prefix: str, clock: Clock) -> None:
        self._client = client
        self._prefix = prefix
        self._clock = clock

    async def read(self, rooms: Sequence[tuple[str, str]]) -> Sequence[StoredLedger | None]:
        """Return what is stored of the ledgers of (key, epoch) pairs; raises Unavailable."""
        metas = [room_base(self._prefix, key, epoch) + b":meta" for key, epoch in rooms]
        answers = await self._commands([(b"HMGET", meta, b"state", *_FIELDS) for meta in metas])
        return [_stored_ledger(*answer) for answer in answers]

    async def rooms(self, app: str, epoch: str, since_ms: int = 0) -> Sequence[str]:
        """Return the keys of an app's rooms in which a span has begun since; raises Unavailable."""
        names = await self._client.command(b"ZRANGEBYSCORE", self._list_key(app, epoch), since_ms, b"+inf")
        return [f"{app}/{name.decode()}" for name in names]

    async def expect(self, app: str, outcomes: Sequence[NotedOutcome]) -> None:
        """Note what is known of messages that have just been appended; raises Unavailable."""
        await self._note_outcomes({app: outcomes}, expected=True)

    async def outcome(self, app: str, id: int) -> bytes | None:
        """Return the outcome of a message; raises Unavailable."""
        base = self._outcomes_key(app, shard_of(id))
        at_ms, encoded = await self._client.commands([(b"ZSCORE", base + ":order", id), (b"HGET", base + ":all", id)])
        if at_ms is None or encoded is None or float(at_ms) < self._clock.wall_ms() - _OUTCOME_MS:
            return None
        return bytes(encoded)

    async def note(self, batches: Iterable[HistoryBatch]) -> None:
        """List rooms in which spans begin, and note outcomes; raises Unavailable, and may have done a part then."""
        noting = [batch for batch in batches if batch.openings or batch.outcomes]  # few of them
        if not noting:
            return
        outcomes: dict[str, list[NotedOutcome]] = {}
        for batch in noting:
            outcomes.setdefault(split_key(batch.key)[0], []).extend(batch.outcomes)
        await self._list_rooms(batch for batch in noting if batch.openings)
        await self._note_outcomes(outcomes, expected=False)

    async def _list_rooms(self, batches: Iterable[HistoryBatch]) -> None:
        lists: dict[str, list[bytes | str | int]] = {}
        newest: dict[str, int] = {}
        for batch in batches:
            app, room = split_key(batch.key)
            place, at_ms = self._list_key(app, batch.epoch), batch.openings[-1].at_ms
            lists.setdefault(place, []).extend((at_ms, room))
            newest[place] = max(newest.get(place, 0), at_ms)
        commands: list[Command] = []
        for place, scored in lists.items():
            commands += [
                (b"ZADD", place, b"GT", *scored),
                (b"ZREMRANGEBYSCORE", place, b"-inf", f"({newest[place] - _LISTED_MS}"),
                (b"ZREMRANGEBYRANK", place, 0, -ROOMS_LISTED_MAX - 1),
                (b"PEXPIRE", place, _LISTED_MS),
            ]
        await self._commands(commands)

    async def _note_outcomes(self, by_app: Mapping[str, Sequence[NotedOutcome]], *, expected: bool) -> None:
        shards: dict[str, list[NotedOutcome]] = {}
        for app, outcomes in by_app.items():
            for one in outcomes:
                shards.setdefault(self._outcomes_key(app, shard_of(one.id)), []).append(one)
        calls: list[Call] = []
        for base, some in shards.items():
            flat = [part for one in some for part in (str(one.id), one.at_ms)]
            head = _encode((int(expected), _OUTCOME_MS, OUTCOMES_MAX // OUTCOME_SHARDS, flat))
            calls.append((base.encode(), head, *(one.encoded for one in some)))
        for answer in await self._client.run(OUTCOMES_NOTE, calls):
            if isinstance(answer, Exception):
                raise answer if isinstance(answer, Unavailable) else Unavailable(f"redis: {answer}")

    async def _commands(self, commands: Sequence[Command]) -> list[Any]:
        answers: list[Any] = []
        for start in range(0, len(commands), PIPELINE_CALLS_MAX):
            answers += await self._client.commands(commands[start : start + PIPELINE_CALLS_MAX])
        return answers

    def _list_key(self, app: str, epoch: str) -> str:
        return f"{self._prefix}:rooms:{{{app}/{epoch}}}"

    def _outcomes_key(self, app: str, shard: int) -> str:
        return f"{self._prefix}:outcomes:{{{app}/{shard}}}"


def _stored_ledger(state: bytes | None, *openings: bytes | None) -> StoredLedger | None:
    if state is None:
        return None
    size = _NUMBER.size
    return StoredLedger(state, [Opening(_NUMBER.unpack_from(one)[0], one[size:]) for one in openings if one])
