"""The HTTP API in process: answers, the one shape of every error, apps apart, and its own document."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
from litestar.types import Receive, Scope, Send

from fanout.core.errors import PROBLEMS, Unavailable
from fanout.core.limits import LEASE_TTL_S
from fanout.core.messages import PRIORITIES, Kind
from fanout.core.records import Entry, encode_body
from fanout.ports import HistoryBatch, HistoryEntry
from fanout.runtime.metrics import HTTP_REQUESTS, MESSAGES_REFUSED
from fanout.sender.members import MembersBody
from fanout.sender.shortcut import Shortcut
from sharding.placement import partition_of
from tests.support.sending import API_KEY, OTHER_KEY, Sending, api, sending, two_apps, whole_bodies
from tests.support.virtual_time import LoopClock, run

MESSAGE = {"room": "open:r", "data": {"n": 1}}


def check_error(answer: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """Check the one shape of errors; return the body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert set(body) - {"retry_after_ms"} == {"code", "reason", "detail"}
    problem = next(problem for problem in PROBLEMS if problem.reason == reason)
    assert (body["reason"], body["code"]) == (reason, problem.code)
    assert body["detail"]
    return body


async def stored_room(parts: Sending, key: str, entries: int) -> str:
    """Give a room a history as its worker would; return the epoch."""
    partition = partition_of(key.encode(), 64)
    epoch = (await parts.store.epochs.claim(partition, 0, parts.clock.wall_ms(), "e1")).epoch
    now_ms = parts.clock.wall_ms()
    found = [
        Entry(n, 0, Kind.RELIABLE.value, 2, n - 1, n, 100 + n, now_ms, now_ms, b'{"n":%d}' % n, "ann")
        for n in range(1, entries + 1)
    ]
    stored = [HistoryEntry(e.offset, e.kind, e.prev, e.at_ms, encode_body(e)) for e in found]
    batch = HistoryBatch(key, epoch, 1, entries, entries, entries, entries, b"", stored, now_ms, 1_000, 600_000, 0, 0)
    assert await parts.store.history.store([batch]) == [None]
    return epoch


def test_a_publish_is_answered_with_id_room_position_and_class() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            answer = await client.post("/v1/publish", json=MESSAGE)
            assert answer.status_code == 200
            body = answer.json()
            assert set(body) == {"id", "room", "offset", "epoch", "priority"}
            assert body["id"].isdecimal()
            assert (body["room"], body["offset"], body["priority"]) == ("open:r", 1, "normal")

    run(play())


def test_a_keyed_publish_without_the_store_says_that_it_is_not_idempotent() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            parts.state.available = False
            body = (await client.post("/v1/publish", json=MESSAGE | {"id": "k"})).json()
            assert body["idempotent"] is False

    run(play())


def test_a_body_in_pieces_and_one_in_a_single_piece_are_answered_alike() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client, api(parts, whole=False) as cutting:
            for body in (msgspec.json.encode(MESSAGE), b"{", b'{"room":"nope:r","data":1}', b" " * 100_000):
                whole = await client.post("/v1/publish", content=body)
                cut = await cutting.post("/v1/publish", content=body)
                assert cut.status_code == whole.status_code
                assert cut.headers["content-type"] == whole.headers["content-type"]
                assert set(cut.json()) == set(whole.json())
            assert len(await parts.records()) == 2

    run(play())


async def test_a_fault_on_the_short_way_is_answered_500_and_an_unavailable_store_503() -> None:
    async def serve(scope: Scope, body: bytes) -> msgspec.Struct:
        raise Unavailable("gone") if body else RuntimeError("secret")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("the short way is taken")

    transport = httpx.ASGITransport(whole_bodies(Shortcut(app, "/v1/publish", serve)))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        assert "secret" not in str(check_error(await client.post("/v1/publish"), 500, "internal"))
        away = await client.post("/v1/publish", content=b"x")
        check_error(away, 503, "unavailable")
        assert away.headers["retry-after"] == "1"


