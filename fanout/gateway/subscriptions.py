"""What one session is subscribed to. Most listen to one room, and there are hundreds of thousands of them: pure, small.

A dict for one entry is 232 bytes with its header, this is 40.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fanout.gateway.room import Subscription


class Subscriptions:
    """Subscriptions by room name: nothing or one as it is, more in a dict."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: Subscription | dict[str, Subscription] | None = None

    def __len__(self) -> int:
        held = self._held
        if held is None:
            return 0
        return len(held) if isinstance(held, dict) else 1

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def get(self, name: str) -> Subscription | None:
        """Return the subscription to a room, None where there is none."""
        held = self._held
        if isinstance(held, dict):
            return held.get(name)
        return held if held is not None and held.room.name == name else None

    def add(self, subscription: Subscription) -> None:
        """Add a subscription; there is none to its room yet."""
        held = self._held
        if held is None:
            self._held = subscription
        elif isinstance(held, dict):
            held[subscription.room.name] = subscription
        else:
            self._held = {held.room.name: held, subscription.room.name: subscription}

    def pop(self, name: str) -> Subscription | None:
        """Remove and return the subscription to a room, None where there is none."""
        held = self._held
        if isinstance(held, dict):
            removed = held.pop(name, None)
            if not held:
                self._held = None
            return removed
        if held is None or held.room.name != name:
            return None
        self._held = None
        return held

    def values(self) -> list[Subscription]:
        """Return all of them, in the order in which they came."""
        held = self._held
        if held is None:
            return []
        return list(held.values()) if isinstance(held, dict) else [held]
