"""What one session is subscribed to. Most listen to one room, and there are hundreds of thousands of them: pure, small.

A dict for one entry is 232 bytes with its header, this is 40; for two it is 288 with a dict and 112 as a tuple.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fanout.gateway.room import Subscription

_TUPLE_MAX: Final = 4  # looked through one by one


class Subscriptions:
    """Subscriptions by room name: nothing or one as it is, a few in a tuple, more in a dict; in order of coming."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: Subscription | tuple[Subscription, ...] | dict[str, Subscription] | None = None

    def __len__(self) -> int:
        held = self._held
        if held is None:
            return 0
        return len(held) if isinstance(held, dict | tuple) else 1

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def get(self, name: str) -> Subscription | None:
        """Return the subscription to a room, None where there is none."""
        held = self._held
        if isinstance(held, dict):
            return held.get(name)
        return next((one for one in self._few() if one.room.name == name), None)

    def add(self, subscription: Subscription) -> None:
        """Add a subscription; there is none to its room yet."""
        held = self._held
        if isinstance(held, dict):
            held[subscription.room.name] = subscription
        else:
            self._hold((*self._few(), subscription))

    def pop(self, name: str) -> Subscription | None:
        """Remove and return the subscription to a room, None where there is none."""
        held = self._held
        if isinstance(held, dict):
            removed = held.pop(name, None)
            if len(held) <= _TUPLE_MAX:
                self._hold(tuple(held.values()))
            return removed
        removed = self.get(name)
        if removed is not None:
            self._hold(tuple(one for one in self._few() if one is not removed))
        return removed

    def values(self) -> list[Subscription]:
        """Return all of them, in the order in which they came."""
        held = self._held
        return list(held.values()) if isinstance(held, dict) else list(self._few())

    def _few(self) -> tuple[Subscription, ...]:
        held = self._held
        if isinstance(held, tuple):
            return held
        assert not isinstance(held, dict), "those are many"
        return () if held is None else (held,)

    def _hold(self, few: tuple[Subscription, ...]) -> None:
        if len(few) > _TUPLE_MAX:
            self._held = {one.room.name: one for one in few}
        else:
            self._held = few if len(few) > 1 else few[0] if few else None
