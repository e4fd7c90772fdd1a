"""What the API tells of messages: ledgers of rooms and of apps, outcomes of single messages."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from fanout.core.ledger import differences
from fanout.core.limits import LEDGER_SPAN_MS
from fanout.core.messages import Priority
from fanout.core.profiles import Profiles
from fanout.core.records import TRACKED
from fanout.ports import HistoryBatch
from fanout.sender.ledgers import LedgerReader
from sharding.placement import partition_of
from tests.support.batches import batch
from tests.support.rooms import DecidedRoom, Rec, message
from tests.support.sending import API_KEY, OTHER_KEY, Sending, api, sending, two_apps
from tests.support.virtual_time import LoopClock, run

ROOM = "live:stage"


async def told(parts: Sending, app: str, room: str, *ages_ms: int, id: int = 11) -> None:
    """Let a room worker decide about tracked messages of these ages and store what it did."""
    now_ms = parts.clock.wall_ms()
    decided = DecidedRoom()
    decided.room.key = f"{app}/{room}"
    for offset, age_ms in enumerate(ages_ms):
        value = message(Priority.HIGH, id + offset, flags=TRACKED)
        decided.turn([Rec(offset, value, timestamp=now_ms - age_ms)])
    epoch = (await parts.store.epochs.claim(place(decided.room.key), 0, now_ms, f"e{place(decided.room.key)}")).epoch
    assert not any(await parts.store.history.store([renamed(one, epoch) for one in decided.stored]))


def place(key: str) -> int:
    return partition_of(key.encode(), 64)


def renamed(one: HistoryBatch, epoch: str) -> HistoryBatch:
    """Return a batch as the owner of its partition would store it."""
    return batch(
        key=one.key,
        epoch=epoch,
        now_ms=one.now_ms,
        applied=one.applied,
        state=one.state,
        openings=one.openings,
        outcomes=one.outcomes,
        head=one.head,
        last=one.last,
    )


async def got(client: httpx.AsyncClient, path: str, key: str = "") -> dict[str, Any]:
    """Return the answer to a GET, which must succeed."""
    answer = await client.get(path, headers={"X-API-Key": key} if key else {})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def refused(client: httpx.AsyncClient, path: str, key: str = "") -> tuple[int, str, str]:
    """Return (status, reason, detail) of a GET that is refused."""
    answer = await client.get(path, headers={"X-API-Key": key} if key else {})
    body = answer.json()
    return answer.status_code, body["reason"], body["detail"]


def test_a_room_tells_everything_or_the_last_while() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            now_ms = parts.clock.wall_ms()
            await told(parts, "dev", ROOM, 7_200_000, 3_000_000, 60_000)
            everything = await got(client, f"/v1/rooms/{ROOM}/ledger")
            assert everything["accepted"]["high"] == 3
            assert everything["from"] == now_ms - 7_200_000
            assert everything["as_of"] == now_ms - 60_000
            assert everything["to"] >= now_ms
            hour = await got(client, f"/v1/rooms/{ROOM}/ledger?since=1h")
            assert (hour["accepted"]["high"], hour["kept"]["high"]) == (2, 2)
            assert hour["from"] % LEDGER_SPAN_MS == 0
            assert now_ms - 3_600_000 - LEDGER_SPAN_MS < hour["from"] <= hour["to"] - 3_600_000
            assert (await got(client, f"/v1/rooms/{ROOM}/ledger?since=10m"))["accepted"]["high"] == 1
            assert differences(hour) == differences(everything) == []

    run(play())


@pytest.mark.parametrize("since", ["2h", "0m", "an hour", "90s"])
def test_a_while_that_nobody_remembers_is_refused(since: str) -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            for path in (f"/v1/rooms/{ROOM}/ledger", "/v1/ledger"):
                status, reason, detail = await refused(client, f"{path}?since={since}")
                assert (status, reason) == (400, "bad_request")
                assert "since" in detail

    run(play())


def test_an_app_has_the_sum_of_its_rooms_and_of_nobody_elses() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts, two_apps()) as client:
            for number in range(20):
                await told(parts, "shop", f"live:{number}", 3_000_000, 60_000)
            await told(parts, "shop", "live:old", 7_200_000)
            await told(parts, "news", ROOM, 1_000)
            whole = await got(client, "/v1/ledger", API_KEY)
            assert (whole["app"], whole["rooms"], whole["next"]) == ("shop", 21, None)
            assert whole["accepted"]["high"] == whole["kept"]["high"] == 41
            assert whole["from"] <= whole["as_of"] <= whole["to"]
            hour = await got(client, "/v1/ledger?since=1h", API_KEY)
            assert (hour["rooms"], hour["accepted"]["high"]) == (20, 40)
            assert (await got(client, "/v1/ledger?since=5m", API_KEY))["accepted"]["high"] == 20
            assert (await got(client, "/v1/ledger", OTHER_KEY))["accepted"]["high"] == 1
            assert differences(whole) == differences(hour) == []

    run(play())


def test_an_app_without_rooms_has_an_empty_ledger() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            whole = await got(client, "/v1/ledger")
            assert (whole["rooms"], whole["from"], whole["as_of"], whole["next"]) == (0, 0, 0, None)
            assert differences(whole) == []

    run(play())


def test_an_app_of_many_rooms_is_read_in_pages_that_add_up() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts:
            for number in range(30):
                await told(parts, "dev", f"live:{number}", 60_000)
            reader = LedgerReader(store=parts.store, log=parts.log, profiles=Profiles(), clock=parts.clock, rooms_max=8)
            pages = [await reader.app("dev", "", 0)]
            while pages[-1]["next"] is not None:
                pages.append(await reader.app("dev", "", int(pages[-1]["next"])))
            assert len(pages) > 2
            assert sum(page["rooms"] for page in pages) == 30
            assert sum(page["accepted"]["high"] for page in pages) == 30

    run(play())


@pytest.mark.parametrize("cursor", ["-1", "x", "70000"])
def test_a_cursor_that_was_not_given_is_refused(cursor: str) -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            assert (await refused(client, f"/v1/ledger?cursor={cursor}"))[:2] == (400, "bad_request")

    run(play())


def test_a_tracked_message_is_pending_until_it_is_decided() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts, two_apps()) as client:
            body = {"room": ROOM, "data": 1, "priority": "high", "track": True}
            id = (await client.post("/v1/publish", json=body, headers={"X-API-Key": API_KEY})).json()["id"]
            pending = await got(client, f"/v1/messages/{id}/outcome", API_KEY)
            assert pending.pop("at_ms") == pytest.approx(parts.clock.wall_ms(), abs=1_000)
            assert pending == {"id": id, "room": ROOM, "outcome": "pending", "class": "high"}
            assert (await refused(client, f"/v1/messages/{id}/outcome", OTHER_KEY))[:2] == (404, "unknown_message")

            await told(parts, "shop", ROOM, 0, id=int(id))
            kept = await got(client, f"/v1/messages/{id}/outcome", API_KEY)
            assert (kept["outcome"], kept["class"], kept["offset"]) == ("kept", "high", 1)

    run(play())


def test_tracked_messages_of_a_batch_are_pending_and_the_others_unknown() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            messages = [{"room": ROOM, "data": n, "track": n % 2 == 0} for n in range(4)]
            answer = await client.post("/v1/publish/batch", json={"messages": messages})
            found = [
                (await client.get(f"/v1/messages/{one['id']}/outcome")).status_code for one in answer.json()["results"]
            ]
            assert found == [200, 404, 200, 404]

    run(play())


def test_without_the_store_a_tracked_publish_is_taken_all_the_same() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            await client.post("/v1/publish", json={"room": ROOM, "data": 1})
            parts.state.available = False
            body = {"room": ROOM, "data": 1, "track": True}
            answer = await client.post("/v1/publish", json=body)
            assert answer.status_code == 200
            assert (await refused(client, f"/v1/messages/{answer.json()['id']}/outcome"))[:2] == (503, "unavailable")

    run(play())


def test_what_became_of_a_dropped_message_is_told_with_the_reason() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            decided = DecidedRoom()
            decided.room.key = f"dev/{ROOM}"
            now_ms = parts.clock.wall_ms()
            values = [message(Priority.NORMAL, 21 + n, sender="ann", flags=TRACKED) for n in range(3)]
            decided.turn([Rec(n, value, timestamp=now_ms) for n, value in enumerate(values)])
            await parts.store.history.store(decided.stored)
            assert await got(client, "/v1/messages/23/outcome") == {
                "id": "23",
                "room": ROOM,
                "at_ms": now_ms,
                "outcome": "dropped",
                "class": "normal",
                "stage": "policy",
                "reason": "sender_cap",
            }

    run(play())


@pytest.mark.parametrize("id", ["0", "x", "-5", "007", "1" * 20, str(1 << 63), "1.5"])
def test_what_is_no_id_is_refused(id: str) -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            assert (await refused(client, f"/v1/messages/{id}/outcome"))[:2] == (400, "bad_request")

    run(play())
