"""The sender over the twins: records, order, idempotency, permissions, rates, and what happens without log or store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from fanout.core.buckets import Rate
from fanout.core.errors import (
    BAD_REQUEST,
    DRAINING,
    IDEMPOTENCY_CONFLICT,
    PERMISSION_DENIED,
    TOO_MANY_REQUESTS,
    UNAVAILABLE,
    UNKNOWN_NAMESPACE,
    Problem,
    Refused,
)
from fanout.core.ids import time_of
from fanout.core.limits import APPENDS_WAITING_MAX, EPOCH_CACHE_S, LEASE_TTL_S, RETRY_AFTER_S
from fanout.core.messages import Priority
from fanout.core.publish import AskedMerge, Publish, Published
from fanout.core.records import KEYED, MESSAGE, MESSAGES
from fanout.ports import Appended, LogWriter
from fanout.sender.admission import Rates
from fanout.sender.idempotency import KeyedPublishes
from tests.support.sending import Sending, publish, sending
from tests.support.virtual_time import LoopClock, run


async def refusal(parts: Sending, **fields: object) -> Refused:
    with pytest.raises(Refused) as caught:
        await parts.sender.publish("dev", publish(**fields))  # type: ignore[arg-type]
    return caught.value


def test_a_publish_is_answered_with_the_position_of_its_record() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            before_ms = parts.clock.wall_ms()
            first = await parts.sender.publish("dev", publish(data={"n": 1}, priority="high", sender="ann"))
            second = await parts.sender.publish("dev", publish(data={"n": 2}))
            assert (first.offset, second.offset) == (1, 2)
            assert (first.priority, first.room, first.idempotent) == ("high", "open:r", None)
            (head, message), (other, _) = await parts.records()
            assert (head.kind, head.priority, head.flags, str(head.id)) == (MESSAGE, Priority.HIGH.value, 0, first.id)
            assert (message.data, message.sender) == (b'{"n":1}', "ann")
            assert message.sent_ms == before_ms
            assert other.id > head.id

    run(play())


def test_the_epoch_of_the_partition_is_answered_once_it_has_an_owner_and_asked_for_only_now_and_then() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            assert (await parts.sender.publish("dev", publish())).epoch == ""
            for partition in range(parts.log.partitions(MESSAGES)):
                await parts.store.epochs.claim(partition, 9, parts.clock.wall_ms(), "e1")
            await asyncio.sleep(1)
            assert (await parts.sender.publish("dev", publish())).epoch == "e1"
            parts.state.available = False
            await asyncio.sleep(LEASE_TTL_S / 2 - 1.5)
            parts.state.available = True
            assert (await parts.sender.publish("dev", publish())).epoch == "e1"
            parts.state.flush()
            for partition in range(parts.log.partitions(MESSAGES)):
                await parts.store.epochs.claim(partition, 9, parts.clock.wall_ms(), "e2")
            await asyncio.sleep(EPOCH_CACHE_S)
            assert (await parts.sender.publish("dev", publish())).epoch == "e2"

    run(play())


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"room": "nope:r"}, UNKNOWN_NAMESPACE),
        ({"room": "#ann"}, PERMISSION_DENIED),
        ({"priority": "urgent"}, BAD_REQUEST),
    ],
)
def test_what_is_refused_leaves_nothing_on_the_log(fields: dict[str, object], problem: Problem) -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            assert (await refusal(parts, **fields)).problem is problem
            ends = await parts.log.ends(MESSAGES, range(parts.log.partitions(MESSAGES)))
            assert not any(end for _, end in ends.values())

    run(play())


def test_concurrent_publishes_of_a_room_keep_their_order_and_join_in_one_append() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            answers = await asyncio.gather(*(parts.sender.publish("dev", publish(data=n)) for n in range(500)))
            assert [answer.offset for answer in answers] == list(range(1, 501))
            assert [message.data for _, message in await parts.records()] == [b"%d" % n for n in range(500)]

    run(play())


def test_a_batch_keeps_the_order_of_each_room_and_each_message_has_its_own_outcome() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            batch = [publish(f"open:r{n % 3}", n) for n in range(300)]
            batch[7] = publish("nope:r")
            outcomes = await parts.sender.publish_batch("dev", batch)
            assert isinstance(outcomes[7], Refused)
            for room in range(3):
                numbers = [n for n in range(room, 300, 3) if n != 7]
                assert [message.data for _, message in await parts.records(f"open:r{room}")] == [
                    b"%d" % n for n in numbers
                ]
                offsets = [outcome.offset for outcome in map(outcomes.__getitem__, numbers)
                           if isinstance(outcome, Published)]  # fmt: skip
                assert offsets == sorted(offsets)
                assert len(offsets) == len(numbers)

    run(play())


def test_a_batch_larger_than_one_append_is_cut_and_stays_in_order() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            outcomes = await parts.sender.publish_batch("dev", [publish(data=f"{n:05}" * 5_000) for n in range(60)])
            offsets = [outcome.offset for outcome in outcomes if isinstance(outcome, Published)]
            assert offsets == list(range(1, 61))
            assert [message.data[1:6] for _, message in await parts.records()] == [b"%05d" % n for n in range(60)]

    run(play())


def test_an_empty_batch_has_no_outcomes() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            assert await parts.sender.publish_batch("dev", []) == []

    run(play())


def test_a_repeat_under_the_same_id_is_answered_and_appended_once() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            first = await parts.sender.publish("dev", publish(id="k"))
            assert await parts.sender.publish("dev", publish(id="k")) == first
            ((head, message),) = await parts.records()
            assert head.flags & KEYED
            assert message.key == "k"
            again, third = await parts.sender.publish_batch("dev", [publish(id="k"), publish(id="other")])
            assert again == first
            assert isinstance(third, Published)
            assert third.id != first.id

    run(play())


def test_the_same_id_with_another_body_is_a_conflict_and_in_another_room_or_app_is_not() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            await parts.sender.publish("dev", publish(id="k", tags={"a": "1", "b": "2"}))
            await parts.sender.publish("dev", publish(id="k", tags={"b": "2", "a": "1"}))
            assert (await refusal(parts, id="k", data=2)).problem is IDEMPOTENCY_CONFLICT
            assert (await refusal(parts, id="k", priority="low")).problem is IDEMPOTENCY_CONFLICT
            (outcome,) = await parts.sender.publish_batch("dev", [publish(id="k", sender="ann")])
            assert isinstance(outcome, Refused)
            assert outcome.problem is IDEMPOTENCY_CONFLICT
            await parts.sender.publish("dev", publish("open:other", 2, id="k"))
            await parts.sender.publish("shop", publish(data=2, id="k"))

    run(play())


def test_the_same_id_merged_in_another_way_is_a_conflict() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:

            def like(value: float) -> Publish:
                return publish("live:r", id="k", priority="low", merge=AskedMerge("likes", "sum", value))

            first = await parts.sender.publish("dev", like(1))
            assert await parts.sender.publish("dev", like(1)) == first
            (outcome,) = await parts.sender.publish_batch("dev", [like(2)])
            assert isinstance(outcome, Refused) and outcome.problem is IDEMPOTENCY_CONFLICT

    run(play())


def test_a_client_cannot_take_the_id_of_another_user() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            ann = await parts.sender.publish("dev", publish(id="k"), from_client=True, client_user="ann")
            bob = await parts.sender.publish("dev", publish(data=2, id="k"), from_client=True, client_user="bob")
            assert ann.id != bob.id
            again = await parts.sender.publish("dev", publish(id="k"), from_client=True, client_user="ann")
            assert again == ann

    run(play())


def test_a_repeat_whose_first_append_was_never_confirmed_is_appended_again_under_the_same_id() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            parts.log.available = False
            refused = await refusal(parts, id="k")
            assert refused.problem is UNAVAILABLE
            assert refused.retry_after_s == RETRY_AFTER_S
            parts.log.available = True
            first = await parts.sender.publish("dev", publish(id="k"))
            assert await parts.sender.publish("dev", publish(id="k")) == first
            ((head, _),) = await parts.records()
            assert str(head.id) == first.id

    run(play())


def test_without_the_store_a_keyed_message_is_accepted_and_said_not_to_be_idempotent() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            parts.state.available = False
            answer = await parts.sender.publish("dev", publish(id="k"))
            assert answer.idempotent is False
            (batched,) = await parts.sender.publish_batch("dev", [publish(id="k2")])
            assert isinstance(batched, Published)
            assert batched.idempotent is False
            assert len(await parts.records()) == 2

    run(play())


def test_an_id_that_cannot_be_settled_is_appended_again_and_dropped_behind_the_log() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            claimed = await KeyedPublishes(parts.store.keys).claim("dev/open:r", "k", 5, b"d", Priority.NORMAL)
            assert (claimed.id, claimed.offset) == (5, None)
            parts.state.available = False
            await KeyedPublishes(parts.store.keys).settle("dev/open:r", "k", 5, 1)
            parts.state.available = True
            again = await KeyedPublishes(parts.store.keys).claim("dev/open:r", "k", 6, b"d", Priority.NORMAL)
            assert (again.id, again.offset) == (5, None)

    run(play())


def test_with_the_log_away_publishes_are_refused_with_a_time_and_work_again_by_themselves() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            parts.log.available = False
            assert (await refusal(parts)).problem is UNAVAILABLE
            outcomes = await parts.sender.publish_batch("dev", [publish(), publish("open:other")])
            assert [outcome.problem for outcome in outcomes if isinstance(outcome, Refused)] == [UNAVAILABLE] * 2
            parts.log.available = True
            assert (await parts.sender.publish("dev", publish())).offset == 1

    run(play())


def test_without_a_fresh_id_node_publishes_are_refused_until_the_store_is_back() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            parts.state.available = False
            await asyncio.sleep(LEASE_TTL_S)
            assert parts.sender.readiness() == {"sender": True, "id_node": False}
            refused = await refusal(parts)
            assert refused.problem is UNAVAILABLE
            assert refused.retry_after_s is not None
            parts.state.available = True
            await asyncio.sleep(LEASE_TTL_S)
            assert parts.sender.readiness() == {"sender": True, "id_node": True}
            assert (await parts.sender.publish("dev", publish())).offset == 1

    run(play())


def test_a_reply_has_a_greater_id_than_its_parent() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            parent = await parts.sender.publish("dev", publish())
            reply = await parts.sender.publish("dev", publish(reply_to=parent.id))
            assert int(reply.id) > int(parent.id)
            (_, _), (_, message) = await parts.records()
            assert message.parent == int(parent.id)
            assert abs(time_of(int(reply.id)) - parts.clock.wall_ms()) < 60_000

    run(play())


@pytest.mark.parametrize(
    ("room", "subscribed", "priority", "allowed"),
    [
        ("live:r", True, "normal", True),
        ("live:r", True, "low", True),
        ("live:r", False, "normal", False),
        ("live:r", True, "high", False),
        ("open:r", False, "normal", True),
        ("open:r", False, "system", False),
        ("group:r", False, "normal", False),
    ],
)
def test_clients_publish_where_the_namespace_says_and_never_high_classes(
    room: str, subscribed: bool, priority: str, allowed: bool
) -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            said = publish(room, priority=priority, sender="somebody-else")
            try:
                await parts.sender.publish("dev", said, from_client=True, client_user="ann", subscribed=subscribed)
            except Refused as refused:
                assert not allowed
                assert refused.problem is PERMISSION_DENIED
            else:
                assert allowed
                ((_, message),) = await parts.records(room)
                assert message.sender == "ann"

    run(play())


def test_a_user_beyond_the_rate_is_told_when_to_come_back_and_others_are_not_hindered() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:

            async def say(user: str) -> None:
                await parts.sender.publish(
                    "dev", publish("live:r"), from_client=True, client_user=user, subscribed=True
                )

            for _ in range(20):
                await say("ann")
            with pytest.raises(Refused) as caught:
                await say("ann")
            assert caught.value.problem is TOO_MANY_REQUESTS
            assert caught.value.retry_after_s == pytest.approx(0.2)
            await say("bob")
            await parts.sender.publish("dev", publish("live:r"))
            await asyncio.sleep(0.2)
            await say("ann")

    run(play())


def test_rooms_and_apps_have_rates_and_open_rooms_have_none() -> None:
    async def play() -> None:
        rates = Rates(room=Rate(1, 2), app=Rate(1, 3))
        async with sending(LoopClock(), rates=rates) as parts:
            await parts.sender.publish("dev", publish("live:r"))
            await parts.sender.publish("dev", publish("live:r"))
            assert "room" in (await refusal(parts, room="live:r")).detail
            await parts.sender.publish("dev", publish("live:other"))
            assert "app" in (await refusal(parts, room="live:third")).detail
            await parts.sender.publish("shop", publish("live:r"))
            for _ in range(10):
                await parts.sender.publish("dev", publish())

    run(play())


def test_a_draining_sender_refuses_and_what_came_before_is_finished() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            before = asyncio.create_task(parts.sender.publish("dev", publish()))
            await asyncio.sleep(0)
            await parts.sender.drain()
            assert (await before).offset == 1
            assert (await refusal(parts)).problem is DRAINING
            (outcome,) = await parts.sender.publish_batch("dev", [publish()])
            assert isinstance(outcome, Refused)
            assert parts.sender.readiness()["sender"] is False

    run(play())


class SlowWriter:
    """A writer that answers when it is told to; unlike the twin, whose appends never wait."""

    def __init__(self, writer: LogWriter) -> None:
        self.inner = writer
        self.go = asyncio.Event()
        self.appends: list[int] = []

    async def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> Appended:
        return await self.append_many(topic, partition, [(key, value)])

    async def append_many(
        self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None]]
    ) -> Appended:
        self.appends.append(len(records))
        await self.go.wait()
        return await self.inner.append_many(topic, partition, records)

    async def close(self) -> None:
        await self.inner.close()


def slow_down(parts: Sending) -> SlowWriter:
    """Put a slow writer under the sender's appender."""
    appender = parts.sender._appender
    assert appender is not None
    slow = SlowWriter(appender._writer)
    appender._writer = slow
    return slow


