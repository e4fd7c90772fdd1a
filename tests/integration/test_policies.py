"""Policies changed while the engine runs: real processes, over HTTP, by command, across a take-over."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fanout.cli.api_client import ApiClient, ApiError
from fanout.cli.policy import check, reset, set_policy, show
from fanout.core.errors import ConfigError, FanoutError
from fanout.core.ledger import differences
from fanout.runtime.launch import EngineProcess

LIVE = "/v1/config/policies/live"
CALM = {"shared_slots_min": 0, "shared_slots_max": 2}
MESSAGES = 200  # in one call: they come within two windows, of 20 slots by default
WINDOWS = 4  # and surely within so many
SETTLED_S = 30.0


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    process = EngineProcess(["--insecure", "--port", "0"]).start()
    yield process
    process.stop()


@pytest.fixture
def api(engine: EngineProcess) -> Iterator[ApiClient]:
    """A client of the engine, whose policies are the defaults at the beginning."""
    with ApiClient(engine.url) as client:
        if client.get("/v1/config")["version"]:
            client.delete(LIVE)
        yield client


def publish(api: ApiClient, room: str) -> None:
    """Publish a loud moment into a room: every message is accepted."""
    said = [{"room": room, "data": number} for number in range(MESSAGES)]
    results = api.post("/v1/publish/batch", {"messages": said})["results"]
    assert all("offset" in result for result in results)


def ledger(api: ApiClient, room: str, accepted: int) -> Any:
    """Return the room's ledger once it has counted so many messages; it must add up."""
    deadline = time.monotonic() + SETTLED_S
    while True:
        try:
            found = api.ledger(room)
        except ApiError as error:
            assert error.reason == "unknown_room"
            found = {"accepted": {"normal": 0}}
        if found["accepted"]["normal"] == accepted:
            assert differences(found) == []
            return found
        assert time.monotonic() < deadline, f"{room}: {found}"
        time.sleep(0.05)


def ready(engine: EngineProcess) -> None:
    """Return when an engine says that it has all it needs: a worker, that it works on its partitions."""
    deadline = time.monotonic() + SETTLED_S
    with ApiClient(engine.url) as api:
        while True:
            try:
                api.get("/readyz")
                return
            except ApiError as error:
                assert error.status == 503 and time.monotonic() < deadline, error
                time.sleep(0.1)


def kept(api: ApiClient, room: str) -> int:
    """Publish a loud moment and return how many messages of it were kept; the rest is in the ledger by reason."""
    before = 0
    try:
        before = api.ledger(room)["kept"]["normal"]
        accepted = api.ledger(room)["accepted"]["normal"]
    except ApiError:
        accepted = 0
    time.sleep(0.25)  # another window than that of the moment before
    publish(api, room)
    after = ledger(api, room, accepted + MESSAGES)
    assert after["dropped"]["policy"]["window_full"]["normal"] == after["accepted"]["normal"] - after["kept"]["normal"]
    return int(after["kept"]["normal"]) - before


def test_a_policy_acts_in_rooms_that_are_there_and_in_new_ones_and_can_be_taken_back(api: ApiClient) -> None:
    assert 20 <= kept(api, "live:stage") <= 20 * WINDOWS
    answer = api.put(LIVE, json.dumps(CALM).encode())
    assert (answer["namespace"], answer["policy"]["shared_slots_max"]) == ("live", 2)
    assert 2 <= kept(api, "live:stage") <= 2 * WINDOWS
    assert 2 <= kept(api, "live:new") <= 2 * WINDOWS
    shown = api.get("/v1/config")
    assert (shown["version"], shown["complete"]) == (answer["version"], True)
    api.delete(LIVE)
    assert 20 <= kept(api, "live:stage") <= 20 * WINDOWS


def test_a_policy_classes_what_is_published_from_its_answer_on(api: ApiClient) -> None:
    like = {"room": "live:stage", "data": 1, "type": "gift", "priority": "low"}
    assert api.post("/v1/publish", like)["priority"] == "low"
    api.put(LIVE, json.dumps({"types": {"gift": "high"}}).encode())
    assert api.post("/v1/publish", like)["priority"] == "high"
    api.delete(LIVE)
    assert api.post("/v1/publish", like)["priority"] == "low"


@pytest.mark.parametrize("bad", [{"shared_slots_min": 3}, {"reserved_slots": -1}, {"slots": 1}, {"types": {"a": "b"}}])
def test_a_bad_policy_is_refused_with_the_field_named_and_the_running_one_stays(api: ApiClient, bad: Any) -> None:
    api.put(LIVE, json.dumps(CALM).encode())
    before = api.get("/v1/config")
    with pytest.raises(ApiError) as refused:
        api.put(LIVE, json.dumps({**CALM, **bad}).encode())
    assert (refused.value.status, refused.value.reason) == (400, "bad_request")
    assert refused.value.detail.startswith(next(iter(bad)))
    assert api.get("/v1/config") == before
    assert 2 <= kept(api, "live:stage") <= 2 * WINDOWS


def test_the_command_line_shows_checks_sets_and_resets(
    engine: EngineProcess, api: ApiClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "calm.json"
    file.write_text(json.dumps(CALM))
    assert check(file) == 0
    assert json.loads(capsys.readouterr().out)["reserved_slots"] == 20
    assert set_policy(engine.url, "", "live", file) == 0
    capsys.readouterr()
    assert show(engine.url, "") == 0
    assert json.loads(capsys.readouterr().out)["policies"]["live"]["shared_slots_max"] == 2
    assert reset(engine.url, "", "live") == 0
    assert json.loads(capsys.readouterr().out)["policy"]["shared_slots_max"] == 20
    with pytest.raises(FanoutError, match="namespace"):
        reset(engine.url, "", "nope")
    with pytest.raises(ConfigError, match=r"missing\.json"):
        check(tmp_path / "missing.json")


def test_a_bad_file_is_one_line_with_the_field_and_exit_status_2(tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text('{"high_excess": "drop"}')
    ended = subprocess.run(
        [sys.executable, "-m", "fanout", "policy", "check", str(file)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "high_excess" in ended.stderr and len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.real
def test_an_owner_that_follows_a_killed_one_decides_by_the_policy_it_never_read(kafka_url: str, redis_url: str) -> None:
    options = ["--insecure", "--port", "0", "--log", kafka_url, "--store", redis_url]
    options += ["--prefix", f"p{uuid.uuid4().hex[:8]}"]
    worker, follower = (EngineProcess([*options, "--roles", "worker"]) for _ in range(2))
    sender = EngineProcess([*options, "--roles", "sender"]).spawn()
    try:
        worker.start(60.0)
        sender.wait_listening(60.0)
        with ApiClient(sender.url) as api:
            assert kept(api, "live:stage") >= 20
            api.put(LIVE, json.dumps(CALM).encode())
            assert 2 <= kept(api, "live:stage") <= 2 * WINDOWS
            time.sleep(1.0)  # the record is committed, so that only the store can tell the next owner of it
        worker.kill()
        follower.start(60.0)
        ready(follower)  # else what is published meanwhile may be too old by then
        with ApiClient(sender.url) as api:  # a connection that was idle for seconds is closed
            assert 2 <= kept(api, "live:stage") <= 2 * WINDOWS
            assert 2 <= kept(api, "live:new") <= 2 * WINDOWS
    finally:
        for process in (sender, worker, follower):
            process.kill()
