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
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

CONFIG_CODE: Final = 2  # exit status of a child whose flags or environment cannot work: no use in trying again
DEPENDENCY_CODE: Final = 75  # ... of one that found no log or store (EX_TEMPFAIL): that ends by itself
CRASHES_MAX: Final = 10  # of every child in a row: processes that cannot live take the service down, visibly
LIVED_S: Final = 60.0  # a child that lived so long was well
RESTART_S: Final = (0.25, 10.0)  # pause before a restart: the first one, and the longest
_PLACE: Final = struct.Struct("I")
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

    def tell(self, index: int) -> None:
        """In a child: it serves. Once the first process has heard all of them, nobody listens any more."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._writing, _PLACE.pack(index))

    def wait(self, all_serve: Callable[[], None]) -> None:
        """In the first process, after the forks: call ``all_serve`` from a thread once every child has told."""
        threading.Thread(target=self._wait, args=(all_serve,), name="ready", daemon=True).start()

    def _wait(self, all_serve: Callable[[], None]) -> None:
        heard: set[int] = set()  # one that is started again tells again
        while len(heard) < self._count:
            heard.update(index for (index,) in _PLACE.iter_unpack(os.read(self._reading, _PLACE.size)))
        os.close(self._reading)
        all_serve()


def restart_pause_s(ends: int) -> float:
    """Return how long to wait before a child is started again that has ended ``ends`` times without having lived."""
    shortest, longest = RESTART_S
    return float(min(longest, shortest * 2 ** min(ends - 1, 30)))


@dataclass(slots=True)
class _Child:
    """A place among the children: its process (0: none), when that began, and how it fared."""

    pid: int = 0
    since_s: float = 0.0
    ends: int = 0  # in a row, none of which had lived
    crashes: int = 0  # of these, the last ones in a row that had no such reason as a log that is down
    due_s: float = 0.0  # when it is started again


@dataclass(slots=True)
class Supervisor:
    """Keeps ``count`` children alive until a signal; children run ``child(index)`` and exit with what it returns.

    One that ends is started again after a pause that grows: for ever while the log or the store is what is missing, or
    while others live; the whole ends when no child can live, or when the configuration cannot work. ``forked`` is
    called when all have been started, ``ended`` with the index and cause (``dependency``, ``crash``) of each that ends.
    """

    count: int
    child: Callable[[int], int]
    forked: Callable[[], None] = lambda: None
    ended: Callable[[int, str], None] = lambda index, cause: None
    pause_s: Callable[[int], float] = restart_pause_s
    _children: list[_Child] = field(default_factory=list)
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
            self._children = [_Child() for _ in range(self.count)]
            for index in range(self.count):
                self._fork(index)
            self.forked()
            while not self._is_over():
                self._wait()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        return self._status

    def _is_over(self) -> bool:
        return self._stopping and not any(child.pid for child in self._children)

    def _wait(self) -> None:
        """Wait for a signal or for the next restart that is due, and act on it."""
        now_s = time.monotonic()
        due = [(child.due_s, index) for index, child in enumerate(self._children) if not child.pid]
        if due and not self._stopping:
            due_s, index = min(due)
            if due_s <= now_s:
                self._fork(index)
                return
            caught = signal.sigtimedwait(_WATCHED, due_s - now_s)
            number = caught.si_signo if caught is not None else None
        else:
            number = signal.sigwait(_WATCHED)
        if number == signal.SIGCHLD:
            self._reap()
        elif number is not None:
            self._stop()

    def _fork(self, index: int) -> None:
        pid = os.fork()
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            code = 1
            try:
                code = self.child(index)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        self._children[index].pid = pid
        self._children[index].since_s = time.monotonic()

    def _reap(self) -> None:
        """Take note of every child that has ended: several ends may be one signal."""
        while any(child.pid for child in self._children):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            index = next(index for index, child in enumerate(self._children) if child.pid == pid)
            self._note_end(index, os.waitstatus_to_exitcode(status))

    def _stop(self) -> None:
        self._stopping = True
        for child in self._children:
            if child.pid:  # one that has ended is not reaped yet, so no pid is another's by now
                os.kill(child.pid, signal.SIGTERM)

    def _note_end(self, index: int, code: int) -> None:
        child = self._children[index]
        child.pid = 0
        cause = "dependency" if code == DEPENDENCY_CODE else "crash"
        self.ended(index, cause)
        if self._stopping:
            if code not in (-signal.SIGTERM, DEPENDENCY_CODE):  # asked to stop before it had anything to drain
                self._status = self._status or abs(code)
            return
        now_s = time.monotonic()
        has_lived = now_s - child.since_s >= LIVED_S
        child.ends = 1 if has_lived else child.ends + 1
        child.crashes = 0 if cause == "dependency" else 1 if has_lived else child.crashes + 1
        child.due_s = now_s + self.pause_s(child.ends)
        if code == CONFIG_CODE or all(one.crashes > CRASHES_MAX for one in self._children):
            self._status = abs(code) or 1
            self._stop()


def forget_metrics(directory: str) -> None:
    """Remove the files of ``share_metrics``."""
    shutil.rmtree(directory, ignore_errors=True)