def test_what_comes_during_an_append_goes_together_in_the_next() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            slow = slow_down(parts)
            first = asyncio.create_task(parts.sender.publish("dev", publish()))
            await asyncio.sleep(0.001)
            others = [asyncio.create_task(parts.sender.publish("dev", publish())) for _ in range(50)]
            await asyncio.sleep(0.001)
            slow.go.set()
            await asyncio.gather(first, *others)
            assert slow.appends == [1, 50]

    run(play())


def test_beyond_the_bound_of_waiting_messages_publishes_are_refused_at_once() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            slow = slow_down(parts)
            batch = [publish() for _ in range(1_000)]
            waiting = []
            for _ in range(21):
                waiting.append(asyncio.create_task(parts.sender.publish_batch("dev", batch)))
                await asyncio.sleep(0.01)  # a node has 128 ids a ms
            assert (await refusal(parts)).problem is UNAVAILABLE
            slow.go.set()
            outcomes = [outcome for batch in await asyncio.gather(*waiting) for outcome in batch]
            assert sum(isinstance(outcome, Published) for outcome in outcomes) == APPENDS_WAITING_MAX
            assert sum(isinstance(outcome, Refused) for outcome in outcomes) == 1_000
            assert (await parts.sender.publish("dev", publish())).offset == APPENDS_WAITING_MAX + 1

    run(play())


