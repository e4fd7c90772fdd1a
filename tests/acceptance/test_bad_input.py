"""Malformed HTTP requests: each gets its documented error, is counted, changes nothing, and disturbs nobody.

What clients do wrong is in ``test_bad_client_input.py`` and ``test_bad_tokens.py``. FAULTS cases 38-50 and 53, as far
as they come over HTTP.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

import httpx
import pytest

from tests.support.engine_process import ServedEngine
from tests.support.misbehaviour import API_KEY, PROBLEM_BY_REASON, TOKEN_SECRET
from tests.support.neighbour import Neighbour, counts, eventually, history, neighbour, session
from tests.support.raw_socket import raw_socket

ROOM: Final = "@room@"  # stands for the neighbour's room
LONG_NUMBER: Final = "9" * 10_000

# body of POST /v1/publish → reason. The room is the neighbour's wherever the room is not what is wrong.
PUBLISH: Final[dict[str, tuple[bytes | str, str]]] = {
    "no body": (b"", "bad_request"),
    "broken JSON": ('{"room": "@room@", "data":', "bad_request"),
    "two documents": ('{"room": "@room@", "data": 1}{}', "bad_request"),
    "trailing comma": ('{"room": "@room@", "data": 1,}', "bad_request"),
    "single quotes": ("{'room': '@room@', 'data': 1}", "bad_request"),
    "null": ("null", "bad_request"),
    "a list": ('[{"room": "@room@", "data": 1}]', "bad_request"),
    "a string": ('"@room@"', "bad_request"),
    "a number": ("7", "bad_request"),
    "not UTF-8": (b'{"room": "@room@", "data": "\xff\xfe"}', "bad_request"),
    "a surrogate in UTF-8": (b'{"room": "@room@", "data": "\xed\xa0\x80"}', "bad_request"),
    "overlong UTF-8": (b'{"room": "@room@", "data": "\xc0\xaf"}', "bad_request"),
    "UTF-16": ('{"room": "@room@", "data": 1}'.encode("utf-16"), "bad_request"),
    "a byte order mark": (b'\xef\xbb\xbf{"room": "@room@", "data": 1}', "bad_request"),
    "msgpack": (b"\x82\xa4room\xa6@room@\xa4data\x01", "bad_request"),
    "zero bytes": (b"\x00" * 64, "bad_request"),
    "no room": ('{"data": 1}', "bad_request"),
    "no data": ('{"room": "@room@"}', "bad_request"),
    "unknown field": ('{"room": "@room@", "data": 1, "colour": "red"}', "bad_request"),
    "NaN": ('{"room": "@room@", "data": NaN}', "bad_request"),
    "NaN inside": ('{"room": "@room@", "data": {"a": [1, NaN]}}', "bad_request"),
    "infinity": ('{"room": "@room@", "data": -Infinity}', "bad_request"),
    "a number with a leading zero": ('{"room": "@room@", "data": 01}', "bad_request"),
    "a number of 10,000 digits": ('{"room": "@room@", "data": ' + LONG_NUMBER + "}", "bad_request"),
    "a number of 10,000 digits inside": ('{"room": "@room@", "data": {"a":[-' + LONG_NUMBER + "]}}", "bad_request"),
    "a raw newline in a string": ('{"room": "@room@", "data": "a\nb"}', "bad_request"),
    "a raw NUL in a string": ('{"room": "@room@", "data": "a\x00b"}', "bad_request"),
    "33 levels": ('{"room": "@room@", "data": ' + "[" * 33 + "]" * 33 + "}", "bad_request"),
    "33 levels of objects": ('{"room": "@room@", "data": ' + '{"a":' * 33 + "1" + "}" * 33 + "}", "bad_request"),
    "15,000 levels": ('{"room": "@room@", "data": ' + "[" * 15_000 + "]" * 15_000 + "}", "bad_request"),
    "15,000 levels, never closed": ('{"room": "@room@", "data": ' + "[" * 15_000, "bad_request"),
    "15,000 levels in tags": ('{"room": "@room@", "data": 1, "tags": ' + "[" * 15_000, "bad_request"),
    "32 KB and a byte": (json.dumps({"room": ROOM, "data": "x" * (32_768 - 1)}), "too_large"),
    "a megabyte": (json.dumps({"room": ROOM, "data": "x" * 1_000_000}), "too_large"),
    "a long number of 100,000 digits": ('{"room": "@room@", "data": ' + "9" * 100_000 + "}", "too_large"),
}
# field → wrong values → reason
FIELDS: Final[tuple[tuple[str, Any, str], ...]] = (
    ("room", 7, "bad_request"),
    ("room", None, "bad_request"),
    ("room", ["open:a"], "bad_request"),
    ("room", "", "bad_request"),
    ("room", "open:a b", "bad_request"),
    ("room", "open:a\n", "bad_request"),
    ("room", "open:a\x00", "bad_request"),
    ("room", "open:a/b", "bad_request"),
    ("room", "dev/open:a", "bad_request"),
    ("room", "default/open:a", "bad_request"),
    ("room", "../open:a", "bad_request"),
    ("room", "open:../../a", "bad_request"),
    ("room", "open:%2e%2e", "bad_request"),
    ("room", "open:r\u043e\u043em", "bad_request"),  # Cyrillic o
    ("room", "\uff4fpen:a", "bad_request"),  # full-width o
    ("room", "open\uff1aa", "bad_request"),  # full-width colon
    ("room", "open:a\u200b", "bad_request"),
    ("room", "open:\u0661", "bad_request"),  # a digit to str.isdigit
    ("room", "open:\u00e9", "bad_request"),
    ("room", "open:{a}", "bad_request"),  # braces are Redis' hash tags
    ("room", "open:*", "bad_request"),
    ("room", "open:" + "a" * 124, "bad_request"),
    ("room", "a" * 30_000, "bad_request"),
    ("room", "#bob", "permission_denied"),
    ("room", "#", "permission_denied"),
    ("room", "nowhere:a", "unknown_namespace"),
    ("room", "Open:a", "unknown_namespace"),
    ("room", "OPEN:a", "unknown_namespace"),
    ("room", ":a", "unknown_namespace"),
    ("room", "..:a", "unknown_namespace"),
    ("priority", "urgent", "bad_request"),
    ("priority", "NORMAL", "bad_request"),
    ("priority", "", "bad_request"),
    ("priority", 1, "bad_request"),
    ("priority", None, "bad_request"),
    ("type", "t" * 65, "bad_request"),
    ("type", 1, "bad_request"),
    ("id", 1, "bad_request"),
    ("id", {"a": 1}, "bad_request"),
    ("id", "i" * 20_000, "bad_request"),
    ("sender", "a b", "bad_request"),
    ("sender", "a/b", "bad_request"),
    ("sender", "\u0430nn", "bad_request"),
    ("sender", "a\n", "bad_request"),
    ("sender", "s" * 65, "bad_request"),
    ("sender", 7, "bad_request"),
    ("reply_to", "abc", "bad_request"),
    ("reply_to", "-1", "bad_request"),
    ("reply_to", "1.5", "bad_request"),
    ("reply_to", " 1", "bad_request"),
    ("reply_to", "1_000", "bad_request"),
    ("reply_to", "\u0661", "bad_request"),
    ("reply_to", 1, "bad_request"),
    ("reply_to", str(2**63), "bad_request"),
    ("reply_to", str(2**63 - 1), "bad_request"),  # far ahead of every clock
    ("reply_to", "9" * 5_000, "bad_request"),
    ("ttl_ms", -1, "bad_request"),
    ("ttl_ms", 7 * 86_400_000 + 1, "bad_request"),
    ("ttl_ms", 10**30, "bad_request"),
    ("ttl_ms", 1.5, "bad_request"),
    ("ttl_ms", "1", "bad_request"),
    ("ttl_ms", True, "bad_request"),
    ("track", "yes", "bad_request"),
    ("track", 1, "bad_request"),
    ("tags", [], "bad_request"),
    ("tags", "a", "bad_request"),
    ("tags", {"a": 1}, "bad_request"),
    ("tags", {"a": None}, "bad_request"),
    ("tags", {"": "a"}, "bad_request"),
    ("tags", {"a" * 65: "a"}, "bad_request"),
    ("tags", {"a": "a" * 65}, "bad_request"),
    ("tags", {"a": "\u00e9" * 33}, "bad_request"),
    ("tags", {f"t{number}": "a" for number in range(17)}, "bad_request"),
    ("tags", {"id": "1"}, "bad_request"),
    ("tags", {"merge_count": "1"}, "bad_request"),
    ("merge", {"key": "likes", "op": "sum"}, "bad_request"),  # the class is reliable here
    ("merge", {"key": "likes"}, "bad_request"),
    ("merge", {"key": "likes", "op": "sum", "value": True}, "bad_request"),
    ("merge", "sum", "bad_request"),
    ("audience", {"users": ["bob"]}, "not_available"),
    ("audience", [], "bad_request"),
)
BATCHES: Final[dict[str, tuple[bytes, str]]] = {
    "empty body": (b"", "bad_request"),
    "no messages": (b"{}", "bad_request"),
    "messages is no list": (b'{"messages": {"room": "@room@", "data": 1}}', "bad_request"),
    "unknown field": (b'{"messages": [{"room": "@room@", "data": 1}], "atomic": true}', "bad_request"),
    "1,001": (json.dumps({"messages": [{"room": ROOM, "data": 1}] * 1_001}).encode(), "limit_exceeded"),
    "a bare list": (b'[{"room": "@room@", "data": 1}]', "bad_request"),
    "cut short": (b'{"messages": [{"room": "@room@", "data": 1}', "bad_request"),
}


def check_error(answer: httpx.Response, reason: str) -> None:
    """The answer is the row of docs/errors.md, in the one shape."""
    problem = PROBLEM_BY_REASON[reason]
    body = answer.json()
    assert (answer.status_code, body["code"], body["reason"]) == (problem.http, problem.code, reason), answer.text
    assert set(body) - {"retry_after_ms"} == {"code", "reason", "detail"}
    assert isinstance(body["detail"], str)
    assert 0 < len(body["detail"]) < 500, "a sentence for a person, not an echo of the request"
    assert answer.headers["content-type"].startswith("application/json")


async def check_refused(beside: Neighbour, path: str, body: bytes, reason: str) -> None:
    """A POST is refused for ``reason`` and counted under it."""
    before = await counts(beside.http)
    answer = await beside.http.post(path, content=body.replace(ROOM.encode(), beside.room.encode()))
    check_error(answer, reason)
    after = await counts(beside.http)
    counted = [one.total("fanout_messages_refused_total", reason=reason) for one in (before, after)]
    assert counted[1] == counted[0] + 1
    answered = [
        one.total("fanout_http_requests_total", method="POST", status=str(answer.status_code))
        for one in (before, after)
    ]
    assert answered[1] == answered[0] + 1


@pytest.mark.parametrize("case", PUBLISH)
async def test_a_malformed_publish_is_refused_and_disturbs_nobody(engine: ServedEngine, case: str) -> None:
    content, reason = PUBLISH[case]
    body = content if isinstance(content, bytes) else content.encode()
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        await check_refused(beside, "/v1/publish", body, reason)


async def test_a_publish_with_a_wrong_field_is_refused_and_disturbs_nobody(engine: ServedEngine) -> None:
    wrong: list[str] = []
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        for name, value, reason in FIELDS:
            body = {"room": beside.room, "data": 1, name: value}
            try:
                await check_refused(beside, "/v1/publish", json.dumps(body).encode(), reason)
            except AssertionError as error:
                wrong.append(f"{name}={value!r:.60}: {str(error).splitlines()[0]}")
    assert wrong == []


@pytest.mark.parametrize("case", BATCHES)
async def test_a_malformed_batch_is_refused_whole(engine: ServedEngine, case: str) -> None:
    body, reason = BATCHES[case]
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        await check_refused(beside, "/v1/publish/batch", body, reason)


async def test_a_bad_message_in_a_batch_leaves_the_others_accepted_and_in_order(engine: ServedEngine) -> None:
    room = f"open:{uuid.uuid4().hex[:12]}"
    bad: list[tuple[Any, str]] = [
        ({"room": room}, "bad_request"),
        ({"room": room, "data": 1, "priority": "urgent"}, "bad_request"),
        ({"room": room, "data": 1, "colour": "red"}, "bad_request"),
        ({"room": "nowhere:x", "data": 1}, "unknown_namespace"),
        ({"room": "#bob", "data": 1}, "permission_denied"),
        ({"room": room, "data": "x" * 32_768}, "too_large"),
        ({"room": room, "data": 1, "audience": {"users": []}}, "not_available"),
        (None, "bad_request"),
        ("a", "bad_request"),
        ([], "bad_request"),
    ]
    messages: list[Any] = []
    for number, (wrong, _) in enumerate(bad):
        messages += [{"room": room, "data": number}, wrong]
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        answer = await beside.http.post("/v1/publish/batch", json={"messages": messages})
        assert answer.status_code == 200, answer.text
        results = answer.json()["results"]
        assert len(results) == len(messages)
        for result, (_, reason) in zip(results[1::2], bad, strict=True):
            assert (result["error"]["reason"], result["error"]["code"]) == (reason, PROBLEM_BY_REASON[reason].code)
        offsets = [result["offset"] for result in results[::2]]
        assert offsets == sorted(set(offsets))
        stored = await settled_history(beside.http, room, len(bad))
        assert [(item["offset"], item["data"]) for item in stored] == list(zip(offsets, range(len(bad)), strict=True))


async def test_a_batch_of_nothing_has_no_results(engine: ServedEngine) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        answer = await beside.http.post("/v1/publish/batch", json={"messages": []})
        assert (answer.status_code, answer.json()) == (200, {"results": []})


async def test_of_a_field_that_comes_twice_the_last_counts_by_itself_and_in_a_batch(engine: ServedEngine) -> None:
    room = f"open:{uuid.uuid4().hex[:12]}"
    body = f'{{"room": "#bob", "data": 1, "room": "{room}", "data": 2, "priority": "x", "priority": "high"}}'
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        alone = (await beside.http.post("/v1/publish", content=body.encode())).json()
        batch = (await beside.http.post("/v1/publish/batch", content=f'{{"messages": [{body}]}}'.encode())).json()
        assert [one["room"] for one in (alone, *batch["results"])] == [room, room]
        stored = await settled_history(beside.http, room, 2)
        assert [(item["data"], item["priority"]) for item in stored] == [(2, "high"), (2, "high")]


async def settled_history(http: httpx.AsyncClient, room: str, count: int) -> list[dict[str, Any]]:
    """Return the history once it holds ``count`` entries."""
    for _ in range(200):
        items = await history(http, room)
        if len(items) >= count:
            return items
        await asyncio.sleep(0.02)
    raise AssertionError(f"{len(items)} of {count} entries")


@pytest.mark.parametrize(
    ("data", "arrives"),
    [
        ('{\n "a":\r\n\t[1,\n2]\n}\n', {"a": [1, 2]}),
        ('"a\\nb"', "a\nb"),
        ('"\\u2028\u2028\\u0000"', "\u2028\u2028\x00"),
        ('{"a": 1, "a": 2}', {"a": 2}),  # never parsed at the edge: what it means is the reader's business
        ("[" * 32 + "]" * 32, json.loads("[" * 32 + "]" * 32)),
        ('"' + "x" * (32_768 - 2) + '"', "x" * (32_768 - 2)),
        ("9007199254740993", 9007199254740993),
        ("1e400", float("inf")),
        ("null", None),
    ],
    ids=["line breaks", "escaped", "separators", "equal keys", "32 levels", "32 KB", "2^53+1", "1e400", "null"],
)
async def test_odd_but_valid_data_arrives_as_it_was_in_one_line(
    engine: ServedEngine, data: str, arrives: object
) -> None:
    room = f"open:{uuid.uuid4().hex[:12]}"
    async with neighbour(engine.http_url, engine.ws_url) as beside, session(engine.ws_url) as listening:
        await listening.subscribe(room)
        answer = await beside.http.post("/v1/publish", content=f'{{"room": "{room}", "data": {data}}}'.encode())
        assert answer.status_code == 200, answer.text
        # the session splits frames at line breaks, as the SDKs do: a raw one in data would break it
        await eventually(lambda: bool(listening.publications), "the publication")
        assert [one["data"] for one in listening.publications] == [arrives]


async def test_wrong_methods_and_paths_are_answered_in_the_one_shape(engine: ServedEngine) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        for method, path in [
            ("GET", "/v1/publish"),
            ("PUT", "/v1/publish"),
            ("DELETE", "/v1/publish/batch"),
            ("POST", f"/v1/rooms/{beside.room}/history"),
            ("DELETE", f"/v1/rooms/{beside.room}"),
            ("POST", "/healthz"),
            ("GET", "/"),
            ("GET", "/v2/publish"),
            ("GET", "/v1/rooms"),
            ("GET", "/v1/rooms/a/b/c"),
            ("GET", "/etc/passwd"),
            ("GET", "/%2e%2e/%2e%2e/etc/passwd"),
            ("GET", "/v1/rooms/%00/unknown"),
        ]:
            before = (await counts(beside.http)).total("fanout_http_requests_total")
            answer = await beside.http.request(method, path, json={"room": beside.room, "data": 1})
            assert answer.status_code in (404, 405), (method, path, answer.text)
            assert (answer.json()["code"], answer.json()["reason"]) == (104, "method_not_found"), (method, path)
            if answer.status_code == 405:
                assert answer.headers["allow"], (method, path)
            assert (await counts(beside.http)).total("fanout_http_requests_total") >= before + 1


async def test_a_method_that_http_does_not_have_is_refused_in_the_one_shape(engine: ServedEngine) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        before = await counts(beside.http)
        check_error(await beside.http.request("BREW", "/v1/publish"), "bad_request")
        after = await counts(beside.http)
        refused = [one.total("fanout_http_requests_total", method="other", status="400") for one in (before, after)]
        assert refused[1] == refused[0] + 1


async def test_rooms_and_queries_that_cannot_be_are_refused_by_the_reading_calls(engine: ServedEngine) -> None:
    bad_rooms = {
        "a%20b": "bad_request",
        "open:a%0A": "bad_request",
        "open:%00": "bad_request",
        "r%D0%BE%D0%BEm": "bad_request",
        "%FF%FE": "bad_request",
        "open:" + "a" * 124: "bad_request",
        "nowhere:a": "unknown_namespace",
    }
    queries = ["limit=-1", "limit=0", "limit=x", "limit=1001", "limit=" + "9" * 5_000]
    queries += ["after=-1", "after=x", "after=9007199254740993", "after=" + "9" * 5_000, "reverse=maybe"]
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        for room, reason in bad_rooms.items():
            for call in ("history", "ledger", "members", "count"):
                answer = await beside.http.get(f"/v1/rooms/{room}/{call}")
                check_error(answer, reason)
        for query in queries:
            check_error(await beside.http.get(f"/v1/rooms/{beside.room}/history?{query}"), "bad_request")
        for since in ("2h", "0m", "-1m", "1d", "%00", "9" * 5_000):
            for path in (f"/v1/rooms/{beside.room}/ledger", "/v1/ledger"):
                check_error(await beside.http.get(f"{path}?since={since}"), "bad_request")
        for cursor in ("-1", "x", "9" * 5_000):
            check_error(await beside.http.get(f"/v1/ledger?cursor={cursor}"), "bad_request")
        for id in ("0", "x", "9" * 20, "9" * 5_000, "%00", "%D9%A1"):
            check_error(await beside.http.get(f"/v1/messages/{id}/outcome"), "bad_request")
        check_error(await beside.http.get("/v1/messages/1/outcome"), "unknown_message")
        answer = await beside.http.get(f"/v1/rooms/{beside.room}%2Fhistory/ledger")
        assert answer.status_code in (400, 404), answer.text


async def test_malformed_member_calls_change_no_list(engine: ServedEngine) -> None:
    room = f"group:{uuid.uuid4().hex[:12]}"
    path = f"/v1/rooms/{room}/members"
    bodies: list[tuple[bytes, str]] = [
        (b"", "bad_request"),
        (b"{}", "bad_request"),
        (b"[]", "bad_request"),
        (b'{"users": "ann"}', "bad_request"),
        (b'{"users": [1]}', "bad_request"),
        (b'{"users": ["ann", ""]}', "bad_request"),
        (b'{"users": ["ann", "a b"]}', "bad_request"),
        (b'{"users": ["ann", "a/b"]}', "bad_request"),
        (b'{"users": ["ann", "a\\n"]}', "bad_request"),
        (b'{"users": ["ann", "a\\u0000"]}', "bad_request"),
        ('{"users": ["ann", "\u0430nn"]}'.encode(), "bad_request"),
        (json.dumps({"users": ["ann", "u" * 65]}).encode(), "bad_request"),
        (b'{"users": ["ann"], "role": "king"}', "bad_request"),
        (json.dumps({"users": [f"u{n}" for n in range(10_001)]}).encode(), "limit_exceeded"),
    ]
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        assert (await beside.http.put(path, json={"users": ["bob"]})).status_code == 200
        for method in ("PUT", "DELETE"):
            for body, reason in bodies:
                check_error(await beside.http.request(method, path, content=body), reason)
        page = (await beside.http.get(path)).json()
        assert "bob" in json.dumps(page["items"])
        assert len(page["items"]) == 1


async def test_a_cursor_of_a_member_page_that_was_touched_is_refused(engine: ServedEngine) -> None:
    room = f"group:{uuid.uuid4().hex[:12]}"
    other = f"group:{uuid.uuid4().hex[:12]}"
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        for name in (room, other):
            answer = await beside.http.put(f"/v1/rooms/{name}/members", json={"users": [f"u{n}" for n in range(50)]})
            assert answer.status_code == 200, answer.text
        page = (await beside.http.get(f"/v1/rooms/{room}/members", params={"limit": 10})).json()
        cursor = page["next"]
        assert cursor
        right = await beside.http.get(f"/v1/rooms/{room}/members", params={"limit": 10, "cursor": cursor})
        assert len(right.json()["items"]) == 10
        flipped = [
            cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
            for place in range(0, len(cursor) - 1, 5)
        ]
        for wrong in [*flipped, cursor[:-4], cursor + "AAAA", "x", "\u00e9", "A" * 5_000]:
            answer = await beside.http.get(f"/v1/rooms/{room}/members", params={"cursor": wrong})
            check_error(answer, "bad_request")
        check_error(await beside.http.get(f"/v1/rooms/{other}/members", params={"cursor": cursor}), "bad_request")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-encoding": "gzip"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/x-msgpack"},
        {"content-type": "\x07"},
    ],
    ids=["gzip", "multipart", "msgpack", "control character"],
)
async def test_what_the_headers_claim_does_not_make_another_body_of_it(
    engine: ServedEngine, headers: Mapping[str, str]
) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        packed = b"\x82\xa4room\xa8open:abc\xa4data\x01"
        try:
            answer = await beside.http.post("/v1/publish", content=packed, headers=dict(headers))
        except httpx.RemoteProtocolError:
            return  # the HTTP parser cut the connection: also nothing done
        assert answer.status_code in (400, 415), answer.text


async def test_json_is_json_whatever_its_content_type_says(engine: ServedEngine) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        for claimed in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8"):
            body = {"room": f"open:{uuid.uuid4().hex[:12]}", "data": 1}
            answer = await beside.http.post(
                "/v1/publish", content=json.dumps(body).encode(), headers={"content-type": claimed}
            )
            assert answer.status_code == 200, (claimed, answer.text)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /v1/publish HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/publish HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /v1/publish HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/publish HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /v1/publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
        b"\x00" * 100,
        b"\r\n\r\n\r\n\r\n",
    ],
    ids=[
        "length and chunked", "two lengths", "negative length", "giant length", "bad chunk", "header bomb", "long path",
        "space before colon", "NUL in header", "version 9.9", "TLS hello", "zeros", "blank lines",
    ],
)  # fmt: skip
async def test_broken_http_is_answered_400_or_cut(engine: ServedEngine, request_bytes: bytes) -> None:
    async with neighbour(engine.http_url, engine.ws_url), raw_socket(engine.port) as raw:
        await raw.send(request_bytes)
        status, _ = await raw.head(timeout_s=12.0)
        assert status in (0, 400, 413, 414, 426, 431, 505), status


async def test_a_body_without_an_end_is_cut_off_before_it_fills_the_memory(engine: ServedEngine) -> None:
    async with neighbour(engine.http_url, engine.ws_url), raw_socket(engine.port) as raw:
        await raw.send(b"POST /v1/publish HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"[" * 65_536 + b"\r\n"
        answer = asyncio.create_task(raw.head(timeout_s=30.0))
        for _ in range(1_600):  # 100 MB, if anybody wants them
            if answer.done():
                break
            await raw.send(chunk)
            await asyncio.sleep(0)
        assert answer.done(), "100 MB went in"
        status, _ = await answer
        assert status in (0, 413), status


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong"},
        {"X-API-Key": API_KEY + "x"},
        {"X-API-Key": API_KEY[:-1]},
        {"X-API-Key": API_KEY.upper()},
        {"X-API-Key": TOKEN_SECRET},
        {"X-API-Key": "\u00e9" * 20},
        {"X-API-Key": "k" * 8_000},
        {"Authorization": "Basic YTpi"},
        {"Cookie": f"X-API-Key={API_KEY}"},
    ],
    ids=[
        "none", "empty", "wrong", "one more", "one less", "upper case", "the secret", "not ASCII", "huge", "basic",
        "cookie",
    ],
)  # fmt: skip
async def test_without_the_key_nothing_can_be_done(keyed_engine: ServedEngine, headers: dict[str, str]) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    async with httpx.AsyncClient(base_url=keyed_engine.http_url, trust_env=False) as http:
        for method, path in [
            ("POST", "/v1/publish"),
            ("POST", "/v1/publish/batch"),
            ("GET", "/v1/rooms/group:a/history"),
            ("GET", "/v1/rooms/group:a/ledger"),
            ("GET", "/v1/ledger"),
            ("GET", "/v1/messages/1/outcome"),
            ("GET", "/v1/rooms/group:a/members"),
            ("GET", "/v1/rooms/group:a/count"),
            ("PUT", "/v1/rooms/group:a/members"),
            ("DELETE", "/v1/rooms/group:a/members"),
        ]:
            answer = await http.request(method, path, headers=encoded, json={"room": "group:a", "data": 1})
            check_error(answer, "unauthorized")
        answer = await http.get("/v1/rooms/group:a/history", headers={"X-API-Key": API_KEY})
        assert answer.status_code == 404 or answer.json()["items"] == [], answer.text


async def test_the_trial_namespace_does_not_exist_on_an_engine_with_keys(keyed_engine: ServedEngine) -> None:
    async with httpx.AsyncClient(base_url=keyed_engine.http_url, trust_env=False) as http:
        answer = await http.post("/v1/publish", json={"room": "open:a", "data": 1}, headers={"X-API-Key": API_KEY})
        check_error(answer, "unknown_namespace")


async def test_a_request_that_does_not_become_whole_is_cut_after_15_s(engine: ServedEngine) -> None:
    head = b"POST /v1/publish HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    async with (
        neighbour(engine.http_url, engine.ws_url) as beside,
        raw_socket(engine.port) as silent,
        raw_socket(engine.port) as dripping,
        raw_socket(engine.port) as again,
    ):
        await again.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await again.head())[0] == 200
        before = (await counts(beside.http)).total("fanout_http_requests_total", status="408")
        begin = time.monotonic()
        await silent.send(head)
        await dripping.send(head)
        await again.send(head[:40])  # on a connection that was good so far
        answers = [asyncio.create_task(raw.head(timeout_s=30.0)) for raw in (silent, dripping, again)]
        while not all(answer.done() for answer in answers):
            await dripping.send(b" ")
            await asyncio.sleep(0.2)
        assert 13.0 < time.monotonic() - begin < 20.0
        assert [answer.result()[0] for answer in answers] == [408] * 3
        assert (await counts(beside.http)).total("fanout_http_requests_total", status="408") == before + 3


@pytest.mark.parametrize("length", [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"])
@pytest.mark.parametrize("path", [b"/v1/publish", b"/v1/publish/batch"])
async def test_a_body_that_breaks_off_is_the_callers_failure_and_not_the_engines(
    engine: ServedEngine, path: bytes, length: bytes
) -> None:
    async with neighbour(engine.http_url, engine.ws_url) as beside:
        before = await counts(beside.http)
        async with raw_socket(engine.port) as raw:
            await raw.send(b"POST " + path + b" HTTP/1.1\r\nHost: a\r\n" + length)
            await asyncio.sleep(0.05)
        for _ in range(100):
            after = await counts(beside.http)
            refused = [one.total("fanout_http_requests_total", method="POST", status="400") for one in (before, after)]
            if refused[1] == refused[0] + 1:
                break
            await asyncio.sleep(0.02)
        assert refused[1] == refused[0] + 1
        failed = [one.total("fanout_http_requests_total", status="500") for one in (before, after)]
        assert failed[1] == failed[0]
