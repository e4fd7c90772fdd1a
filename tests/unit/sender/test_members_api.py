"""Members over HTTP, with a real member worker on the twins: added, removed, paged, counted, and not half done."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from fanout.core.limits import CURSOR_TTL_S, MEMBERS_APPLIED_TIMEOUT_S
from sharding.placement import shard_of
from tests.support.sending import API_KEY, OTHER_KEY, Sending, api, sending, two_apps
from tests.support.virtual_time import LoopClock, run
from workers.member_worker import MemberWorker

PATH = "/v1/rooms/group:r/members"
KEY = {"X-API-Key": API_KEY}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[tuple[Sending, httpx.AsyncClient]]:
    """Yield a sender with its API and a member worker."""
    async with sending(LoopClock()) as parts, api(parts, two_apps()) as client:
        worker = MemberWorker(log=parts.log, store=parts.store, clock=parts.clock)
        await worker.start()
        client.headers.update(KEY)
        try:
            yield parts, client
        finally:
            await worker.close()


async def delete(client: httpx.AsyncClient, users: list[str]) -> httpx.Response:
    return await client.request("DELETE", PATH, json={"users": users})


async def pages(client: httpx.AsyncClient, limit: int) -> list[dict[str, Any]]:
    """Return all members, page by page."""
    items: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = (await client.get(PATH, params={"cursor": cursor, "limit": limit})).json()
        assert len(page["items"]) <= limit
        items += page["items"]
        cursor = page["next"]
        if cursor is None:
            return items


def test_a_user_counts_when_the_answer_has_come_and_no_longer_after_the_next() -> None:
    async def play() -> None:
        async with world() as (parts, client):
            users: list[Any] = ["ann", {"user": "bob", "roles": ["host"], "tags": ["vip"]}]
            answer = await client.put(PATH, json={"users": users})
            assert answer.json() == {"room": "group:r", "users": 2}
            members, shards = parts.store.members, await parts.store.members.shards("shop/group:r", 0)
            assert await members.contains("shop/group:r", shard_of("ann", shards), "ann")
            assert (await client.get("/v1/rooms/group:r/count")).json() == {"room": "group:r", "members": 2}
            (bob,) = [item for item in await pages(client, 10) if item["user"] == "bob"]
            assert (bob["roles"], bob["tags"]) == (["host"], ["vip"])
            assert bob["joined_ms"] > 0
            assert (await delete(client, ["ann"])).status_code == 200
            assert not await members.contains("shop/group:r", shard_of("ann", shards), "ann")
            assert [item["user"] for item in await pages(client, 10)] == ["bob"]

    run(play())


@pytest.mark.parametrize("limit", [1, 7, 100, 500])
def test_pages_give_every_member_exactly_once(limit: int) -> None:
    async def play() -> None:
        async with world() as (_, client):
            users = [f"user-{n}" for n in range(300)]
            assert (await client.put(PATH, json={"users": users})).status_code == 200
            assert sorted(item["user"] for item in await pages(client, limit)) == sorted(users)

    run(play())


def test_stable_members_come_exactly_once_while_others_come_and_go() -> None:
    async def play() -> None:
        async with world() as (_, client):
            stable = [f"stable-{n}" for n in range(100)]
            await client.put(PATH, json={"users": stable + [f"gone-{n}" for n in range(50)]})
            seen: list[str] = []
            cursor: str | None = ""
            turn = 0
            while cursor is not None:
                page = (await client.get(PATH, params={"cursor": cursor, "limit": 10})).json()
                seen += [item["user"] for item in page["items"]]
                cursor = page["next"]
                await client.put(PATH, json={"users": [f"new-{turn}"]})
                await delete(client, [f"gone-{turn}"])
                turn += 1
            assert sorted(user for user in seen if user.startswith("stable")) == sorted(stable)
            assert len(seen) == len(set(seen))

    run(play())


def test_a_cursor_is_of_its_room_its_app_and_an_hour() -> None:
    async def play() -> None:
        async with world() as (parts, client):
            await client.put(PATH, json={"users": ["ann", "bob", "cyd"]})
            other = PATH.replace("group:r", "group:s")
            await client.put(other, json={"users": ["ann", "bob", "cyd"]})
            cursor = (await client.get(PATH, params={"limit": 1})).json()["next"]
            for path, headers in ((other, KEY), (PATH, {"X-API-Key": OTHER_KEY})):
                answer = await client.get(path, params={"cursor": cursor}, headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (400, 107)
            flipped = ("A" if cursor[0] != "A" else "B") + cursor[1:]
            assert (await client.get(PATH, params={"cursor": flipped})).status_code == 400
            assert (await client.get(PATH, params={"cursor": cursor})).status_code == 200
            assert isinstance(parts.clock, LoopClock)
            parts.clock.skew_ms = CURSOR_TTL_S * 1_000
            assert "out of date" in (await client.get(PATH, params={"cursor": cursor})).json()["detail"]

    run(play())


def test_without_a_member_worker_the_change_is_answered_503_after_a_bound_and_can_be_repeated() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            before_s = parts.clock.monotonic_s()
            answer = await client.put(PATH, json={"users": ["ann"]})
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert MEMBERS_APPLIED_TIMEOUT_S <= parts.clock.monotonic_s() - before_s < MEMBERS_APPLIED_TIMEOUT_S + 1
            worker = MemberWorker(log=parts.log, store=parts.store, clock=parts.clock)
            await worker.start()
            assert (await client.put(PATH, json={"users": ["ann"]})).status_code == 200
            await worker.close()

    run(play())


def test_too_many_users_in_one_call_change_nothing() -> None:
    async def play() -> None:
        async with world() as (parts, client):
            answer = await client.put(PATH, json={"users": [f"u{n}" for n in range(10_001)]})
            assert (answer.status_code, answer.json()["reason"]) == (400, "limit_exceeded")
            assert await parts.store.members.shards("shop/group:r", 0) == 0
            assert (await client.put(PATH, json={"users": [f"u{n}" for n in range(10_000)]})).status_code == 200

    run(play())
