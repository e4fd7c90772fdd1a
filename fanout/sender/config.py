"""Changing policies while the engine runs: ``/v1/config``.

A change is set in the store first, with a version of its own, and then appended to every partition of ``messages``; the
caller is answered when the log has it everywhere. A change that got only half-way, because the log or this process
failed, is completed by the next one of the app, or by any sender within seconds: the store knows which version is on
all partitions. A record that stands twice changes nothing the second time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import structlog

from fanout.core.buckets import Buckets, Rate
from fanout.core.errors import NOT_AVAILABLE, TOO_MANY_REQUESTS, UNAVAILABLE, RecordError, Refused, Unavailable
from fanout.core.limits import (
    POLICY_CHANGE_BURST,
    POLICY_CHANGES_PER_S,
    POLICY_COMPLETE_S,
    POLICY_TURNS_MAX,
    RETRY_AFTER_S,
)
from fanout.core.policies import (
    as_fields,
    decode_policies,
    encode_policies,
    namespace_policy,
    next_version,
    parse_policy,
)
from fanout.core.profiles import Policy, Profiles
from fanout.core.records import MESSAGES, POLICY, PolicyChange, encode
from fanout.ports import Clock, Configs, Log, LogWriter
from fanout.runtime.metrics import POLICY_CHANGES
from fanout.runtime.policies import Policies

_APPENDS: Final = 2  # tries of a caller; what is left then is completed in the background

logger = structlog.get_logger(__name__)


class ConfigAnswer(msgspec.Struct):
    """An app's policies by namespace, each with all its fields. ``version`` 0: nothing was ever set.

    ``complete``: that version is on all partitions of the log; false for seconds at most while the log answers.
    """

    version: int
    complete: bool
    policies: dict[str, dict[str, Any]]


class PolicyAnswer(msgspec.Struct):
    """The policy of a namespace that is on the log as this version."""

    namespace: str
    version: int
    policy: dict[str, Any]


class PolicyConfig:
    """Reads and changes the policies of apps. ``writer`` is the sender's durable one, ``policies`` what it knows."""

    def __init__(
        self,
        *,
        log: Log,
        configs: Configs,
        writer: LogWriter,
        profiles: Profiles,
        policies: Policies,
        clock: Clock,
    ) -> None:
        self._log, self._configs, self._writer = log, configs, writer
        self._profiles, self._policies, self._clock = profiles, policies, clock
        self._changes = Buckets(Rate(POLICY_CHANGES_PER_S, POLICY_CHANGE_BURST))
        self._unfinished: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to complete what got half-way."""
        self._task = asyncio.create_task(self._complete_for_ever(), name="policies: complete")

    async def close(self) -> None:
        """Stop; what got half-way is another sender's."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def show(self, app: str) -> ConfigAnswer:
        """Return what an app has set, and the profiles' policies for the rest. Raises Refused, Unavailable."""
        held = await self._configs.get(app)
        given = _readable(held.policies) if held is not None else {}
        policies = {
            namespace: as_fields(given.get(namespace, profile.policy))
            for namespace, profile in self._profiles.namespaces.items()
        }
        if held is None:
            return ConfigAnswer(0, True, policies)
        return ConfigAnswer(held.version, held.logged >= held.version, policies)

    async def put(self, app: str, namespace: str, body: bytes) -> PolicyAnswer:
        """Set a namespace's policy; returns when it is on the log everywhere. Raises Refused, Unavailable."""
        try:
            policy = parse_policy(body, namespace_policy(self._profiles, namespace))
        except Refused:
            POLICY_CHANGES.labels("refused").inc()
            raise
        return await self._change(app, namespace, lambda policies: {**policies, namespace: policy})

    async def reset(self, app: str, namespace: str) -> PolicyAnswer:
        """Go back to the profile's policy; returns when that is on the log everywhere. Raises Refused, Unavailable."""
        namespace_policy(self._profiles, namespace)
        return await self._change(
            app, namespace, lambda policies: {name: one for name, one in policies.items() if name != namespace}
        )

    async def _change(
        self, app: str, namespace: str, change: Callable[[Mapping[str, Policy]], Mapping[str, Policy]]
    ) -> PolicyAnswer:
        self._take_turn(app)
        version, policies = await self._set(app, change)
        await self._append(app, version, encode_policies(policies))
        POLICY_CHANGES.labels("set").inc()
        with contextlib.suppress(Unavailable):  # it is on the log; the rest is done by the next look
            await self._configs.logged(app, version)
            await self._policies.refresh()
        policy = policies.get(namespace, namespace_policy(self._profiles, namespace))
        return PolicyAnswer(namespace, version, as_fields(policy))

    def _take_turn(self, app: str) -> None:
        now_s = self._clock.monotonic_s()
        wait_s = self._changes.wait_s(app, now_s)
        if wait_s > 0:
            detail = f"policies: {POLICY_CHANGES_PER_S:g} changes/s, {POLICY_CHANGE_BURST} at once"
            raise Refused(TOO_MANY_REQUESTS, detail, retry_after_s=wait_s)
        self._changes.take(app, now_s)

    async def _set(
        self, app: str, change: Callable[[Mapping[str, Policy]], Mapping[str, Policy]]
    ) -> tuple[int, Mapping[str, Policy]]:
        """Set an app's policies in the store, on top of what others set meanwhile; return version and policies."""
        for _ in range(POLICY_TURNS_MAX):
            held = await self._configs.get(app)
            previous = held.version if held is not None else 0
            policies = change(_readable(held.policies) if held is not None else {})
            version = next_version(previous, self._clock.wall_ms())
            if await self._configs.put(app, previous, version, encode_policies(policies)):
                return version, policies
        POLICY_CHANGES.labels("overtaken").inc()
        raise Refused(
            UNAVAILABLE, "policies: others change them at the same time; try again", retry_after_s=RETRY_AFTER_S
        )

    async def _append(self, app: str, version: int, policies: bytes) -> None:
        """Append a version to every partition; raises Refused ``unavailable`` where some did not take it."""
        record = encode(POLICY, PolicyChange(app, version, policies))
        missing = list(range(self._log.partitions(MESSAGES)))
        error: BaseException | None = None
        for _ in range(_APPENDS):
            results = await asyncio.gather(
                *(self._writer.append(MESSAGES, partition, None, record) for partition in missing),
                return_exceptions=True,
            )
            failed = [(one, why) for one, why in zip(missing, results, strict=True) if isinstance(why, BaseException)]
            if not failed:
                return
            missing, error = [one for one, _ in failed], failed[0][1]
        POLICY_CHANGES.labels("half_way").inc()
        logger.warning("policies are not on all partitions", app=app, version=version, error=repr(error))
        detail = f"version {version} is set and not everywhere on the log yet; it will be, or repeat the call ({error})"
        raise Refused(UNAVAILABLE, detail, retry_after_s=RETRY_AFTER_S)

    async def complete(self) -> None:
        """Append versions that were on their way at the last look already; raises Unavailable, Refused."""
        versions = await self._configs.versions()
        unfinished = {app: version for app, (version, logged) in versions.items() if logged < version}
        due = [app for app, version in unfinished.items() if self._unfinished.get(app) == version]
        self._unfinished = unfinished
        for app in due:
            held = await self._configs.get(app)
            if held is not None:
                await self._append(app, held.version, held.policies)
                await self._configs.logged(app, held.version)
                POLICY_CHANGES.labels("completed").inc()

    async def _complete_for_ever(self) -> None:
        while True:
            await asyncio.sleep(POLICY_COMPLETE_S)
            try:
                await self.complete()
            except (Unavailable, Refused):
                continue  # the next look tries again
            except Exception as error:  # one failed look must not end all later ones
                logger.error("completing policies failed", error=repr(error))


def _readable(encoded: bytes) -> dict[str, Policy]:
    try:
        return decode_policies(encoded)
    except RecordError as error:
        detail = f"policies: a newer engine has set them ({error.detail}); change them there"
        raise Refused(NOT_AVAILABLE, detail) from error
