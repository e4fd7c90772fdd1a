"""Processes of one engine: forked after the imports, one port for all of them, supervised by the first.

``fork`` after imports and ``gc.freeze()`` let all processes share the pages of the code: imports cost 40 MB otherwise.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

RESTARTS_MAX: Final = 10  # of a child within RESTARTS_S: a process that cannot live takes the service down, visibly
RESTARTS_S: Final = 60.0
_WATCHED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

# Nearly nothing here forms cycles, and a collection of the oldest generation walks over every session and room: the
# default (700, 10, 10) collects thousands of times a minute under load, for nothing.
GC_THRESHOLDS: Final = (50_000, 20, 100)


def calm_gc() -> None:
    """Keep what exists now out of the garbage collector's sight, and let it look for cycles rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def share_metrics() -> str:
    """Make prometheus_client keep its values in files that all processes share; call before it is imported."""
    directory = tempfile.mkdtemp(prefix="fanout-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    return directory


def reserve_port(host: str, port: int) -> socket.socket:
    """Return a socket bound with SO_REUSEPORT that is never listened on: it keeps the number for the processes."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reserved = socket.socket(family, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind((host, port))
    return reserved


class ReadyPipe:
    """How forked processes tell the first one that they serve. Made before the forks."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._reading, self._writing = os.pipe()

    def tell(self) -> None:
        """In a child: it serves. Once the first process has heard all of them, nobody listens any more."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._writing, b".")

    def wait(self, all_serve: Callable[[], None]) -> None:
        """In the first process, after the forks: call ``all_serve`` from a thread once every child has told."""
        threading.Thread(target=self._wait, args=(all_serve,), name="ready", daemon=True).start()

    def _wait(self, all_serve: Callable[[], None]) -> None:
        heard = 0
        while heard < self._count:
            heard += len(os.read(self._reading, self._count))
        os.close(self._reading)
        all_serve()


@dataclass(slots=True)
class Supervisor:
    """Keeps ``count`` children alive until a signal; children run ``child(index)`` and exit with what it returns."""

    count: int
    child: Callable[[int], int]
    forked: Callable[[], None] = lambda: None
    _pids: dict[int, int] = field(default_factory=dict)
    _restarts: list[float] = field(default_factory=list)
    _stopping: bool = False
    _status: int = 0

    def run(self) -> int:
        """Fork, wait, restart; return the exit status for the whole: 0 after a drain that all children finished.

        Signals stay blocked and are waited for, never handled: a handler could run in a child just forked, or too late
        for a wait that has just begun.
        """
        calm_gc()
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        try:
            for index in range(self.count):
                self._fork(index)
            self.forked()
            while self._pids:
                if signal.sigwait(_WATCHED) == signal.SIGCHLD:
                    self._reap()
                else:
                    self._stop()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        return self._status

    def _fork(self, index: int) -> None:
        pid = os.fork()
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            code = 1
            try:
                code = self.child(index)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        self._pids[pid] = index

    def _reap(self) -> None:
        """Take note of every child that has ended: several ends may be one signal."""
        while self._pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._ended(pid, os.waitstatus_to_exitcode(status))

    def _stop(self) -> None:
        self._stopping = True
        for pid in self._pids:  # those that have ended are not reaped yet, so no pid is another's by now
            os.kill(pid, signal.SIGTERM)

    def _ended(self, pid: int, code: int) -> None:
        index = self._pids.pop(pid)
        if self._stopping:
            if code != -signal.SIGTERM:  # asked to stop before it had anything to drain
                self._status = self._status or abs(code)
            return
        now = time.monotonic()
        self._restarts = [at for at in self._restarts if now - at < RESTARTS_S] + [now]
        if len(self._restarts) > RESTARTS_MAX or code == 2:
            self._status = abs(code) or 1
            self._stop()
        else:
            self._fork(index)


def forget_metrics(directory: str) -> None:
    """Remove the files of ``share_metrics``."""
    shutil.rmtree(directory, ignore_errors=True)
