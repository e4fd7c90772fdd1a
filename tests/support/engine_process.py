"""An engine in a process of its own, as a user starts it, for tests that look at it from outside."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

import httpx

_LISTENING = re.compile(r"fanout: listening on http://127\.0\.0\.1:(\d+)")


class EngineProcess:
    """A running ``fanout serve``: where it listens, and what it is told over HTTP."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.http_url = f"http://127.0.0.1:{port}"
        self.ws_url = f"ws://127.0.0.1:{port}/connection/websocket"
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
) -> Iterator[EngineProcess]:
    """Start ``fanout serve`` on a free loopback port, wait until it listens, stop it with SIGTERM at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fanout", "serve", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    assert process.stdout is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        engine = EngineProcess(process, _port(process, lines, start_s))
        try:
            yield engine
        finally:
            engine.close()
    finally:
        _stop(process)
        reader.join(timeout=5)
        process.stdout.close()


def _read(source: IO[str], lines: queue.SimpleQueue[str]) -> None:
    for line in source:  # to the end, so that the engine never waits for a full pipe
        lines.put(line)


def _port(process: subprocess.Popen[str], lines: queue.SimpleQueue[str], start_s: float) -> int:
    said = ""
    deadline = time.monotonic() + start_s
    while time.monotonic() < deadline:
        try:
            line = lines.get(timeout=0.1)
        except queue.Empty:
            if process.poll() is not None:
                break
            continue
        said += line
        found = _LISTENING.search(line)
        if found:
            return int(found[1])
    raise AssertionError(f"the engine does not listen; it said:\n{said}")


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=5)
