"""A live room of a real engine under more than it takes: who is refused, what is dropped, and that the ledger knows."""

from __future__ import annotations

import time
from typing import Any

import httpx

from fanout.core import ledger
from tests.support.engine_process import ServedEngine, engine_process

ROOM = "live:stage"
WAIT_S = 30.0


def publish(engine: ServedEngine, priority: str, messages: int) -> list[dict[str, Any]]:
    """Publish a batch of one class; return the outcomes."""
    said = [{"room": ROOM, "data": number, "priority": priority} for number in range(messages)]
    answer = httpx.post(f"{engine.http_url}/v1/publish/batch", json={"messages": said}, trust_env=False)
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def counted(engine: ServedEngine, messages: int) -> dict[str, Any]:
    """Return the ledger of the room when it knows of so many messages."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        found: dict[str, Any] = engine.get(f"/v1/rooms/{ROOM}/ledger").json()
        if sum(found["accepted"].values()) >= messages:
            return found
        assert time.monotonic() < deadline_s, found
        time.sleep(0.05)


def test_gifts_beyond_the_quota_are_refused_and_the_ledger_has_a_fate_for_all_others() -> None:
    with engine_process() as engine:
        gifts = publish(engine, "high", 1_000)
        accepted = [gift for gift in gifts if "error" not in gift]
        refused = [gift["error"] for gift in gifts if "error" in gift]
        assert len(accepted) >= 200  # the burst
        assert {gift["priority"] for gift in accepted} == {"high"}
        assert {(error["reason"], error["code"]) for error in refused} == {("high_quota", 429)}
        assert all(error["retry_after_ms"] > 0 for error in refused)

        assert all("offset" in outcome for outcome in publish(engine, "normal", 1_000))
        found = counted(engine, len(accepted) + 1_000)
        assert ledger.differences(found) == []
        assert found["kept"]["high"] == found["accepted"]["high"] == len(accepted)
        assert found["accepted"]["normal"] == 1_000
        assert found["dropped"]["policy"]["window_full"]["normal"] == 1_000 - found["kept"]["normal"] > 0
        metrics = engine.get("/metrics").text
        assert f'fanout_messages_refused_total{{reason="high_quota"}} {len(refused)}.0' in metrics