def test_a_caller_that_goes_away_leaves_its_message_on_the_log_and_disturbs_nobody() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            slow = slow_down(parts)
            gone = asyncio.create_task(parts.sender.publish("dev", publish(data=1)))
            stays = asyncio.create_task(parts.sender.publish("dev", publish(data=2)))
            await asyncio.sleep(0.001)
            gone.cancel()
            await asyncio.sleep(0.001)
            slow.go.set()
            assert (await stays).offset == 2
            assert len(await parts.records()) == 2

    run(play())


def test_a_sender_that_is_closed_tells_those_who_wait_that_nothing_is_known() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            slow_down(parts)
            waiting = [asyncio.create_task(parts.sender.publish("dev", publish())) for _ in range(3)]
            await asyncio.sleep(0.001)
            later = asyncio.create_task(parts.sender.publish("dev", publish()))
            await asyncio.sleep(0.001)
            await parts.sender.drain()
            await parts.sender.close()
            outcomes = await asyncio.gather(*waiting, later, return_exceptions=True)
            assert all(isinstance(one, Refused) and one.problem is UNAVAILABLE for one in outcomes)

    run(play())


def test_an_append_that_fails_inside_is_answered_and_the_partition_goes_on() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            slow = slow_down(parts)
            inner, slow.inner = slow.inner, cast(LogWriter, None)
            slow.go.set()
            assert (await refusal(parts)).problem is UNAVAILABLE
            slow.inner = inner
            assert (await parts.sender.publish("dev", publish())).offset == 1

    run(play())


def test_the_place_of_many_rooms_is_remembered_within_a_bound() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            for start in range(0, 66_000, 1_000):
                await parts.sender.publish_batch("dev", [publish(f"open:{start + n}") for n in range(1_000)])
                await asyncio.sleep(0.01)  # a node has 128 ids a ms
            assert len(parts.sender._places) <= 65_536

    run(play())
