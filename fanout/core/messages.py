"""What a message is before it is on the log: its class, its kind, its names.

Names are checked bytewise: an app never sees another's rooms through look-alikes, dots or case (promise 7).
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from fanout.core.errors import BAD_REQUEST, PERMISSION_DENIED, Refused

_ROOM: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
_USER: Final = re.compile(r"[A-Za-z0-9_.@-]{1,64}", re.ASCII)
TYPE: Final = re.compile(r"[A-Za-z0-9_.:@/-]{1,64}", re.ASCII)  # a message type, and the key of what is merged
_APP: Final = re.compile(r"[a-z0-9_-]{1,32}", re.ASCII)


class Priority(Enum):
    """Class of a message. The value is the byte in the record header; never compare it, ask ``outranks``."""

    SYSTEM = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3

    def outranks(self, other: Priority) -> bool:
        """True where this class is kept while the other is dropped."""
        return self.value < other.value

    @property
    def word(self) -> str:
        """Lower-case name, as in JSON and in metric labels."""
        return self.name.lower()


PRIORITIES: Final[tuple[Priority, ...]] = tuple(Priority)
PRIORITY_BY_WORD: Final[dict[str, Priority]] = {priority.word: priority for priority in Priority}


class Kind(Enum):
    """What becomes of a publication: the three kinds of DESIGN's table. The value is the byte in entries."""

    RELIABLE = 0  # has an offset, in history, in the prev chain, acknowledged, retried
    RECENT = 1  # has an offset, in history as far as it goes; an edge skip is a counted drop
    EPHEMERAL = 2  # no offset, never replayed


def check_room(room: object) -> str:
    """Return the room name; raises Refused ``bad_request``, or ``permission_denied`` for reserved ``#`` names."""
    if isinstance(room, str) and room.startswith("#"):
        raise Refused(PERMISSION_DENIED, "rooms that begin with '#' are assigned by the server")
    if not isinstance(room, str) or not _ROOM.fullmatch(room):
        raise Refused(BAD_REQUEST, "room: 1 to 128 characters out of A-Z a-z 0-9 _ . : -")
    return room


def check_user(user: object, field: str = "user") -> str:
    """Return the user id; raises Refused ``bad_request`` naming the field."""
    if not isinstance(user, str) or not _USER.fullmatch(user):
        raise Refused(BAD_REQUEST, f"{field}: 1 to 64 characters out of A-Z a-z 0-9 _ . @ -")
    return user


def check_app(app: object) -> str:
    """Return the app id; raises Refused ``bad_request``."""
    if not isinstance(app, str) or not _APP.fullmatch(app):
        raise Refused(BAD_REQUEST, "app: 1 to 32 characters out of a-z 0-9 _ -")
    return app


def room_key(app: str, room: str) -> str:
    """Return the key of a room on the log and in the store: ``app/room``."""
    return f"{app}/{room}"


def split_key(key: str) -> tuple[str, str]:
    """Return (app, room) of a key; the app has no slash, so the first one divides."""
    app, _, room = key.partition("/")
    return app, room