def test_a_batch_is_answered_message_by_message() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            messages = [MESSAGE, {"room": "open:r"}, MESSAGE | {"room": "nope:r"}, MESSAGE | {"data": 2}, 7]
            answer = await client.post("/v1/publish/batch", json={"messages": messages})
            assert answer.status_code == 200
            results = answer.json()["results"]
            assert [result.get("offset") for result in results] == [1, None, None, 2, None]
            reasons = [result["error"]["reason"] for result in results if "error" in result]
            assert reasons == ["bad_request", "unknown_namespace", "bad_request"]

    run(play())


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "reason"),
    [
        ("POST", "/v1/publish", b"", 400, "bad_request"),
        ("POST", "/v1/publish", b"{", 400, "bad_request"),
        ("POST", "/v1/publish", b"\xff\xfe", 400, "bad_request"),
        ("POST", "/v1/publish", b'{"room":"nope:r","data":1}', 404, "unknown_namespace"),
        ("POST", "/v1/publish", b'{"room":"#ann","data":1}', 403, "permission_denied"),
        ("POST", "/v1/publish", b'{"room":"open:r","data":1,"merge":{"key":"a","op":"sum"}}', 400, "bad_request"),
        ("POST", "/v1/publish", b'{"room":"open:r","data":"' + b"x" * 32_768 + b'"}', 413, "too_large"),
        ("POST", "/v1/publish", b" " * 100_000, 413, "too_large"),
        ("POST", "/v1/publish/batch", b"[]", 400, "bad_request"),
        ("POST", "/v1/publish/batch", b'{"messages":[' + b"1," * 1_000 + b"1]}", 400, "limit_exceeded"),
        ("POST", "/v1/publish/batch", b" " * (9 << 20), 413, "too_large"),
        ("GET", "/v1/publish", None, 405, "method_not_found"),
        ("GET", "/v1/nothing", None, 404, "method_not_found"),
        ("BREW", "/v1/publish", None, 405, "method_not_found"),
        ("GET", "/v1/rooms/nope:r/history", None, 404, "unknown_namespace"),
        ("GET", "/v1/rooms/open:r/history", None, 404, "unknown_room"),
        ("GET", "/v1/rooms/open:r/ledger", None, 404, "unknown_room"),
        ("GET", "/v1/rooms/open%20r/ledger", None, 400, "bad_request"),
        ("GET", "/v1/rooms/%23ann/ledger", None, 403, "permission_denied"),
        ("GET", "/v1/rooms/open:r/history?limit=0", None, 400, "bad_request"),
        ("GET", "/v1/rooms/open:r/history?limit=many", None, 400, "bad_request"),
        ("GET", "/v1/rooms/open:r/history?after=-1", None, 400, "bad_request"),
        ("PUT", "/v1/rooms/group:r/members", b'{"users":"ann"}', 400, "bad_request"),
        ("PUT", "/v1/rooms/group:r/members", b'{"users":[]}', 400, "limit_exceeded"),
        ("PUT", "/v1/rooms/group:r/members", b'{"users":["a b"]}', 400, "bad_request"),
        ("PUT", "/v1/rooms/group:r/members", b'{"users":[{"user":"ann","roles":[""]}]}', 400, "bad_request"),
        ("PUT", "/v1/rooms/live:r/members", b'{"users":["ann"]}', 400, "bad_request"),
        ("DELETE", "/v1/rooms/group:r/members", b'{"users":["ann"]}', 404, "unknown_room"),
        ("GET", "/v1/rooms/group:r/members", None, 404, "unknown_room"),
        ("GET", "/v1/rooms/group:r/members?cursor=AAAA", None, 400, "bad_request"),
        ("GET", "/v1/rooms/group:r/members?limit=501", None, 400, "bad_request"),
        ("GET", "/v1/rooms/group:r/count", None, 404, "unknown_room"),
    ],
)
def test_what_is_wrong_is_answered_in_one_shape_and_changes_nothing(
    method: str, path: str, content: bytes | None, status: int, reason: str
) -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            check_error(await client.request(method, path, content=content), status, reason)
            ends = await parts.log.ends("messages", range(64))
            assert not any(end for _, end in ends.values())

    run(play())


