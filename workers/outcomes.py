"""What a turn notes of single messages: those whose sender asks for the outcome, and a sample of the rest. Pure."""

from __future__ import annotations

from typing import Final

from fanout.core.messages import Kind, split_key
from fanout.core.outcome import Fate, Outcome
from fanout.core.policy import DropReason
from fanout.core.records import encode_body
from fanout.core.room_state import RoomState
from fanout.ports import NotedOutcome
from workers.turn import Draft

_EPHEMERAL: Final = Kind.EPHEMERAL.value


def note_merged(draft: Draft, room: RoomState, id_: int, class_: int) -> None:
    """Note that a message was folded with others."""
    at_ms = room.thinning.clock_ms
    outcome = Outcome(split_key(room.key)[1], at_ms, Fate.MERGED.value, class_)
    draft.note(NotedOutcome(id_, at_ms, encode_body(outcome)))


def note(draft: Draft, room: RoomState, id_: int, class_: int, position: int, reason: DropReason | None) -> None:
    """Note that a message became a publication, or was dropped and why.

    A repeat is not noted: its id is that of the message that stands.
    """
    if reason is DropReason.KEYED:
        return
    name, at_ms = split_key(room.key)[1], room.thinning.clock_ms
    if reason is not None:
        outcome = Outcome(name, at_ms, Fate.DROPPED.value, class_, stage=reason.stage, reason=reason.word)
    else:
        offset = position if room.kinds[class_] != _EPHEMERAL else 0
        outcome = Outcome(name, at_ms, Fate.KEPT.value, class_, offset, deliveries=room.members())
    draft.note(NotedOutcome(id_, at_ms, encode_body(outcome)))
