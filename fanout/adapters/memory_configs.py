"""What apps have set, in the memory of one process: a part of the store's twin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fanout.ports import PoliciesSet

if TYPE_CHECKING:
    from fanout.adapters.memory_store import MemoryState


class MemoryConfigs:
    """``ports.Configs`` in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def versions(self) -> Mapping[str, tuple[int, int]]:
        """Return (version, logged) by app."""
        self._state.check()
        return {app: (held.version, held.logged) for app, held in self._state.configs.items()}

    async def get(self, app: str) -> PoliciesSet | None:
        """Return what an app has set, or None."""
        self._state.check()
        return self._state.configs.get(app)

    async def put(self, app: str, previous: int, version: int, policies: bytes) -> bool:
        """Set, where the version is still ``previous``; False where it is another."""
        self._state.check()
        held = self._state.configs.get(app, PoliciesSet(0, 0, b""))
        if held.version != previous:
            return False
        self._state.configs[app] = held._replace(version=version, policies=policies)
        return True

    async def logged(self, app: str, version: int) -> None:
        """Note that a version is on all partitions."""
        self._state.check()
        held = self._state.configs.get(app)
        if held is not None:
            self._state.configs[app] = held._replace(logged=max(held.logged, version))
