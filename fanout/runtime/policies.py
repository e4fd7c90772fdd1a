"""The policies that apps have set, as this process knows them: looked up at admission, brought up to date beside it.

What acts in a room behind the log is the record that brought a policy there; this is for what is decided before the
log. While the store does not answer the last known policies hold, and a process that has never reached it goes by the
profiles.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from fanout.core.errors import RecordError, Unavailable
from fanout.core.limits import POLICIES_LOOK_S
from fanout.core.policies import decode_policies
from fanout.core.profiles import Policy, Profiles, namespace_of
from fanout.ports import Configs
from fanout.runtime.metrics import POLICY_VERSION

_log: Final = structlog.get_logger(__name__)


class Policies:
    """``of`` never waits; ``start`` looks once, then every second until ``close``."""

    def __init__(self, configs: Configs, profiles: Profiles) -> None:
        self._configs = configs
        self._profiles = profiles
        self._versions: dict[str, int] = {}
        self._by_app: dict[str, dict[str, Policy]] = {}
        self._task: asyncio.Task[None] | None = None
        # One look at a time: the answer to an older one must not undo what a newer one has brought.
        self._looking = asyncio.Lock()

    async def start(self) -> None:
        """Begin to look; a store that does not answer is asked again."""
        with contextlib.suppress(Unavailable):
            await self.refresh()
        self._task = asyncio.create_task(self._look_for_ever(), name="policies")

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def of(self, app: str, room: str) -> Policy:
        """Return the policy of a room; raises Refused ``unknown_namespace``."""
        default = self._profiles.of(room).policy
        policies = self._by_app.get(app)
        return default if policies is None else policies.get(namespace_of(room), default)

    async def refresh(self) -> None:
        """Fetch what has changed; raises Unavailable. An app that the store knows nothing of has its profiles'."""
        async with self._looking:
            versions = await self._configs.versions()
            for app in self._versions.keys() - versions.keys():
                del self._versions[app]
                self._by_app.pop(app, None)
            for app, (version, _) in versions.items():
                if self._versions.get(app) != version:
                    await self._fetch(app)
        POLICY_VERSION.set(max(self._versions.values(), default=0))

    async def _fetch(self, app: str) -> None:
        found = await self._configs.get(app)
        if found is None:
            return
        self._versions[app] = found.version
        try:
            self._by_app[app] = decode_policies(found.policies)
        except RecordError as error:  # the engine that wrote it is newer; what was known holds
            _log.error("policies of an app are unreadable", app=app, version=found.version, detail=error.detail)

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(POLICIES_LOOK_S)
            try:
                await self.refresh()
            except Unavailable:
                continue  # readiness says so
            except Exception as error:  # one failed look must not end all later ones
                _log.error("a look at the policies failed", error=repr(error))
