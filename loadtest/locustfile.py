"""Locust's part: Users that hold sockets, Users that publish, and the order in which they do it.

Viewers say ``ready`` when their sockets are subscribed; when all have, the master says ``go`` and the publishers begin.
Publishers say ``sent`` at their end; when all have, the master says ``finish``, the viewers wait until nothing comes
any more and say ``seen``; then the master writes the report and ends the run. Settings come in ``LOADTEST_*`` variables
from ``python -m loadtest``, which reconciles the report with the ledger afterwards.
"""

from __future__ import annotations

import itertools
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import gevent
import msgspec
from gevent.event import Event
from locust import FastHttpUser, User, events, task
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest import scenario as scenarios
from loadtest.tally import Seen, Sent, quantile
from loadtest.viewers import Viewers

SCENARIO: Final = scenarios.decode(os.environ["LOADTEST_SCENARIO"])
ROOM: Final = os.environ["LOADTEST_ROOM"]
REPORT: Final = Path(os.environ["LOADTEST_REPORT"])
QUIET_S: Final = 1.0  # nothing came for so long: everything has come
QUIET_S_MAX: Final = 15.0
_SOFT, _HARD = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (_HARD, _HARD))

go: Final = Event()
finish: Final = Event()
_viewer_users: Final = itertools.count()


def tokens() -> Iterator[str]:
    """Yield a connection token per viewer, signed with FANOUT_TOKEN_SECRET; empty ones for guests without it."""
    secret = os.environ.get("FANOUT_TOKEN_SECRET", "")
    if not secret:
        yield from itertools.repeat("")
        return
    from fanout.runtime.tokens import mint  # noqa: PLC0415 -- an --insecure engine needs no tokens

    expires_s = int(time.time()) + 3600
    for number in itertools.count():
        yield mint(secret, app="default", user=f"viewer-{os.getpid()}-{number}", expires_s=expires_s)


class ViewerUser(User):
    """Holds up to 1,000 sockets; fires one aggregate a second into locust's statistics."""

    fixed_count = SCENARIO.viewer_users
    abstract = False

    @task
    def watch(self) -> None:
        """Open, count until told to finish, report, stay until the end."""
        runner = self.environment.runner
        network = next(_viewer_users) * SCENARIO.processes + max(0, getattr(runner, "worker_index", 0))
        viewers = Viewers(self.environment.host or "", ROOM, SCENARIO.sockets_each, tokens(), network)
        viewers.open()
        tell(self.environment, "ready", {"sessions": viewers.seen.sessions, "failed": viewers.seen.failed})
        ticker = gevent.spawn(self.tick, viewers)
        finish.wait()
        self.wait_quiet(viewers)
        ticker.kill()
        tell(self.environment, "seen", msgspec.to_builtins(viewers.seen, str_keys=True))
        viewers.close()
        gevent.sleep(3600)

    def tick(self, viewers: Viewers) -> None:
        """Fire once a second what came in it: a call per delivery would cost as much as the delivery."""
        deliveries = size = 0
        before: dict[int, int] = {}
        while True:
            gevent.sleep(1.0)
            seen = viewers.seen
            news = {ms: count - before.get(ms, 0) for ms, count in seen.latency_ms.items()}
            if seen.deliveries > deliveries:
                self.environment.events.request.fire(
                    request_type="WS",
                    name="p99 of the deliveries of a second",
                    response_time=quantile(news, 0.99),
                    response_length=seen.bytes - size,
                    exception=None,
                    context={},
                )
            deliveries, size, before = seen.deliveries, seen.bytes, dict(seen.latency_ms)

    @staticmethod
    def wait_quiet(viewers: Viewers) -> None:
        """Return when nothing has come for a second, or after 15 s."""
        deadline = time.monotonic() + QUIET_S_MAX
        while time.monotonic() < min(deadline, viewers.newest_s + QUIET_S):
            gevent.sleep(0.1)


