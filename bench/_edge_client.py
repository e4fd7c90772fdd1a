"""The C programs of the edge bench: built when their sources are newer, started, told what to do.

The draining client (``edge_client/client.c``) holds all sessions, publishes and checks; the floor (``floor.c``) is the
bare ``send()`` loop that it is compared with. Both answer one line to each command.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bench._edge_lines import chat_tails
from fanout.core.errors import FanoutError

SOURCES: Final = Path(__file__).parent / "edge_client"
BUILT: Final = Path(__file__).parent.parent / ".cache" / "bench"
_SHARED: Final = ("wire.c",)
_PROGRAMS: Final = {
    "edge_client": ("client.c", "check.c", "publisher.c", *_SHARED),
    "edge_floor": ("floor.c", *_SHARED),
}
_FLAGS: Final = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror")
_LIBRARIES: Final = ("-lz", "-lm")


def build() -> None:
    """Compile what is missing or older than any source; raises FanoutError without a compiler or zlib's header."""
    newest = max(source.stat().st_mtime for source in SOURCES.iterdir())
    BUILT.mkdir(parents=True, exist_ok=True)
    for name, sources in _PROGRAMS.items():
        program = BUILT / name
        if not program.exists() or program.stat().st_mtime < newest:
            _compile(program, [str(SOURCES / source) for source in sources])


def _compile(program: Path, sources: Sequence[str]) -> None:
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None:
        raise FanoutError("the edge bench needs a C compiler and zlib: apt install gcc zlib1g-dev")
    fresh = program.with_suffix(f".{os.getpid()}")  # two runs at once do not execute half a file
    command = [compiler, *_FLAGS, "-o", str(fresh), *sources, *_LIBRARIES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FanoutError(f"the edge bench does not compile:\n{done.stderr}")
    fresh.replace(program)


def lines_file() -> Path:
    """Return the file of chat lines, written if it is not there."""
    path = BUILT / "chat_lines.txt"
    text = b"".join(tail + b"\n" for tail in chat_tails())
    if not path.exists() or path.read_bytes() != text:
        path.write_bytes(text)
    return path


class _Program:
    """A process that takes commands. ``cpus``: the cores it may use."""

    def __init__(self, name: str, arguments: Sequence[str], cpus: set[int] | None = None) -> None:
        self._process = subprocess.Popen(
            [str(BUILT / name), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        if cpus:
            os.sched_setaffinity(self._process.pid, cpus)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def tell(self, command: str) -> None:
        """Give a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def answer(self, timeout_s: float) -> str:
        """Return the next line; raises FanoutError when it does not come."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise FanoutError(f"{self._process.args!r} gave no answer (exit status {self._process.poll()})")
        return line


class DrainingClient(_Program):
    """Thousands of sessions of one room of the server at ``port``; ``pid`` is whose CPU time is measured."""

    def __init__(self, port: int, room: str, *, pid: int, sessions: int, deflate: bool = False) -> None:
        sample_every = max(1, sessions // 500)  # latency is taken at 500 sessions, spread over all
        arguments = [str(port), room, str(lines_file()), str(pid), str(sample_every)]
        super().__init__("edge_client", [*arguments, "deflate"] if deflate else arguments)

    def ask(self, *command: str | float, timeout_s: float = 150.0) -> dict[str, Any]:
        """Give a command and return its answer."""
        self.tell(" ".join(map(str, command)))
        answer: dict[str, Any] = json.loads(self.answer(timeout_s))
        return answer

    def flow(self, in_flight: int, warm_s: float, seconds: float) -> dict[str, Any]:
        """Keep so many messages under way; return what was measured."""
        return self.ask("flow", in_flight, warm_s, seconds, timeout_s=warm_s + seconds + 60.0)

    def pace(self, messages_per_s: float, warm_s: float, seconds: float) -> dict[str, Any]:
        """Publish at a rate; return what was measured."""
        return self.ask("pace", messages_per_s, warm_s, seconds, timeout_s=warm_s + seconds + 60.0)

    def drain(self, warm_s: float, seconds: float) -> None:
        """Measure what others publish; ``settle`` returns it."""
        self.ask("drain", warm_s, seconds, timeout_s=warm_s + seconds + 60.0)

    def settle(self) -> dict[str, Any]:
        """Read on until nothing comes, now that nobody sends any more; return what ``drain`` measured."""
        return self.ask("settle")


class Floor(_Program):
    """The bare loop, on the core that the engine has in its runs."""

    def __init__(self, room: str, cpus: set[int] | None) -> None:
        super().__init__("edge_floor", [room, str(lines_file())], cpus)
        self.port = int(self.answer(10.0))

    def send(self, messages: int) -> None:
        """Send frames of so many messages until ``stop``."""
        self.tell(f"send {messages}")

    def stop(self) -> None:
        """Send no more."""
        self.tell("stop")
        self.answer(10.0)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def settled_bytes(pid: int, timeout_s: float = 10.0) -> int:
    """Return the resident memory once it has not changed for a second."""
    deadline = time.monotonic() + timeout_s
    before, since = resident_bytes(pid), time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < 1.0:
        time.sleep(0.1)
        now = resident_bytes(pid)
        if now != before:
            before, since = now, time.monotonic()
    return before
