"""How soon ten thousand sessions that were cut at once are back and caught up, and what those who stayed notice.

One engine process on one core, all sessions in this process on another. Messages flow before, while and after. A
session is *back* when its subscribe is answered, *caught up* when it has all that was sent until the last one was back.
With ``--rate 0`` nothing flows: some messages are missed by all, and what a return costs the engine is measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from bench._herd_sessions import Herd, HerdSession, Said
from bench.engines import add_server_options, pinned_engine, servers
from fanout.protocol.websocket import endpoint
from fanout.runtime.apps import DEV_APP, DEV_SECRET
from fanout.runtime.launch import EngineProcess
from fanout.runtime.tokens import mint

ROOM: Final = "open:herd"
TEXT: Final = "x" * 80
OPEN_PER_S: Final = 1_500.0
MISSED: Final = 20  # messages while all are away, where none flow
GIVE_UP_S: Final = 60.0


def main(arguments: Sequence[str]) -> int:
    """Print the figures; exit status 1 when a delivery is missing, doubled or out of order."""
    parser = argparse.ArgumentParser(prog="herd", description=__doc__)
    add_server_options(parser)
    parser.add_argument("--sessions", type=int, default=11_000)
    parser.add_argument("--stay", type=int, default=1_000, help="of the sessions; the others are cut")
    parser.add_argument("--rate", type=float, default=10.0, help="messages a second; 0: only the cost of a return")
    parser.add_argument("--seconds", type=float, default=8.0, help="of the flow before the cut")
    parser.add_argument("--tokens", action="store_true", help="every session shows a token of its own")
    parser.add_argument("--at-once", action="store_true", help="all come back in the same moment, as no SDK does")
    options = parser.parse_args(arguments)
    with servers(options) as (log, store), pinned_engine(log, store) as process:
        figures = Run(process, options).figures()
    print(json.dumps(figures))
    return 1 if figures["lost"] or figures["misordered"] else 0


class Publisher:
    """Messages over one HTTP connection, sent when they are due and never waited for."""

    def __init__(self, host: str, port: int, rate: float) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None
        self._pause_s = 1 / rate if rate else 0.0
        self._due_s = 0.0
        self._flows = False
        self.sent = 0
        self.accepted = 0
        self.refused = 0

    def connect(self) -> None:
        """Connect; an idle connection would be closed by the engine."""
        self._socket = socket.create_connection(self._address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)

    def flow(self, flows: bool) -> None:
        """Begin to send at the rate, or stop."""
        self._flows, self._due_s = flows and self._pause_s > 0, time.monotonic()

    def turn(self) -> None:
        """Send what is due, read what was answered."""
        if self._flows and time.monotonic() >= self._due_s:
            self._due_s += self._pause_s
            self.send()
        if self.sent > self.accepted + self.refused:
            self._answers()

    def send(self) -> None:
        """Send one message."""
        assert self._socket is not None, "connect comes first"
        self.sent += 1
        said = Said(self.sent, time.monotonic(), TEXT)
        body = msgspec.json.encode({"room": ROOM, "data": said})
        head = (
            b"POST /v1/publish HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        )
        try:
            self._socket.send(head % len(body) + body)
        except OSError:  # closed for having been idle
            self.close()
            self.connect()
            self._socket.send(head % len(body) + body)

    def _answers(self) -> None:
        assert self._socket is not None, "something was sent"
        try:
            data = self._socket.recv(65_536)
        except BlockingIOError:
            return
        answers = data.count(b"HTTP/1.1 ")
        good = data.count(b"HTTP/1.1 2")
        self.accepted += good
        self.refused += answers - good

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()


class Run:
    """One run: open, flow, cut, come back, count."""

    def __init__(self, process: EngineProcess, options: argparse.Namespace) -> None:
        where = endpoint(process.websocket_url)
        self._pid = process.pid
        self._options = options
        self._tokens = _tokens(options.sessions) if options.tokens else []
        self.herd = Herd(where, ROOM, options.sessions, options.stay, token=self._token, backoff=not options.at_once)
        self.publisher = Publisher(where.host, where.port, options.rate)
        self._lag_s = 0.0

    def figures(self) -> dict[str, Any]:
        """Return the figures of the run."""
        gc.disable()
        try:
            self._open()
            return self._measure()
        finally:
            gc.enable()
            self.publisher.close()
            self.herd.close()

    def _token(self, index: int) -> str:
        return self._tokens[index] if self._tokens else ""

    def _open(self) -> None:
        for session in self.herd.sessions:
            self.herd.bring(session.index, session.index / OPEN_PER_S)
        self._until(lambda: self.herd.live == len(self.herd.sessions), "all are subscribed")
        self.publisher.connect()
        self.publisher.flow(True)
        self._for(2.0)  # the first messages pay for what is built once

    def _measure(self) -> dict[str, Any]:
        options, herd = self._options, self.herd
        begin_s = time.monotonic()
        self._for(options.seconds if options.rate else 0.1)
        away = [session for session in herd.sessions if not session.stays]
        refused_before = herd.counts["status 503"]
        self._lag_s = 0.0
        engine, client, cut_s = Cpu.of(self._pid), Cpu.of(os.getpid()), time.monotonic()
        herd.cut(self._published_meanwhile(away))
        if not options.rate:
            self._miss()
        for session in away:
            herd.come_back(session)
        self._until(lambda: herd.live == len(herd.sessions), "all are back")
        back_s = time.monotonic()
        due = self.publisher.accepted
        self._until(lambda: self._caught_up(away, due), "all are caught up")
        end_s = time.monotonic()
        engine, client = Cpu.of(self._pid).since(engine), Cpu.of(os.getpid()).since(client)
        lag_s = self._lag_s
        lost = self._settle()
        return {
            "bench": "herd",
            "sessions": len(herd.sessions),
            "cut": len(away),
            "tokens": bool(self._tokens),
            "back_s": round(back_s - cut_s, 2),
            "caught_up_s": round(end_s - cut_s, 2),
            "p50_ms_before": self._quantile(0.5, begin_s, cut_s),
            "p99_ms_before": self._quantile(0.99, begin_s, cut_s),
            "p50_ms_during": self._quantile(0.5, cut_s, end_s),
            "p99_ms_during": self._quantile(0.99, cut_s, end_s),
            "refused": herd.counts["status 503"] - refused_before,
            "engine_cpu_s": round(engine.ran_s, 2),
            "engine_waited_s": round(engine.waited_s, 2),
            **({} if options.rate else {"cpu_us_per_return": round(engine.ran_s / len(away) * 1e6, 1)}),
            "client_cpu_s": round(client.ran_s, 2),
            "client_waited_s": round(client.waited_s, 2),
            "client_lag_ms": round(lag_s * 1000, 1),
            "messages": self.publisher.sent,
            "misordered": herd.counts["misordered"],
            "lost": lost,
            "counts": dict(herd.counts),
        }

    def _published_meanwhile(self, away: Sequence[HerdSession]) -> Iterator[HerdSession]:
        for session in away:
            self.publisher.turn()
            yield session

    def _miss(self) -> None:
        for _ in range(MISSED):
            self.publisher.send()
            self._until(lambda: self.publisher.accepted == self.publisher.sent, "a message is accepted")

    def _caught_up(self, away: Sequence[HerdSession], due: int) -> bool:
        return all(session.due > due for session in away)

    def _settle(self) -> int:
        """Stop the flow; return how many deliveries are missing when all has been waited for."""
        self.publisher.flow(False)
        self._until(lambda: self.publisher.accepted + self.publisher.refused == self.publisher.sent, "answers")
        sent = self.publisher.sent
        self._until(lambda: self._caught_up(self.herd.sessions, sent), "the last message is everywhere", give_up_s=10.0)
        missing = sum(max(0, sent + 1 - session.due) for session in self.herd.sessions)
        return missing + self.herd.counts["gap"] + self.publisher.refused

    def _quantile(self, share: float, since_s: float, until_s: float) -> float:
        """Return a quantile in ms of the deliveries to those who stay, of messages sent in a span; 0 without any."""
        herd = self.herd
        took = sorted(took for sent, took in zip(herd.sent_s, herd.took_s, strict=True) if since_s <= sent < until_s)
        return round(took[min(len(took) - 1, int(len(took) * share))] * 1000, 1) if took else 0.0

    def _for(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        self._until(lambda: time.monotonic() >= end_s, "")

    def _until(self, truth: Callable[[], bool], what: str, *, give_up_s: float = GIVE_UP_S) -> None:
        """Turn until something is so, looking every 10 ms; goes on without it after ``give_up_s``."""
        look_s = begin_s = last_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            self._lag_s = max(self._lag_s, now_s - last_s)
            last_s = now_s
            if now_s >= look_s:
                look_s = now_s + 0.01
                if truth():
                    return
                if now_s - begin_s > give_up_s and what:
                    self.herd.counts[f"never: {what}"] += 1
                    return
            self.publisher.turn()
            self.herd.turn(0.001)


def _tokens(sessions: int) -> list[str]:
    expires_s = int(time.time()) + 3_600
    return [mint(DEV_SECRET, app=DEV_APP, user=f"user-{index}", expires_s=expires_s) for index in range(sessions)]


class Cpu(NamedTuple):
    """Seconds that a process has run, and that it would have run had the core not been another's (all threads)."""

    ran_s: float
    waited_s: float

    @classmethod
    def of(cls, pid: int) -> Cpu:
        """Return the figures of a process so far (Linux: /proc/PID/task/*/schedstat)."""
        tasks = [task.read_text().split() for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        return cls(sum(int(ran) for ran, _, _ in tasks) / 1e9, sum(int(waited) for _, waited, _ in tasks) / 1e9)

    def since(self, before: Cpu) -> Cpu:
        """Return what was added."""
        return Cpu(self.ran_s - before.ran_s, self.waited_s - before.waited_s)
