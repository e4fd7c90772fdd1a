"""Room batches become chunks: one record for one slot, at most 256 KB and 5,000 named sessions. Pure.

A room batch is encoded once. Rooms with the same targets share one list of encoded batches (a *group*), which is
joined once and copied per slot: with eight gateways a batch costs one append here instead of eight.

Order: within a room everything keeps its order for every slot, over chunks as well. Between rooms there is none. A
room that changes its targets would stand in two groups; so all groups are sealed first, and what comes later goes
behind them.
"""

from __future__ import annotations

import struct
from typing import Final

from fanout.core.limits import CHUNK_BYTES_MAX, CHUNK_SESSIONS_MAX
from fanout.core.records import CHUNK, HEADER, HEADER_BYTES, VERSION
from fanout.core.room_state import Target

# msgpack around the batches: array of 2, the slot as u16, array of u32 batches; see records.Chunk.
_FRAME: Final = struct.Struct(">BBHBI")
_PAYLOAD_BYTES_MAX: Final = CHUNK_BYTES_MAX - HEADER_BYTES - _FRAME.size
ROOM_BATCH_BYTES_MAX: Final = _PAYLOAD_BYTES_MAX - 512  # entries of one room batch; key, epoch and numbers come on top


class _Group:
    """Encoded batches for the same targets, cut into pieces that fit into a chunk."""

    __slots__ = ("bytes_max", "named", "pieces", "raws", "size", "targets")

    def __init__(self, targets: tuple[Target, ...], bytes_max: int) -> None:
        self.targets = targets
        self.bytes_max = bytes_max
        self.pieces: list[_Piece] = []
        self.raws: list[bytes] = []
        self.size = 0
        self.named = 0

    def add(self, raw: bytes, named: int) -> None:
        size = self.size + len(raw)
        if size > self.bytes_max or self.named + named > CHUNK_SESSIONS_MAX:
            self.cut()
            size = len(raw)
        self.raws.append(raw)
        self.size = size
        self.named += named

    def cut(self) -> None:
        if self.raws:
            self.pieces.append(_Piece(len(self.raws), self.named, b"".join(self.raws)))
            self.raws, self.size, self.named = [], 0, 0


class _Piece:
    """Some batches side by side; never taken apart any more."""

    __slots__ = ("batches", "joined", "named")

    def __init__(self, batches: int, named: int, joined: bytes) -> None:
        self.batches, self.named, self.joined = batches, named, joined


class SlotChunks:
    """The chunks of one turn for one slot and generation, in order."""

    __slots__ = ("_batches", "_named", "_parts", "_size", "chunks", "generation", "slot")

    def __init__(self, slot: int, generation: int) -> None:
        self.slot = slot
        self.generation = generation
        self.chunks: list[bytes] = []
        self._parts: list[bytes] = []
        self._batches = self._named = self._size = 0

    def _add(self, piece: _Piece, bytes_max: int) -> None:
        if self._size + len(piece.joined) > bytes_max or self._named + piece.named > CHUNK_SESSIONS_MAX:
            self._cut()
        self._parts.append(piece.joined)
        self._size += len(piece.joined)
        self._batches += piece.batches
        self._named += piece.named

    def _cut(self) -> None:
        if self._parts:
            head = HEADER.pack(VERSION, CHUNK, 0, 0, self.generation)
            frame = _FRAME.pack(0x92, 0xCD, self.slot, 0xDD, self._batches)
            self.chunks.append(b"".join((head, frame, *self._parts)))
            self._parts, self._batches, self._named, self._size = [], 0, 0, 0


class ChunkBuilder:
    """Collects the encoded room batches of one turn. ``bytes_max`` bounds a chunk's payload (smaller in tests)."""

    def __init__(self, bytes_max: int = _PAYLOAD_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._groups: dict[int, _Group] = {}
        self._sealed: list[_Group] = []
        self._places: dict[str, _Group] = {}

    def add(self, room: str, targets: tuple[Target, ...], raw: bytes, named: int = 0) -> None:
        """Add a room batch for its targets; ``named`` sessions are listed in it.

        Same targets are recognised by identity (``room_state.targets`` are shared objects): equal ones that are not
        the same object only cost a copy.
        """
        group = self._places.get(room)
        if group is None or group.targets is not targets:
            if group is not None:
                self._seal()
            group = self._groups.get(id(targets))
            if group is None:
                group = self._groups[id(targets)] = _Group(targets, self._bytes_max)
            self._places[room] = group
        group.add(raw, named)

    def build(self) -> list[SlotChunks]:
        """Return the chunks by slot and generation; each slot's in the order in which they must be appended."""
        self._seal()
        slots: dict[Target, SlotChunks] = {}
        for group in self._sealed:
            for target in group.targets:
                slot = slots.get(target)
                if slot is None:
                    slot = slots[target] = SlotChunks(*target)
                for piece in group.pieces:
                    slot._add(piece, self._bytes_max)
        for slot in slots.values():
            slot._cut()
        return list(slots.values())

    def _seal(self) -> None:
        for group in self._groups.values():
            group.cut()
        self._sealed.extend(self._groups.values())
        self._groups = {}
        self._places = {}