class PublisherUser(FastHttpUser):
    """Publishes its share of the messages at an even pace; a late answer does not shift the ones after it."""

    fixed_count = SCENARIO.publishers
    abstract = False

    @task
    def publish(self) -> None:
        """Wait for the viewers, publish, report, stay until the end."""
        go.wait()
        sent = Sent()
        per_s = SCENARIO.messages_per_s / SCENARIO.publishers
        begin = time.monotonic()
        for number in range(round(per_s * SCENARIO.seconds)):
            due = begin + number / per_s
            ahead_s = due - time.monotonic()
            if ahead_s > 0:
                gevent.sleep(ahead_s)
            elif ahead_s < -1.0:
                sent.late += 1
            self.send(number, sent)
        tell(self.environment, "sent", msgspec.to_builtins(sent, str_keys=True))
        gevent.sleep(3600)

    def send(self, number: int, sent: Sent) -> None:
        """Publish one message and count its answer."""
        priority = SCENARIO.mix.priority(number)
        data = {"at": time.time() * 1000, "i": number, "text": ""}
        data["text"] = "x" * (SCENARIO.message_bytes - len(msgspec.json.encode(data)))
        key = os.environ.get("FANOUT_API_KEY", "")
        headers = {"X-API-Key": key} if key else {}
        body = {"room": ROOM, "data": data, "priority": priority}
        with self.client.post("/v1/publish", json=body, headers=headers, catch_response=True) as response:
            if response.status_code and response.status_code < 300:
                sent.accepted[priority] = sent.accepted.get(priority, 0) + 1
                response.success()
            else:
                sent.refused[response.status_code] = sent.refused.get(response.status_code, 0) + 1
                response.failure(f"status {response.status_code}")


def tell(environment: Environment, message: str, data: dict[str, Any]) -> None:
    """Send to the master (or to this process where it is alone)."""
    assert environment.runner is not None
    environment.runner.send_message(message, data)


class Conductor:
    """The master's side: counts who is ready, who is done, and writes the report."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._ready = self._done = self._told = 0
        self._seen, self._sent = Seen(), Sent()
        self._begin = time.monotonic()
        self._connect_s = 0.0

    def ready(self, environment: Environment, msg: Any, **_: Any) -> None:
        """A viewer User is subscribed; the last one lets the publishers begin."""
        self._ready += 1
        if self._ready == SCENARIO.viewer_users:
            self._connect_s = time.monotonic() - self._begin
            self._say("go")

    def sent(self, environment: Environment, msg: Any, **_: Any) -> None:
        """A publisher has ended; the last one lets the viewers finish."""
        self._sent.add(msgspec.convert(msg.data, Sent, strict=False))
        self._done += 1
        if self._done == SCENARIO.publishers:
            self._say("finish")

    def seen(self, environment: Environment, msg: Any, **_: Any) -> None:
        """A viewer User has reported; the last one ends the run."""
        self._seen.add(msgspec.convert(msg.data, Seen, strict=False))
        self._told += 1
        if self._told == SCENARIO.viewer_users:
            report = {"seen": self._seen, "sent": self._sent, "connect_s": round(self._connect_s, 2)}
            REPORT.write_bytes(msgspec.json.encode(report))
            gevent.spawn(self._quit)

    def _say(self, message: str) -> None:
        assert self._environment.runner is not None
        self._environment.runner.send_message(message, {})

    def _quit(self) -> None:
        assert self._environment.runner is not None
        self._environment.runner.quit()


def prepare(environment: Environment, **_: Any) -> None:
    """Register who listens to what: the master conducts, workers obey, a lone process does both."""
    runner = environment.runner
    if runner is None:
        return
    if not isinstance(runner, MasterRunner):
        runner.register_message("go", lambda **_: go.set())
        runner.register_message("finish", lambda **_: finish.set())
    if not isinstance(runner, WorkerRunner):
        conductor = Conductor(environment)
        runner.register_message("ready", conductor.ready)
        runner.register_message("sent", conductor.sent)
        runner.register_message("seen", conductor.seen)


events.init.add_listener(prepare)  # type: ignore[no-untyped-call] # locust leaves its hooks untyped