def test_refused_messages_and_requests_are_counted() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            refused = MESSAGES_REFUSED.labels("bad_request")._value
            requests = HTTP_REQUESTS.labels("POST", "400")._value
            before = refused.get(), requests.get()
            await client.post("/v1/publish", content=b"{")
            await client.post("/v1/publish", json=MESSAGE | {"priority": "urgent"})
            await client.post("/v1/publish/batch", json={"messages": [{"room": 5}]})
            assert (refused.get(), requests.get()) == (before[0] + 3, before[1] + 2)
            others = HTTP_REQUESTS.labels("other", "405")._value
            count = others.get()
            await client.request("BREW", "/v1/publish")
            assert others.get() == count + 1

    run(play())


def test_with_the_log_away_a_publish_is_answered_503_with_a_time_and_works_again_by_itself() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            parts.log.available = False
            answer = await client.post("/v1/publish", json=MESSAGE)
            body = check_error(answer, 503, "unavailable")
            assert body["retry_after_ms"] == 1_000
            assert answer.headers["retry-after"] == "1"
            (result,) = (await client.post("/v1/publish/batch", json={"messages": [MESSAGE]})).json()["results"]
            assert result["error"]["reason"] == "unavailable"
            parts.log.available = True
            assert (await client.post("/v1/publish", json=MESSAGE)).json()["offset"] == 1

    run(play())


def test_with_the_store_away_reading_is_answered_503_and_readiness_falls() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            assert (await client.get("/readyz")).status_code == 200
            parts.state.available = False
            check_error(await client.get("/v1/rooms/open:r/history"), 503, "unavailable")
            check_error(await client.get("/v1/rooms/group:r/count"), 503, "unavailable")
            await asyncio.sleep(LEASE_TTL_S)
            ready = await client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json() == {"ready": False, "dependencies": {"sender": True, "id_node": False}}
            check_error(await client.post("/v1/publish", json=MESSAGE), 503, "unavailable")
            assert (await client.get("/healthz")).status_code == 200

    run(play())


def test_a_rate_is_answered_429_with_the_time_to_wait() -> None:
    async def play() -> None:
        from fanout.core.buckets import Rate
        from fanout.sender.admission import Rates

        async with sending(LoopClock(), rates=Rates(room=Rate(0.1, 1))) as parts, api(parts) as client:
            live = MESSAGE | {"room": "live:r"}
            assert (await client.post("/v1/publish", json=live)).status_code == 200
            answer = await client.post("/v1/publish", json=live)
            check_error(answer, 429, "too_many_requests")
            assert answer.headers["retry-after"] == "10"

    run(play())


def test_keys_select_the_app_and_wrong_ones_select_nothing() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts, two_apps()) as client:
            shop = await client.post("/v1/publish", json=MESSAGE, headers={"X-API-Key": API_KEY})
            news = await client.post("/v1/publish", json=MESSAGE, headers={"Authorization": f"ApiKey {OTHER_KEY}"})
            assert (shop.status_code, news.status_code) == (200, 200)
            assert len(await parts.records(app="shop")) == len(await parts.records(app="news")) == 1
            wrong: list[dict[bytes, bytes]] = [
                {},
                {b"X-API-Key": b"x"},
                {b"X-API-Key": "é".encode()},
                {b"Authorization": f"Bearer {API_KEY}".encode()},
            ]
            for headers in wrong:
                for path in ("/v1/publish", "/v1/publish/batch"):
                    answer = await client.post(path, json=MESSAGE, headers=headers)
                    check_error(answer, 401, "unauthorized")
                    assert answer.headers["www-authenticate"] == "apikey"
                check_error(await client.get("/v1/rooms/open:r/history", headers=headers), 401, "unauthorized")
                check_error(await client.get("/v1/rooms/group:r/members", headers=headers), 401, "unauthorized")

    run(play())


