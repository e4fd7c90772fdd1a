"""An engine in a process of its own, as a user starts it, and what tests ask of it over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from fanout.runtime.launch import EngineProcess

__all__ = ["ServedEngine", "engine_process"]


class ServedEngine:
    """A running ``fanout serve``: where it listens, and what it is told over HTTP."""

    def __init__(self, process: EngineProcess) -> None:
        self.process = process
        self.http_url = process.url
        self.ws_url = process.websocket_url
        self.port = int(process.url.rpartition(":")[2])
        self._http = httpx.Client(base_url=self.http_url, timeout=10.0, trust_env=False)

    def publish(self, room: str, data: object, **fields: object) -> dict[str, Any]:
        """Publish one message; fails unless it was accepted."""
        answer = self._http.post("/v1/publish", json={"room": room, "data": data, **fields})
        assert answer.status_code in (200, 201), answer.text
        published: dict[str, Any] = answer.json()
        return published

    def publish_all(self, room: str, payloads: Iterable[object]) -> None:
        """Publish messages in batches, in order; fails unless all were accepted."""
        messages = [{"room": room, "data": data} for data in payloads]
        for start in range(0, len(messages), 500):
            answer = self._http.post("/v1/publish/batch", json={"messages": messages[start : start + 500]})
            assert answer.status_code in (200, 201), answer.text
            assert all("offset" in result for result in answer.json()["results"]), answer.text

    def get(self, path: str) -> httpx.Response:
        """GET a path of the API."""
        return self._http.get(path)

    def close(self) -> None:
        """Let go of the HTTP connections."""
        self._http.close()


@contextmanager
def engine_process(
    options: Sequence[str] = ("--insecure",), environment: Mapping[str, str] | None = None, start_s: float = 30.0
) -> Iterator[ServedEngine]:
    """Start ``fanout serve`` on a free loopback port, wait until it listens, drain it at the end."""
    process = EngineProcess(["--port", "0", *options], environment=environment).start(start_s)
    try:
        engine = ServedEngine(process)
        try:
            yield engine
        finally:
            engine.close()
    finally:
        process.stop()
