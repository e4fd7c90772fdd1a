"""Classes at admission: what raises a message, and what the quota of HIGH does to it."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from fanout.core.buckets import Rate
from fanout.core.errors import HIGH_QUOTA, TOO_MANY_REQUESTS, Refused
from fanout.core.messages import Priority
from fanout.core.profiles import Policy
from fanout.core.publish import Published
from fanout.sender.admission import Rates
from tests.support.sending import Sending, api, publish, sending
from tests.support.virtual_time import LoopClock, run

LIVE = "live:r"
RAISING = Policy(types={"gift": "high"}, raised_users=frozenset({"host"}))
QUOTA = Policy(high_per_s=2, high_burst=3)
DEGRADING = Policy(high_per_s=2, high_burst=3, high_excess="degrade")


async def high(parts: Sending, room: str = LIVE, **fields: str) -> Published:
    return await parts.sender.publish("dev", publish(room, priority="high", **fields))


def degraded() -> float:
    return REGISTRY.get_sample_value("fanout_messages_degraded_total", {"by": "admission"}) or 0.0


def test_type_and_sender_raise_a_message_and_the_answer_says_so() -> None:
    async def play() -> None:
        async with sending(LoopClock(), policy=RAISING) as parts:
            answers = [
                await parts.sender.publish("dev", publish(LIVE, type="gift")),
                await parts.sender.publish("dev", publish(LIVE, sender="host", priority="low")),
                await parts.sender.publish("dev", publish(LIVE, sender="ann", type="chat", priority="low")),
            ]
            assert [answer.priority for answer in answers] == ["high", "high", "low"]
            classes = [head.priority for head, _ in await parts.records(LIVE)]
            assert classes == [Priority.HIGH.value, Priority.HIGH.value, Priority.LOW.value]

    run(play())


def test_a_client_is_raised_by_who_it_is_and_not_by_the_type_that_it_names() -> None:
    async def play() -> None:
        async with sending(LoopClock(), policy=RAISING) as parts:
            said = publish(LIVE, type="gift", sender="host")
            for user, word in (("ann", "normal"), ("host", "high")):
                answer = await parts.sender.publish("dev", said, from_client=True, client_user=user, subscribed=True)
                assert answer.priority == word

    run(play())


def test_high_beyond_the_quota_of_its_room_is_refused_with_the_time_to_wait() -> None:
    async def play() -> None:
        async with sending(LoopClock(), policy=QUOTA) as parts:
            for _ in range(3):
                await high(parts)
            with pytest.raises(Refused) as caught:
                await high(parts)
            assert caught.value.problem is HIGH_QUOTA
            assert caught.value.retry_after_s == pytest.approx(0.5)
            assert "2 HIGH messages/s, 3 at once" in caught.value.detail
            await high(parts, "live:other")
            await parts.sender.publish("shop", publish(LIVE, priority="high"))
            for priority in ("system", "normal", "low"):
                await parts.sender.publish("dev", publish(LIVE, priority=priority))
            await asyncio.sleep(0.5)
            await high(parts)
            assert len(await parts.records(LIVE)) == 7

    run(play())


def test_a_message_that_was_raised_counts_against_the_quota_too() -> None:
    async def play() -> None:
        policy = Policy(high_per_s=1, high_burst=1, raised_users=frozenset({"host"}))
        async with sending(LoopClock(), policy=policy) as parts:
            said = publish(LIVE, sender="host")
            first, second = await parts.sender.publish_batch("dev", [said, said])
            assert isinstance(first, Published) and first.priority == "high"
            assert isinstance(second, Refused) and second.problem is HIGH_QUOTA

    run(play())


def test_where_the_policy_degrades_the_answer_says_normal_and_it_is_counted() -> None:
    async def play() -> None:
        before = degraded()
        async with sending(LoopClock(), policy=DEGRADING) as parts:
            assert [(await high(parts)).priority for _ in range(5)] == ["high"] * 3 + ["normal"] * 2
            assert [head.priority for head, _ in await parts.records(LIVE)] == [1, 1, 1, 2, 2]
        assert degraded() - before == 2

    run(play())


def test_a_repeat_has_the_class_of_the_first_though_the_quota_is_used_up() -> None:
    async def play() -> None:
        async with sending(LoopClock(), policy=DEGRADING) as parts:
            first = await high(parts, id="k")
            for _ in range(2):
                await high(parts)
            assert (await high(parts)).priority == "normal"
            assert await high(parts, id="k") == first
            late = await high(parts, id="l")
            await asyncio.sleep(10)
            assert late.priority == "normal"
            assert (await high(parts, id="l")).priority == "normal"

    run(play())


@pytest.mark.parametrize("room", ["group:r", "open:r"])
def test_rooms_that_are_not_thinned_have_no_quota(room: str) -> None:
    async def play() -> None:
        async with sending(LoopClock(), policy=QUOTA) as parts:
            assert {(await high(parts, room)).priority for _ in range(10)} == {"high"}

    run(play())


def test_what_another_rate_refuses_costs_the_room_nothing_of_its_quota() -> None:
    async def play() -> None:
        policy, rates = Policy(high_per_s=0.01, high_burst=2), Rates(room=Rate(1, 1))
        async with sending(LoopClock(), policy=policy, rates=rates) as parts:
            await high(parts)
            for _ in range(5):
                with pytest.raises(Refused) as caught:
                    await high(parts)
                assert caught.value.problem is TOO_MANY_REQUESTS
            await asyncio.sleep(1)
            await high(parts)

    run(play())


def test_the_quota_is_answered_429_with_its_reason_and_the_time() -> None:
    async def play() -> None:
        async with sending(LoopClock(), policy=QUOTA) as parts, api(parts) as client:
            body = {"room": LIVE, "data": 1, "priority": "high"}
            answers = [await client.post("/v1/publish", json=body) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            said = answers[3].json()
            assert (said["code"], said["reason"], said["retry_after_ms"]) == (429, "high_quota", 500)
            assert answers[3].headers["retry-after"] == "1"

    run(play())
