"""Engine processes started from outside: by the demo, the benches, ``make up`` and the tests.

The child prints one line with its URL when it serves; its standard error goes where the caller says.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO, Final

from fanout.core.errors import FanoutError

LISTENING: Final = "fanout: listening on "


class EngineProcess:
    """A ``fanout serve`` of its own. ``start`` returns when it listens; ``stop`` drains it."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        errors: IO[bytes] | int | None = None,
        cpus: set[int] | None = None,
    ) -> None:
        self._command = [sys.executable, "-m", "fanout", "serve", *arguments]
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self._errors = errors
        self._cpus = cpus
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        """Process id; 0 before the start."""
        return self._process.pid if self._process else 0

    @property
    def websocket_url(self) -> str:
        """Where clients connect."""
        return self.url.replace("http://", "ws://", 1) + "/connection/websocket"

    def start(self, timeout_s: float = 30.0) -> EngineProcess:
        """Start and wait until it listens; raises FanoutError when it ends or stays silent."""
        self.spawn()
        return self.wait_listening(timeout_s)

    def spawn(self) -> EngineProcess:
        """Start without waiting, so that several start at once."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=self._errors, env=self._environment, start_new_session=True
        )
        if self._cpus:
            os.sched_setaffinity(self._process.pid, self._cpus)
        return self

    def wait_listening(self, timeout_s: float = 30.0) -> EngineProcess:
        """Read standard output until the URL comes."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while True:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            line = self._process.stdout.readline().decode() if ready else ""
            if line.startswith(LISTENING):
                self.url = line.removeprefix(LISTENING).strip()
                return self
            if not line:
                code = self._process.poll()
                self.kill()
                raise FanoutError(f"the engine did not start (exit status {code}): {' '.join(self._command)}")

    def signal(self, number: int) -> None:
        """Send a signal: SIGSTOP and SIGCONT make a zombie owner, SIGKILL a crash."""
        assert self._process is not None
        self._process.send_signal(number)

    def alive(self) -> bool:
        """True while the process runs (a stopped one runs)."""
        return self._process is not None and self._process.poll() is None

    def stop(self, timeout_s: float = 30.0) -> int:
        """Drain and return the exit status; killed when it does not end in time."""
        if self.alive():
            self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for its end and return the exit status; killed when it does not end in time."""
        if self._process is None:
            return 0
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL
        self._close()
        return code

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            if self.alive():
                self._process.kill()
            self._process.wait()
            self._close()

    def _close(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
