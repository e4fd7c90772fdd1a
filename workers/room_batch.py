"""Room batches: the publications of one room for the same routes, encoded once for all of them. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from fanout.core.records import RawRoomBatch, encode_body
from fanout.core.room_log import SOURCE_MESSAGES
from fanout.core.room_state import RoomState, Target, shared_targets
from workers.turn import Draft, Ownership, Turn

_SHORT: Final = tuple(bytes((0x90 | places,)) for places in range(16))  # msgpack arrays, by their length
_LONG: Final = struct.Struct(">BH")
_LONGEST: Final = struct.Struct(">BI")


def close_room_batch(turn: Turn, draft: Draft, prev: int, n: int, *, is_whole: bool = False) -> None:
    """End the open room batch for the routes as they stand; the next one begins at (``prev``, ``n``).

    ``is_whole``: everything up to the room's ``applied`` is counted, and nothing beyond: what was thinned is told.
    """
    if draft.entries:
        room = draft.room
        thinned = [room.applied, *room.thinned] if is_whole and room.profile.thinned else None
        raw = room_batch(draft.ownership, room, draft.prev, draft.n, draft.entries, thinned=thinned)
        turn.chunks.add(room.key, room.targets, raw)
        draft.entries, draft.size = [], 0
    draft.prev, draft.n = prev, n


def answer(turn: Turn, ownership: Ownership, room: RoomState, target: Target, instance: int) -> None:
    """Tell one slot where the room stands."""
    raw = room_batch(ownership, room, room.last, room.n, (), instance)
    turn.chunks.add(room.key, shared_targets((target,)), raw)


def tell(turn: Turn, ownership: Ownership, room: RoomState) -> None:
    """Tell all slots where the room stands, without a publication: that it is degraded, or no longer."""
    turn.chunks.add(room.key, room.targets, room_batch(ownership, room, room.last, room.n, ()))


def room_batch(
    ownership: Ownership,
    room: RoomState,
    prev: int,
    n: int,
    entries: Sequence[bytes],
    attached_instance: int | None = None,
    thinned: list[int] | None = None,
) -> bytes:
    """Return the msgpack of a records.RoomBatch with these encoded entries."""
    joined = msgspec.Raw(b"".join((_array_head(len(entries)), *entries)))
    attached = None if attached_instance is None else room.attached(attached_instance)
    return encode_body(
        RawRoomBatch(
            room.key,
            SOURCE_MESSAGES,
            ownership.partition,
            ownership.owner,
            ownership.epoch,
            prev,
            n,
            joined,
            attached,
            None,
            thinned,
            room.policy.degrade_history if room.degraded else None,
        )
    )


def _array_head(places: int) -> bytes:
    if places < len(_SHORT):
        return _SHORT[places]
    return _LONG.pack(0xDC, places) if places < 1 << 16 else _LONGEST.pack(0xDD, places)
