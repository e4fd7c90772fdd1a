"""The way in: a checked message becomes a record, and its caller is answered when the log has it.

What is refused here has changed nothing. What fails after the append began is answered 503 and claims nothing: the log
may have the message, and a repeat under the same ``id`` is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from fanout.core.classes import class_of
from fanout.core.errors import DRAINING, UNAVAILABLE, OutOfIds, Refused, Unavailable
from fanout.core.limits import (
    DRAIN_SENDER_S,
    KEYS_ASKED_MAX,
    RETRY_AFTER_S,
)
from fanout.core.merge import check_merged
from fanout.core.messages import PRIORITIES, room_key, split_key
from fanout.core.profiles import Policy, Profiles
from fanout.core.publish import Publish, Published, to_message
from fanout.core.records import KEYED, MESSAGES, TRACKED
from fanout.ports import Clock, Log, LogWriter, Store
from fanout.runtime.metrics import MESSAGES_ACCEPTED, MESSAGES_REFUSED
from fanout.runtime.node_lease import IdNode
from fanout.sender.admission import Admission, Rates
from fanout.sender.admitted import Admitted, Part, Place, parts
from fanout.sender.appender import Appender
from fanout.sender.epochs import EpochCache
from fanout.sender.idempotency import KeyedPublishes, digest
from sharding.placement import partition_of

__all__ = ["Published", "Sender"]

logger = structlog.get_logger(__name__)

_PLACES_MAX: Final = 65_536  # remembered rooms; a hash in Python costs as much as the rest of a message
_ACCEPTED: Final = {priority: MESSAGES_ACCEPTED.labels(priority.word) for priority in PRIORITIES}


_Outcome = Published | Refused | Admitted


class Sender:
    """Publishes for the API and for a gateway's clients. Belongs to one event loop; ``holder`` names this process.

    ``policy_of`` (app, room) names the policy that a room's messages are classed by; without it the profile's.
    """

    def __init__(
        self,
        *,
        log: Log,
        store: Store,
        profiles: Profiles,
        clock: Clock,
        holder: str,
        rates: Rates | None = None,
        policy_of: Callable[[str, str], Policy] | None = None,
    ) -> None:
        self._log, self._profiles, self._clock = log, profiles, clock
        self._policy_of = policy_of or profiles.policy_of
        self._admission = Admission(rates)
        self._keyed = KeyedPublishes(store.keys)
        self._ledgers = store.ledgers
        self._epochs = EpochCache(store.epochs, clock)
        self._ids = IdNode(leases=store.leases, clock=clock, holder=holder, is_new=self._has_log_no_messages)
        self._writer: LogWriter | None = None
        self._appender: Appender | None = None
        self._places: dict[tuple[str, str], Place] = {}
        self._draining = False

    async def start(self) -> None:
        """Open the writer and lease an id node; without the store publishes are refused until it answers.

        Raises Unavailable where the log does not answer.
        """
        self._writer = await self._log.writer(durable=True)
        self._appender = Appender(self._writer)
        await self._ids.start()

    async def _has_log_no_messages(self) -> bool:
        """Return True where no message was ever appended, so that nobody can have given an id for one."""
        try:
            ends = await self._log.ends(MESSAGES, range(self._log.partitions(MESSAGES)))
        except Unavailable:
            return False
        return not any(end for _, end in ends.values())

    @property
    def writer(self) -> LogWriter:
        """The durable writer, for other records of this role (members). There is one from ``start`` on."""
        assert self._writer is not None, "the sender has not been started"
        return self._writer

    def readiness(self) -> dict[str, bool]:
        """Return whether publishes are taken, and whether ids may be given."""
        return {"sender": self._appender is not None and not self._draining, "id_node": self._ids.fresh}

    async def publish(
        self,
        app: str,
        publish: Publish,
        *,
        from_client: bool = False,
        client_user: str = "",
        subscribed: bool = False,
    ) -> Published:
        """Append one message and return its position; raises Refused.

        ``from_client``: the namespace's permissions and the user's rate count, and the sender is ``client_user``,
        whatever the body says. ``subscribed``: the client's session is subscribed to the room.
        """
        try:
            ready = self._admit(app, publish, self._clock.wall_ms(), from_client, client_user, subscribed)
            if ready.flags & KEYED:
                ready = await self._claim(ready)
            return await self._publish(ready)
        except Refused as refused:
            MESSAGES_REFUSED.labels(refused.problem.reason).inc()
            raise

    async def publish_batch(self, app: str, publishes: Sequence[Publish]) -> list[Published | Refused]:
        """Append messages, each with its own outcome, in their order; those of a room keep it on the log."""
        now_ms = self._clock.wall_ms()
        outcomes: list[_Outcome] = [self._try_admit(app, publish, now_ms) for publish in publishes]
        await self._claim_all(outcomes)
        await self._append_all(outcomes)
        results: list[Published | Refused] = []
        for outcome in outcomes:
            assert not isinstance(outcome, Admitted), "every message has an outcome"
            results.append(outcome)
            if isinstance(outcome, Refused):
                MESSAGES_REFUSED.labels(outcome.problem.reason).inc()
        return results

    async def drain(self) -> None:
        """Refuse what comes from now on, and wait (bounded) for the log's answers to what came before."""
        self._draining = True
        if self._appender is not None and not await self._appender.drain(DRAIN_SENDER_S):
            logger.warning("drain ends with unanswered appends", messages=self._appender.waiting)

    async def close(self) -> None:
        """Stop; appends without an answer fail with ``unavailable``."""
        self._draining = True
        await self._ids.close()
        await self._epochs.close()
        if self._appender is not None:
            await self._appender.close()

    def _admit(
        self, app: str, publish: Publish, now_ms: int, from_client: bool, client_user: str, subscribed: bool
    ) -> Admitted:
        """Check one message, take its tokens and give it an id; raises Refused, and has changed nothing then."""
        if self._draining:
            raise Refused(DRAINING, retry_after_s=RETRY_AFTER_S)
        message, asked, flags = to_message(publish, self._profiles, sent_ms=now_ms)
        profile = self._profiles.of(publish.room)
        place = self._place(app, publish.room)
        if from_client:
            self._admission.check_client(profile, asked, subscribed=subscribed)
            message.sender = client_user
        policy = self._policy_of(app, publish.room)
        priority = class_of(policy, asked, message.type, message.sender, from_client=from_client)
        if message.merge is not None:
            check_merged(priority.value, profile.kinds[priority.value].value)  # a policy may have raised it
        user = f"{app}/{client_user}" if client_user else ""
        now_s = self._clock.monotonic_s()
        priority = self._admission.take(app, place.key, user, profile, policy, priority, now_s)
        try:
            id = self._ids.next(now_ms, message.parent)
        except OutOfIds as error:
            raise Refused(UNAVAILABLE, str(error), retry_after_s=RETRY_AFTER_S) from error
        return Admitted(publish.room, place, id, message, priority, asked, flags, client_user)

    def _try_admit(self, app: str, publish: Publish, now_ms: int) -> Refused | Admitted:
        try:
            return self._admit(app, publish, now_ms, False, "", False)
        except Refused as refused:
            return refused

    def _place(self, app: str, room: str) -> Place:
        place = self._places.get((app, room))
        if place is None:
            if len(self._places) >= _PLACES_MAX:
                self._places.clear()
            key = room_key(app, room)
            partition = partition_of(key.encode(), self._log.partitions(MESSAGES))
            place = self._places[app, room] = Place(key, key.encode(), partition)
        return place

    async def _claim(self, ready: Admitted) -> Admitted:
        body = digest(ready.message, ready.asked)
        claimed = await self._keyed.claim(ready.place.key, ready.key, ready.id, body, ready.priority)
        return ready._replace(id=claimed.id, priority=claimed.priority, claimed=claimed)

    async def _publish(self, ready: Admitted) -> Published:
        """Append one message whose key, if any, has been claimed; where it stands already it is only answered."""
        known = ready.claimed.offset if ready.claimed is not None else None
        if known is not None:
            return await self._answer(ready, known)
        assert self._appender is not None, "admitted before start"
        try:
            offset = await self._appender.append(ready.place.partition, (ready.record(),))
        except Unavailable as error:
            raise _unanswered(error) from error
        _ACCEPTED[ready.priority].inc()
        await self._settle(ready, offset)
        if ready.flags & TRACKED:
            await self._expect([ready])
        return await self._answer(ready, offset)

    async def _settle(self, ready: Admitted, offset: int) -> None:
        if ready.claimed is not None and ready.claimed.idempotent:
            await self._keyed.settle(ready.place.key, ready.key, ready.id, offset)

    async def _expect(self, tracked: Sequence[Admitted]) -> None:
        """Note that messages are on the log and not decided yet; without the store nothing is known of them so far."""
        with contextlib.suppress(Unavailable):
            await self._ledgers.expect(split_key(tracked[0].place.key)[0], [ready.pending() for ready in tracked])

    async def _answer(self, ready: Admitted, offset: int) -> Published:
        epoch = self._epochs.cached(ready.place.partition)
        if epoch is None:
            epoch = await self._epochs.get(ready.place.partition)
        idempotent = False if ready.claimed is not None and not ready.claimed.idempotent else None
        return Published(str(ready.id), ready.room, offset + 1, epoch, ready.priority.word, idempotent)

    async def _claim_all(self, outcomes: list[_Outcome]) -> None:
        """Claim the keys of a batch, some at a time; what is refused or was published before gets its outcome."""
        turns = asyncio.Semaphore(KEYS_ASKED_MAX)

        async def claim(index: int, ready: Admitted) -> None:
            async with turns:
                try:
                    ready = await self._claim(ready)
                except Refused as refused:
                    outcomes[index] = refused
                    return
            known = ready.claimed.offset if ready.claimed is not None else None
            outcomes[index] = ready if known is None else await self._answer(ready, known)

        keyed = [(i, o) for i, o in enumerate(outcomes) if isinstance(o, Admitted) and o.flags & KEYED]
        if keyed:
            await asyncio.gather(*(claim(index, ready) for index, ready in keyed))

    async def _append_all(self, outcomes: list[_Outcome]) -> None:
        """Append what has been admitted, partitions side by side, and put every outcome in its place."""
        admitted = ((index, outcome) for index, outcome in enumerate(outcomes) if isinstance(outcome, Admitted))
        appends = [self._append_part(outcomes, part) for part in parts(admitted)]
        if len(appends) == 1:
            await appends[0]
        elif appends:
            await asyncio.gather(*appends)

    async def _append_part(self, outcomes: list[_Outcome], part: Part) -> None:
        assert self._appender is not None, "admitted before start"
        try:
            offset = await self._appender.append(part.partition, part.records)
            epoch = await self._epochs.get(part.partition)
        except (Refused, Unavailable) as error:
            refused = error if isinstance(error, Refused) else _unanswered(error)
            for index in part.indexes:
                outcomes[index] = refused
            return
        settles, tracked = [], []
        for place, index in enumerate(part.indexes):
            ready = outcomes[index]
            assert isinstance(ready, Admitted), "a part has admitted messages only"
            _ACCEPTED[ready.priority].inc()
            idempotent = None
            if ready.flags & TRACKED:
                tracked.append(ready)
            if ready.claimed is not None:
                settles.append((ready, offset + place))
                idempotent = None if ready.claimed.idempotent else False
            outcomes[index] = Published(
                str(ready.id), ready.room, offset + place + 1, epoch, ready.priority.word, idempotent
            )
        for start in range(0, len(settles), KEYS_ASKED_MAX):
            await asyncio.gather(*(self._settle(*settle) for settle in settles[start : start + KEYS_ASKED_MAX]))
        if tracked:
            await self._expect(tracked)


def _unanswered(error: Unavailable) -> Refused:
    detail = f"the log did not answer in time and may have the message; repeat it with the same id ({error})"
    return Refused(UNAVAILABLE, detail, retry_after_s=RETRY_AFTER_S)
