"""What is decided alike about messages that are merged and about those that are not. Pure."""

from __future__ import annotations

from typing import Final

from fanout.core.policy import DropReason
from fanout.core.records import KEYED
from fanout.core.room_state import Keyed, RoomState
from fanout.ports import KeyedId
from workers.turn import Draft

_KEYED: Final = DropReason.KEYED
_LATE: Final = DropReason.LATE


def repeat_or_late(
    draft: Draft, room: RoomState, flags: int, id_: int, position: int, at_ms: int, *, is_late: bool
) -> DropReason | None:
    """Return why a message is dropped before anything else is asked, or None.

    The id of a keyed one is noted in any case: whether it is late must not decide what becomes of a repeat.
    """
    if flags & KEYED and _is_repeat(draft, room, id_, position, at_ms):
        return _KEYED
    return _LATE if is_late else None


def _is_repeat(draft: Draft, room: RoomState, id_: int, position: int, at_ms: int) -> bool:
    keyed = room.keyed
    if keyed is None:
        keyed = room.keyed = Keyed()
    if keyed.is_repeat(id_, position, at_ms):
        return True
    keyed.add(id_, position, at_ms)
    draft.keyed.append(KeyedId(id_, position, at_ms))
    return False
