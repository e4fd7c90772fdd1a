"""The command line as a person meets it: an engine is started, used, asked and ended by its commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from fanout.runtime.launch import EngineProcess

KEYS = {"FANOUT_API_KEY": "an-api-key-for-tests", "FANOUT_TOKEN_SECRET": "a-secret-of-at-least-32-bytes-for-tests"}


def fanout(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FANOUT_")}
    return subprocess.run(
        [sys.executable, "-m", "fanout", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**clean, **(environment or {})},
    )


@pytest.fixture(scope="module")
def insecure() -> Iterator[EngineProcess]:
    engine = EngineProcess(["--insecure", "--port", "0"]).start()
    yield engine
    engine.stop()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--roles", "router"], "--roles"),
        (["--processes", "2"], "--processes"),
        (["--log", "kafka://127.0.0.1:1"], "--store"),
        (["--insecure", "--host", "0.0.0.0"], "--insecure"),
        ([], "FANOUT_API_KEY"),
        ([], "FANOUT_TOKEN_SECRET"),
    ],
)
def test_flags_that_cannot_work_are_one_line_and_exit_status_2(arguments: list[str], says: str) -> None:
    ended = fanout("serve", *arguments)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_taken_port_is_one_line_and_exit_status_2(insecure: EngineProcess) -> None:
    port = insecure.url.rsplit(":", 1)[1]
    ended = fanout("serve", "--insecure", "--port", port)
    assert ended.returncode == 2
    assert port in ended.stderr


def test_what_is_published_is_printed_by_watch(insecure: EngineProcess) -> None:
    watch = subprocess.Popen(
        [sys.executable, "-m", "fanout", "watch", "open:lobby", "--url", insecure.url, "--count", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watch.stderr is not None
    assert "watching" in watch.stderr.readline()
    answers = [
        json.loads(fanout("publish", "open:lobby", text, "--url", insecure.url).stdout)
        for text in ("hello", '{"goal": 1}')
    ]
    printed, _ = watch.communicate(timeout=30)
    shown = [json.loads(line) for line in printed.splitlines()]
    assert [line["data"] for line in shown] == [{"text": "hello"}, {"goal": 1}]
    assert [line["offset"] for line in shown] == [answer["offset"] for answer in answers]


def test_a_refused_publish_says_why_and_ends_with_1(insecure: EngineProcess) -> None:
    ended = fanout("publish", "no room", "x", "--url", insecure.url)
    assert ended.returncode == 1
    assert "room" in ended.stderr


def test_publish_without_an_engine_says_how_to_start_one() -> None:
    ended = fanout("publish", "open:lobby", "x", "--url", "http://127.0.0.1:1")
    assert ended.returncode == 1
    assert "fanout serve" in ended.stderr


def test_a_signed_token_opens_a_room_of_an_engine_with_keys() -> None:
    engine = EngineProcess(["--port", "0"], environment=KEYS).start()
    try:
        token = fanout("token", "alice", environment=KEYS).stdout.strip()
        watch = subprocess.Popen(
            [sys.executable, "-m", "fanout", "watch", "live:1", "--url", engine.url, "--token", token, "--count", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert watch.stderr is not None
        watch.stderr.readline()
        refused = fanout("publish", "live:1", "hi", "--url", engine.url)
        assert refused.returncode == 1
        assert "unauthorized" in refused.stderr
        fanout("publish", "live:1", "hi", "--url", engine.url, "--key", KEYS["FANOUT_API_KEY"])
        printed, _ = watch.communicate(timeout=30)
        assert json.loads(printed)["data"] == {"text": "hi"}
    finally:
        engine.stop()


def test_token_without_a_secret_names_the_variable() -> None:
    ended = fanout("token", "alice")
    assert ended.returncode == 2
    assert "FANOUT_TOKEN_SECRET" in ended.stderr


def test_readiness_health_and_metrics_answer(insecure: EngineProcess) -> None:
    for path, says in (("/healthz", ""), ("/readyz", "log"), ("/metrics", "fanout_sessions"), ("/schema", "")):
        with urllib.request.urlopen(insecure.url + path, timeout=10) as answer:
            assert answer.status == 200
            assert says in answer.read().decode()


def test_an_unknown_path_has_the_error_shape(insecure: EngineProcess) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(insecure.url + "/v2/publish", timeout=10)
    body = json.loads(raised.value.read())
    raised.value.close()
    assert raised.value.code == 404
    assert set(body) >= {"code", "reason", "detail"}


def extensions(url: str) -> list[str]:
    """Return what a WebSocket client is given that offers compression."""
    with connect(f"{url.replace('http', 'ws', 1)}/connection/websocket", proxy=None) as socket:
        return [extension.name for extension in socket.protocol.extensions]


def test_compression_is_given_unless_the_operator_says_no(insecure: EngineProcess) -> None:
    assert extensions(insecure.url) == ["permessage-deflate"]
    engine = EngineProcess(["--insecure", "--port", "0"], environment={"FANOUT_DEFLATE": "false"}).start()
    try:
        assert extensions(engine.url) == []
    finally:
        engine.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_drains_and_ends_with_0(number: int) -> None:
    engine = EngineProcess(["--insecure", "--port", "0"]).start()
    engine.signal(number)
    assert engine.stop() == 0


def test_the_doctor_names_what_it_checked_and_fails_without_its_servers() -> None:
    assert fanout("doctor").returncode == 0
    ended = fanout("doctor", "--log", "kafka://127.0.0.1:1", "--store", "redis://127.0.0.1:1")
    assert ended.returncode == 1
    assert "make up" in ended.stdout


def test_a_small_demo_adds_up_and_a_broken_trace_is_refused(tmp_path: Path) -> None:
    ended = fanout("demo", "--viewers", "20", "--seconds", "2")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "adds up" in ended.stdout
    broken = tmp_path / "trace.csv"
    broken.write_text("a,b\n")
    assert fanout("demo", "--trace", str(broken)).returncode == 2


def test_a_rooms_ledger_is_drawn_and_its_mistakes_are_told(insecure: EngineProcess) -> None:
    fanout("publish", "open:counted", "hello", "--url", insecure.url)
    deadline = time.monotonic() + 20
    drawn = fanout("ledger", "open:counted", "--since", "1h", "--url", insecure.url)
    while drawn.returncode and time.monotonic() < deadline:  # the worker may not have come to it yet
        drawn = fanout("ledger", "open:counted", "--since", "1h", "--url", insecure.url)
    assert drawn.returncode == 0, drawn.stderr
    assert "├─ kept" in drawn.stdout
    assert "adds up" in drawn.stdout
    assert " 1   normal 1" in drawn.stdout
    app = fanout("ledger", "--url", insecure.url)
    assert app.returncode == 0
    assert "rooms of dev, since" in app.stdout
    unknown = fanout("ledger", "open:never", "--json", "--url", insecure.url)
    assert unknown.returncode == 1
    assert "unknown_room" in unknown.stderr
    assert len(unknown.stderr.strip().splitlines()) == 1
