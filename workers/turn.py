"""A turn: what the records of a poll do, before any of it is done. Filled by ``decide`` and ``partition``.

One turn is open at a time and what is decided meanwhile joins it, so for a room the order of turns is the order of the
log. Its chunks are appended first, slice by slice; then its changes, one a room, go to the history in the order of
turns; then its tickets are finished.
"""

from __future__ import annotations

from fanout.core.late import NEVER, Before, late_before
from fanout.core.ledger import zeros
from fanout.core.ledger_spans import Opening
from fanout.core.limits import TURN_BYTES_MAX, TURN_ROOMS_MAX
from fanout.core.policies import PolicyAt
from fanout.core.policy import DropReason
from fanout.core.profiles import Policy
from fanout.core.records import Counts
from fanout.core.room_state import RoomState
from fanout.ports import HistoryBatch, HistoryEntry, KeyedId, NotedOutcome
from workers.chunks import ChunkBuilder, SlotChunks
from workers.commits import Commits, Ticket
from workers.poison import Poison


class Ownership:
    """One take-over of a partition: its number, the owner generation that it got, and the epoch of its positions.

    ``stored`` is the highest position whose change stands in the history, ``seen`` the highest that the store was told.
    ``is_over`` is set when the partition is revoked or fenced; what is still under way for it changes nothing then.
    """

    __slots__ = ("epoch", "is_over", "owner", "partition", "seen", "stored")

    def __init__(self, partition: int, owner: int, epoch: str) -> None:
        self.partition = partition
        self.owner = owner
        self.epoch = epoch
        self.stored = 0
        self.seen = 0
        self.is_over = False


class Draft:
    """What a turn does in one room. ``entries`` are those of the open room batch, encoded: for the routes as they are.

    ``prev`` and ``n`` are the room's last reliable offset and count before the open room batch.
    """

    __slots__ = (
        "entries",
        "keyed",
        "n",
        "openings",
        "outcomes",
        "ownership",
        "prev",
        "room",
        "size",
        "stored",
        "stored_bytes",
    )

    def __init__(self, ownership: Ownership, room: RoomState) -> None:
        self.ownership = ownership
        self.room = room
        self.prev = room.last
        self.n = room.n
        self.entries: list[bytes] = []
        self.size = 0
        self.stored: list[HistoryEntry] = []
        self.stored_bytes = 0
        self.keyed: list[KeyedId] = []
        self.openings: tuple[Opening, ...] = ()  # most drafts have none, nor outcomes
        self.outcomes: tuple[NotedOutcome, ...] | list[NotedOutcome] = ()

    def note(self, outcome: NotedOutcome) -> None:
        """Add an outcome."""
        if isinstance(self.outcomes, tuple):
            self.outcomes = []
        self.outcomes.append(outcome)


class Change:
    """A room's share of a turn on its way to the history; ``bytes`` is what it holds in memory, about."""

    __slots__ = ("batch", "bytes", "ownership", "room")

    def __init__(self, ownership: Ownership, room: RoomState, batch: HistoryBatch, bytes_: int) -> None:
        self.ownership = ownership
        self.room = room
        self.batch = batch
        self.bytes = bytes_


class Turn:
    """Chunks, parked records and changes of some records, and the tickets that are finished when all of it is done.

    ``begun_s`` is the monotonic time at which its records were polled, ``now_ms`` the wall clock then (0: nothing is
    late), ``awaited`` counts appends that the log has not acknowledged yet (and the turn itself while it is open),
    ``touched`` the newest log offset + 1 by ownership, ``policies`` what its records put in force and the next owner
    has to know, ``degraded`` the HIGH messages taken as NORMAL, ``rooms_degraded`` the rooms that were degraded or are
    no longer.
    """

    __slots__ = (
        "_before",
        "_policy",
        "awaited",
        "begun_s",
        "bytes",
        "changes",
        "chunks",
        "degraded",
        "drafts",
        "dropped",
        "fenced",
        "folds",
        "kept",
        "merged",
        "now_ms",
        "number",
        "parked",
        "policies",
        "rooms_degraded",
        "slots",
        "tickets",
        "touched",
    )

    def __init__(self, number: int, begun_s: float, now_ms: int = 0) -> None:
        self.number = number
        self.begun_s = begun_s
        self.now_ms = now_ms
        self.chunks = ChunkBuilder()
        self.slots: list[SlotChunks] = []
        self.drafts: dict[RoomState, Draft] = {}
        self.parked: list[Poison] = []
        self.policies: list[tuple[Ownership, PolicyAt]] = []
        self.changes: list[Change] = []
        self.tickets: list[tuple[Commits, Ticket]] = []
        self.touched: dict[Ownership, int] = {}
        self.kept = zeros()
        self.merged = zeros()
        self.folds = zeros()
        self.dropped: dict[tuple[DropReason, int], int] = {}
        self.degraded = 0
        self.rooms_degraded = 0
        self.fenced: dict[str, int] = {}
        self.awaited = 0
        self.bytes = 0
        self._policy: Policy | None = None
        self._before = NEVER

    def draft(self, ownership: Ownership, room: RoomState) -> Draft:
        """Return the room's draft of this turn; begin one where there is none."""
        draft = self.drafts.get(room)
        if draft is None:
            draft = self.drafts[room] = Draft(ownership, room)
            room.touched = self.number
        return draft

    @property
    def is_large(self) -> bool:
        """True where more would make one step of the history too large."""
        drafts = self.drafts.values()
        return len(drafts) >= TURN_ROOMS_MAX or sum(draft.stored_bytes for draft in drafts) >= TURN_BYTES_MAX

    def late_before(self, room: RoomState) -> Before:
        """Return which records are too late for a room, by class."""
        if not room.profile.thinned:
            return NEVER
        policy = room.policy
        if policy is not self._policy:  # most rooms share one
            self._policy, self._before = policy, late_before(policy, self.now_ms)
        return self._before

    def drop(self, room: RoomState, reason: DropReason, counts: Counts) -> None:
        """Count messages that are not kept, by class, in the room's ledger and for the metrics."""
        for class_, messages in enumerate(counts):
            if messages:
                room.drop(reason, class_, messages)
                place = (reason, class_)
                self.dropped[place] = self.dropped.get(place, 0) + messages

    def count_fenced(self, what: str) -> None:
        """Count a word of an older generation that was ignored."""
        self.fenced[what] = self.fenced.get(what, 0) + 1
