"""The acts of the demo: what a livestream goes through, one after the other. Pure.

Chat is the trace's arrivals all the time. In the burst each of them comes twenty times, from other senders. Likes are
merged: ten thousand a second become a few publications. Then one viewer in twenty stops reading while the room is loud,
and at last every connection is cut at once, as when a gateway dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from fanout.cli.arrivals import Arrival

BURST: Final = 20
LIKES_PER_S: Final = 10_000
SLOW_SHARE: Final = 0.05
_SENDERS: Final = 1_000_000  # apart from those of the trace


class Act(NamedTuple):
    """A part of the demo, from ``begin_s`` to ``end_s`` after its start."""

    name: str
    begin_s: float
    end_s: float


CALM: Final = "calm"
CROWD: Final = f"burst ×{BURST}"
LIKES: Final = "10,000 likes/s"
SLOW: Final = "5 % slow viewers"
CUT: Final = "all cut, back"
_TIMES: Final = {CROWD: BURST, SLOW: BURST}
_LONGER_BYTES: Final = 500
_SHARES: Final = ((CALM, 0.2), (CROWD, 0.15), (LIKES, 0.15), (SLOW, 0.3), (CUT, 0.2))


def acts(seconds: float) -> list[Act]:
    """Return the acts of a demo that lasts ``seconds``."""
    played, begin_s = [], 0.0
    for name, share in _SHARES:
        end_s = begin_s + share * seconds
        played.append(Act(name, begin_s, end_s))
        begin_s = end_s
    return played


def act_at(played: Sequence[Act], at_s: float) -> Act:
    """Return the act that is on; after the end the last one."""
    return next((act for act in played if at_s < act.end_s), played[-1])


def with_burst(arrivals: Sequence[Arrival], played: Sequence[Act]) -> list[Arrival]:
    """Return the arrivals, in loud acts several times: the same moment, another sender each time.

    Beside slow viewers they are longer, too, or the kernel's buffers would hold all of it for them.
    """
    loud = []
    for arrival in arrivals:
        name = act_at(played, arrival.at_ms / 1_000).name
        size = arrival.size + (_LONGER_BYTES if name == SLOW else 0)
        loud += [Arrival(arrival.at_ms, arrival.sender + copy * _SENDERS, size) for copy in range(_TIMES.get(name, 1))]
    return loud
