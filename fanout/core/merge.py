"""Merging: messages of one window that become one publication. Pure, O(1) a message, decided in log order.

A *fold* takes the messages of a room that have window, class, key and operation in common. ``latest`` and ``sum`` keep
the last payload, and ``sum`` adds the values up; ``top`` keeps the ``n`` payloads with the largest values, each for a
publication of its own, because payloads are never touched. All open folds of a room belong to the window that its
record clock is in: they are closed before a record of a later one is applied.

What a fold sends takes a slot like any other publication of its class, when a message first asks for the place; what
is folded into that place later is free. So likes that are merged never crowd out chat that is not.

Lives here: what may be merged, open folds and their stored form, what a closed one says. Lives elsewhere: when windows
close and what becomes of the publications (``workers``), who counts (``ledger``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from fanout.core.errors import BAD_REQUEST, Refused
from fanout.core.limits import FOLDS_BYTES_MAX, FOLDS_MAX
from fanout.core.messages import PRIORITIES, TYPE, Kind, Priority
from fanout.core.policy import DropReason
from fanout.core.records import Merge, Message

OPS: Final = ("latest", "sum", "top")
TOP_MAX: Final = 10  # publications of one fold
VALUE_MAX: Final = 1e12  # thousands of them in a window still add up to less than 2^53: whole numbers stay exact
FOLD_BYTES: Final = 128  # of a fold's stored form, beside its payloads: a key of 64, numbers

_VALUE_MIN: Final = -VALUE_MAX
_WHOLE_MAX: Final = 1 << 53
_TOP: Final = "top"
_SUM: Final = "sum"
_FOLDS_FULL: Final = DropReason.FOLDS_FULL

Place = tuple[int, str, str, int]  # class, key, operation, n: what messages of one fold have in common
Slot = Callable[
    [int, Message], DropReason | None
]  # takes a slot for a message of that class, or says why there is none


class Item(msgspec.Struct, array_like=True, gc=False):
    """A payload that a fold keeps, with the id and the flags of its message; ``bytes`` is what it takes when stored."""

    bytes: int
    id: int
    flags: int
    value: float
    message: Message


class Fold(msgspec.Struct, array_like=True, gc=False):
    """One open fold. ``count`` messages so far, their ``total``, and the payloads that it will send, in order."""

    priority: int
    key: str
    op: str
    n: int
    count: int
    total: float
    items: list[Item]


def check_merged(class_: int, kind: int) -> None:
    """Raise Refused ``bad_request`` where messages of this class, whose publications are of this kind, are not folded.

    Both as in headers and entries: what has an offset and is replayed cannot become a part of something else.
    """
    if class_ < Priority.NORMAL.value or kind == Kind.RELIABLE.value:
        raise Refused(BAD_REQUEST, f"merge: {PRIORITIES[class_].word} is reliable in this namespace, and never folded")


def check_merge(merge: Merge) -> None:
    """Raise Refused ``bad_request`` naming the field by which nothing can be folded."""
    if merge.op not in OPS:
        raise Refused(BAD_REQUEST, f"merge.op: {merge.op[:32]!r} is none of {', '.join(OPS)}")
    if not TYPE.fullmatch(merge.key):
        raise Refused(BAD_REQUEST, "merge.key: 1 to 64 characters out of A-Z a-z 0-9 _ . : @ / -")
    if not 1 <= merge.n <= (TOP_MAX if merge.op == _TOP else 1):
        raise Refused(BAD_REQUEST, f"merge.n: 1 to {TOP_MAX} with top, else 1")
    if not _VALUE_MIN <= merge.value <= VALUE_MAX:  # false for NaN, too
        raise Refused(BAD_REQUEST, f"merge.value: a number from {_VALUE_MIN:g} to {VALUE_MAX:g}")


class Folds:
    """The open folds of one room, in the order in which they were opened.

    At most ``FOLDS_MAX``, and ``bytes`` of stored form at most ``FOLDS_BYTES_MAX``.
    """

    __slots__ = ("_by_place", "bytes")

    def __init__(self, stored: Iterable[Fold] = ()) -> None:
        self._by_place: dict[Place, Fold] = {}
        self.bytes = 0
        for fold in stored:
            self._by_place[fold.priority, fold.key, fold.op, fold.n] = fold
            self.bytes += FOLD_BYTES + sum(item.bytes for item in fold.items)

    def get(self, place: Place) -> Fold | None:
        """Return the fold of a place, None where no message has opened it."""
        return self._by_place.get(place)

    def stored(self) -> list[Fold]:
        """Return the stored form."""
        return list(self._by_place.values())

    def open(self, place: Place, item: Item, slot: Slot) -> DropReason | None:
        """Open a fold with its first message; return why that is not possible, or None."""
        size = self.bytes + FOLD_BYTES + item.bytes
        if len(self._by_place) >= FOLDS_MAX or size > FOLDS_BYTES_MAX:
            return _FOLDS_FULL
        class_, key, op, n = place
        reason = slot(class_, item.message)
        if reason is None:
            self.bytes = size
            self._by_place[place] = Fold(class_, key, op, n, 1, item.value, [item])
        return reason

    def add_free(self, class_: int, id_: int, flags: int, size: int, message: Message) -> bool:
        """Add a message where that opens nothing, takes no slot and finds its bytes free; return whether it was added.

        ``size`` as ``Item.bytes``.
        """
        merge = message.merge
        fold = None if merge is None else self._by_place.get((class_, merge.key, merge.op, merge.n))
        if merge is None or fold is None:
            return False
        value, items = merge.value, fold.items
        if not _VALUE_MIN <= value <= VALUE_MAX:
            return False
        if fold.op == _TOP:
            if len(items) < fold.n or value > items[-1].value:
                return False
        else:
            bytes_ = self.bytes + size - items[0].bytes
            if bytes_ > FOLDS_BYTES_MAX:
                return False
            self.bytes = bytes_
            items[0] = Item(size, id_, flags, value, message)
        fold.count += 1
        fold.total += value
        return True

    def add(self, fold: Fold, item: Item, slot: Slot) -> DropReason | None:
        """Add a message to its fold; return why that is not possible, or None."""
        items = fold.items
        if fold.op == _TOP:
            if not self._rank(fold, item, slot):
                return _FOLDS_FULL
        else:
            size = self.bytes + item.bytes - items[0].bytes
            if size > FOLDS_BYTES_MAX:
                return _FOLDS_FULL
            self.bytes = size
            items[0] = item
        fold.count += 1
        fold.total += item.value
        return None

    def _rank(self, fold: Fold, item: Item, slot: Slot) -> bool:
        """Put a payload in its place among the largest, where it has one; False where it would and cannot be kept.

        Of equal values the earlier one stays in front. Without a slot for one more, the smallest gives way.
        """
        items = fold.items
        is_larger = item.value > items[-1].value
        size = self.bytes + item.bytes
        if len(items) < fold.n and size <= FOLDS_BYTES_MAX and slot(fold.priority, item.message) is None:
            self.bytes = size
        elif is_larger:
            size -= items[-1].bytes
            if size > FOLDS_BYTES_MAX:
                return False
            self.bytes = size
            items.pop()
        else:
            return True
        place = next((place for place, other in enumerate(items) if item.value > other.value), len(items))
        items.insert(place, item)
        return True

    def publications(self) -> Iterator[tuple[Fold, Item, dict[str, str]]]:
        """Yield what the folds say when their window closes: fold, payload, tags; in the order in which it is sent."""
        for fold in self._by_place.values():
            for item in fold.items:
                value = fold.total if fold.op == _SUM else item.value
                own = item.message.tags or {}
                said = {"merge_key": fold.key, "merge_count": str(fold.count), "merge_value": value_text(value)}
                yield fold, item, own | said


def value_text(value: float) -> str:
    """Return a value as in ``tags.merge_value``: whole numbers without a point, others with all their digits."""
    return str(int(value)) if value.is_integer() and abs(value) < _WHOLE_MAX else repr(value)
