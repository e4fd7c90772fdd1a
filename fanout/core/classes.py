"""The class of a message: what its publisher asked for, raised by the policy of its room. Pure.

Decided once, on the way in: at admission for what comes through the API or from a client, by the room worker for a
foreign producer's JSON. A record of the engine carries the class that it was given. Lives elsewhere: the quota of HIGH
(``quota``), who gets a slot (``policy``).
"""

from __future__ import annotations

from typing import Final

from fanout.core.messages import PRIORITY_BY_WORD, Priority
from fanout.core.profiles import Policy

_HIGH: Final = Priority.HIGH
_NORMAL: Final = Priority.NORMAL
_LOW: Final = Priority.LOW


def class_of(policy: Policy, asked: Priority, type_: str, sender: str, *, from_client: bool = False) -> Priority:
    """Return the class of a message: never less than ``asked``, at least what its type or its sender gives it.

    ``from_client``: the type is a client's own word, and any client could call its chat a gift, so that a type raises
    it to NORMAL and no further. Its user is known from the token and raises as always.
    """
    got = asked
    if type_:
        by_type = _by_type(policy, type_)
        if from_client and by_type.outranks(_NORMAL):
            by_type = _NORMAL
        if by_type.outranks(got):
            got = by_type
    if sender and sender in policy.raised_users and _HIGH.outranks(got):
        return _HIGH
    return got


def _by_type(policy: Policy, type_: str) -> Priority:
    word = policy.types.get(type_)
    by_type = PRIORITY_BY_WORD[word] if word is not None else _LOW
    return _HIGH if type_ in policy.raised_types and _HIGH.outranks(by_type) else by_type
