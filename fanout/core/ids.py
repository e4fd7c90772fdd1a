"""Message ids: 63 bits that sort by time, unique without asking anybody.

Layout, high bit first: ``0 | 41 bit ms since 2024-01-01 | 1 bit foreign | 4 bit cluster | 10 bit node |
7 bit counter``; for a record of a foreign producer ``ms | 1 | 6 bit partition | offset mod 2^15``. Pure: time comes
as an argument.

The time part is a hybrid logical clock: it follows the wall clock, never goes back, and stands above the parent of a
reply, so a reply's id is greater than its parent's on every node. It may lead the wall clock by at most LEAD_MS_MAX
(that is as far ahead as an id from outside may be), plus the borrowed milliseconds of a full counter.
Source: Kulkarni et al., "Logical Physical Clocks", OPODIS 2014.
"""

from __future__ import annotations

from typing import Final

from fanout.core.errors import OutOfIds

EPOCH_MS: Final = 1_704_067_200_000  # 2024-01-01T00:00:00Z
ID_MAX: Final = (1 << 63) - 1
TIME_SHIFT: Final = 22
MS_MAX: Final = (1 << 41) - 1
FOREIGN_BIT: Final = 1 << 21
CLUSTER_SHIFT: Final = 17
CLUSTERS: Final = 16
NODE_SHIFT: Final = 7
NODES: Final = 1_024
COUNTER_MAX: Final = 127
OFFSET_BITS: Final = 15
FOREIGN_PARTITIONS: Final = 64

AHEAD_MS_MAX: Final = 60_000  # an id from outside that is further ahead of our clock is refused and never feeds it
BORROW_MS_MAX: Final = 50  # 128 ids a ms and node; beyond this debt the counter waits for the clock
DRIFT_MS_MAX: Final = 10_000  # a wall clock that went back further than this is broken: no ids until it is near again
_PARTS: Final = 16  # of a ms, in which the lead over the wall clock is counted
RESTART_MS: Final = 1_000  # a new holder of a node number starts this far above the last time its predecessor noted


def time_of(id: int) -> int:
    """Return the Unix ms in the time part of an id."""
    return (id >> TIME_SHIFT) + EPOCH_MS


def is_foreign(id: int) -> bool:
    """True where the id was made from a foreign producer's record."""
    return bool(id & FOREIGN_BIT)


def is_ahead(id: int, wall_ms: int) -> bool:
    """True where an id from outside leads the clock by more than an honest one can: refuse it with 107."""
    return time_of(id) > wall_ms + AHEAD_MS_MAX


def restart_ms(wall_ms: int, high_water_ms: int) -> int:
    """Return the first Unix ms that a new holder of a node number may use, given the last noted under it."""
    return max(wall_ms, high_water_ms + RESTART_MS)


def foreign_id(at_ms: int, partition: int, offset: int, parent: int = 0) -> int:
    """Return the id of a record that came without one: the same for every reader of the same log.

    ``at_ms`` is the record's time (Unix ms), ``offset`` its log offset; unique while fewer than 2^15 records of a
    partition share a millisecond. With ``parent`` the result is greater than it; the caller has refused parents that
    are ahead of the record by more than AHEAD_MS_MAX (``is_ahead``).
    """
    ms = max(at_ms - EPOCH_MS, 0)
    if parent:
        ms = max(ms, (parent >> TIME_SHIFT) + 1)
    ms = min(ms, MS_MAX)
    place = (partition % FOREIGN_PARTITIONS) << OFFSET_BITS | offset & ((1 << OFFSET_BITS) - 1)
    return ms << TIME_SHIFT | FOREIGN_BIT | place


class IdGenerator:
    """Ids of one leased node. Owned by one task; a new lease needs a new generator.

    ``start_ms`` (Unix ms) is the first millisecond that may be used: ``restart_ms`` of the lease. ``reserved_ms`` is
    the last: what the store knows as used, so that a successor on this node never meets us; the holder raises it in
    time.
    """

    def __init__(self, node: int, cluster: int = 0, start_ms: int = 0, reserved_ms: int = MS_MAX + EPOCH_MS) -> None:
        if not 0 <= node < NODES:
            raise ValueError(f"node must be in 0..{NODES - 1}, not {node}")
        if not 0 <= cluster < CLUSTERS:
            raise ValueError(f"cluster must be in 0..{CLUSTERS - 1}, not {cluster}")
        self.reserved_ms = reserved_ms
        self._place = cluster << CLUSTER_SHIFT | node << NODE_SHIFT
        self._ms = max(start_ms - EPOCH_MS, 0) - 1  # time part of the last id
        self._counter = COUNTER_MAX
        self._wall = 0  # wall clock at the last call
        self._floor_parts = _PARTS * self._ms  # what clock, start and parents justify; above it is borrowed
        self._lost_parts = 0  # how far the wall clock has gone back in all and not made up for

    @property
    def last_ms(self) -> int:
        """Unix ms of the newest id: the high water that a successor on this node must stay above."""
        return self._ms + EPOCH_MS

    def next(self, wall_ms: int, parent: int = 0) -> int:
        """Return an id greater than every earlier one of this generator and than ``parent``.

        ``wall_ms`` is Unix ms. Raises OutOfIds where the counters of the next BORROW_MS_MAX are used up, where the time
        is beyond ``reserved_ms``, or where the wall clock went back by more than DRIFT_MS_MAX; no id is used up then.
        """
        wall = wall_ms - EPOCH_MS
        floor = self._advance(wall)
        if parent:
            floor = max(floor, (parent >> TIME_SHIFT) + 1)
        ms, counter = self._ms, self._counter + 1
        if floor > ms:
            ms, counter = floor, 0
        elif counter > COUNTER_MAX:
            ms, counter = ms + 1, 0
        if ms > floor + BORROW_MS_MAX:
            raise OutOfIds(f"{COUNTER_MAX + 1} ids a ms are used up for the next {BORROW_MS_MAX} ms")
        if ms > self.reserved_ms - EPOCH_MS:
            raise OutOfIds("the time of this id has not been reserved in the store yet")
        self._floor_parts = max(self._floor_parts, _PARTS * floor)
        self._ms, self._counter = ms, counter
        return ms << TIME_SHIFT | self._place | counter

    def _advance(self, wall: int) -> int:
        """Return the new floor: it follows the wall clock forward, and stays at its height where that went back.

        While the floor leads (clock went back, parent from the future) it still moves on by 15/16 of what the wall
        clock moves: ids of that time are not all squeezed into the borrowed milliseconds, and the lead melts.
        """
        moved = wall - self._wall if self._wall else 0
        self._wall = wall
        if _PARTS * wall >= self._floor_parts:
            self._floor_parts, self._lost_parts = _PARTS * wall, 0
            return wall
        if moved < 0:
            self._lost_parts -= _PARTS * moved
        else:
            self._floor_parts += (_PARTS - 1) * moved
            self._lost_parts = max(self._lost_parts - moved, 0)
        if self._lost_parts > _PARTS * DRIFT_MS_MAX:
            raise OutOfIds(f"the wall clock went back by {self._lost_parts // _PARTS} ms; {DRIFT_MS_MAX} are bridged")
        return self._floor_parts // _PARTS