def test_history_is_read_in_pages_in_both_directions() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            epoch = await stored_room(parts, "dev/open:r", 5)
            page = (await client.get("/v1/rooms/open:r/history", params={"limit": 2})).json()
            assert [item["offset"] for item in page["items"]] == [1, 2]
            assert (page["next"], page["epoch"], page["head"], page["floor"]) == (2, epoch, 5, 0)
            first = page["items"][0]
            assert (first["id"], first["data"], first["sender"], first["reliable"]) == ("101", {"n": 1}, "ann", True)
            assert first["priority"] == PRIORITIES[2].word
            rest = (await client.get("/v1/rooms/open:r/history", params={"after": 2})).json()
            assert [item["offset"] for item in rest["items"]] == [3, 4, 5]
            assert rest["next"] is None
            newest = (await client.get("/v1/rooms/open:r/history", params={"reverse": True, "limit": 2})).json()
            assert [item["offset"] for item in newest["items"]] == [5, 4]

    run(play())


def test_an_app_sees_no_other_apps_history() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts, two_apps()) as client:
            await stored_room(parts, "shop/open:r", 1)
            mine = await client.get("/v1/rooms/open:r/history", headers={"X-API-Key": API_KEY})
            assert len(mine.json()["items"]) == 1
            theirs = await client.get("/v1/rooms/open:r/history", headers={"X-API-Key": OTHER_KEY})
            check_error(theirs, 404, "unknown_room")

    run(play())


def test_the_ledger_of_a_room_adds_up_from_its_state() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            await stored_room(parts, "dev/open:r", 1)
            ledger = (await client.get("/v1/rooms/open:r/ledger")).json()
            assert ledger["room"] == "open:r"
            assert {"accepted", "kept", "merged", "dropped", "edge"} <= set(ledger)

    run(play())


def test_a_fault_of_the_engine_is_answered_500_without_its_inside() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            epoch = await stored_room(parts, "dev/open:r", 1)
            parts.state.rooms["dev/open:r", epoch].state = b"\xc1"
            body = check_error(await client.get("/v1/rooms/open:r/ledger"), 500, "internal")
            assert "Traceback" not in body["detail"]

    run(play())


def test_the_document_names_every_path_body_and_error() -> None:
    async def play() -> None:
        async with sending(LoopClock()) as parts, api(parts) as client:
            document = (await client.get("/schema")).json()
            assert document["info"]["title"] == "fanout-engine"
            assert document == (await client.get("/schema/openapi.json")).json()
            for path, methods in document["paths"].items():
                for method, operation in methods.items():
                    assert operation["description"], (path, method)
                    if not path.startswith("/v1"):
                        continue
                    for status, answer in operation["responses"].items():
                        if not status.startswith("2"):
                            schema = answer["content"]["application/json"]["schema"]
                            assert schema == {"$ref": "#/components/schemas/ErrorBody"}
                    assert {"200", "400", "401", "503"} <= set(operation["responses"])
            publish = document["paths"]["/v1/publish"]["post"]
            body = publish["requestBody"]["content"]["application/json"]["schema"]
            assert set(body["required"]) == {"room", "data"}
            assert "429" in publish["responses"]
            put = document["paths"]["/v1/rooms/{room}/members"]["put"]["requestBody"]
            assert "users" in put["content"]["application/json"]["schema"]["properties"]

    run(play())


def test_ids_and_bodies_survive_the_trip_of_a_large_member_list() -> None:
    body = msgspec.json.encode({"users": [f"user-{n:05}" for n in range(10_000)]})
    assert len(msgspec.json.decode(body, type=MembersBody).users) == 10_000
