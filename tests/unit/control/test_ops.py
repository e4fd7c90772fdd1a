"""Health, readiness and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from litestar import Litestar

from fanout.control.ops import build_ops


async def ask(path: str, states: dict[str, bool]) -> httpx.Response:
    async def readiness() -> dict[str, bool]:
        return states

    app = Litestar(build_ops(readiness), openapi_config=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(cast(Any, app)), base_url="http://engine") as client:
        return await client.get(path)


async def test_health_depends_on_nothing() -> None:
    answer = await ask("/healthz", {"log": False})
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_readiness_names_each_dependency_and_is_503_when_one_is_down() -> None:
    up = await ask("/readyz", {"log": True, "store": True})
    assert (up.status_code, up.json()) == (200, {"ready": True, "dependencies": {"log": True, "store": True}})
    down = await ask("/readyz", {"log": True, "store": False})
    assert (down.status_code, down.json()["ready"]) == (503, False)


async def test_metrics_come_in_the_text_format_with_the_readiness_seen_last() -> None:
    await ask("/readyz", {"ops_test": False})
    answer = await ask("/metrics", {})
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'fanout_ready{dependency="ops_test"} 0.0' in answer.text


async def test_metrics_of_several_processes_are_collected_from_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    answer = await ask("/metrics", {})
    assert answer.status_code == 200
    assert "fanout_ready" not in answer.text
