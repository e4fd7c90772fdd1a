"""What clients missed, read and translated once for all who missed the same.

Those who were cut at once stood at one position, so between two publications of a room hundreds of them come back for
the very same replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fanout.core.records import Entry
from fanout.core.room_log import Tally, tally
from fanout.protocol.centrifuge import Publication, publication_of

REPLAYS_MAX: Final = 16

Key = tuple[str, str, int, int, int, int]  # room, epoch, first and end of its ring, the client's offset, wire


class Replay:
    """Entries that a wire format can show, oldest first, and the cursor after them."""

    __slots__ = ("_publications", "counts", "entries", "sent")

    def __init__(self, entries: Sequence[Entry], sent: int = 0) -> None:
        self.entries = entries
        self.counts: Tally = tally(entries)
        self.sent = sent
        self._publications: list[Publication] | None = None

    def publications(self, *, id_tag: bool) -> list[Publication]:
        """Return the entries as they stand in a reply; ``id_tag`` is the same at every call, being the room's."""
        if self._publications is None:
            self._publications = [publication_of(entry, id_tag=id_tag) for entry in self.entries]
        return self._publications


NO_REPLAY: Final = Replay(())


class Replays:
    """The newest replays. They hold on to what rings have let go of, so ``forget`` is called every second or so."""

    def __init__(self, replays_max: int = REPLAYS_MAX) -> None:
        self._kept: dict[Key, Replay] = {}
        self._replays_max = replays_max

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key) -> Replay | None:
        """Return what was kept under a key."""
        return self._kept.get(key)

    def keep(self, key: Key, replay: Replay) -> Replay:
        """Keep a replay in place of the oldest; return it."""
        if len(self._kept) >= self._replays_max:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = replay
        return replay

    def forget(self) -> None:
        """Let go of all."""
        self._kept.clear()
