"""The commands of ``python -m scripts.parts``: parts and an engine in the background, found again by files of pids.

``.cache/run/<name>.json`` holds {"pids", "born", "address"}; a pid is only ended while it is still the same process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from scripts import parts

RUN: Final[Path] = Path(os.environ.get("FANOUT_RUN") or parts.ROOT / ".cache" / "run")  # one folder, one set of parts
ENGINE: Final = "engine"
ENGINE_READY_S: Final = 60.0


def main(arguments: Sequence[str]) -> int:
    """Run one command; return the exit status (2: not understood, 1: a part is missing)."""
    commands: dict[str, Callable[[], object]] = {
        "install": install,
        "start": start,
        "stop": lambda: stop("kafka", "redis"),
        "status": status,
        "table": print_table,
        "up": up,
        "down": down,
    }
    if len(arguments) != 1 or arguments[0] not in commands:
        print(f"usage: python -m scripts.parts {' | '.join(commands)}", file=sys.stderr)
        return 2
    try:
        commands[arguments[0]]()
    except parts.PartMissing as missing:
        print(f"parts: {missing}", file=sys.stderr)
        return 1
    return 0


def install() -> None:
    """Install every part that can be had; raises PartMissing for the first two, which most tests need."""
    for name, install_part in (("kafka", parts.install_kafka), ("redis", parts.install_redis)):
        started_s = time.monotonic()
        print(f"{name:<12}{install_part()}  ({time.monotonic() - started_s:.1f} s)")
    with contextlib.suppress(parts.PartMissing):
        print(f"{'prometheus':<12}{parts.install_prometheus()}")


def start() -> list[str]:
    """Start Kafka and Redis in the background, where they do not run already; return what was started here."""
    starters: dict[str, Callable[[Path], parts.Running]] = {
        "kafka": lambda directory: parts.start_kafka(directory, background=True),
        "redis": lambda directory: parts.start_redis(directory, background=True),
    }
    started = []
    for name, start_part in starters.items():
        running = _read(name)
        if running:
            print(f"{name:<12}{running['address']}  (runs already)")
            continue
        started_s = time.monotonic()
        directory = RUN / name
        shutil.rmtree(directory, ignore_errors=True)  # every start is a new log and an empty store
        part = start_part(directory)
        _write(part)
        started.append(name)
        print(f"{name:<12}{part.address}  ({time.monotonic() - started_s:.1f} s)")
    return started


def up() -> None:
    """Start Kafka, Redis and an engine on them, and say how long it took; notes what ``down`` has to stop."""
    started_s = time.monotonic()
    running = _read(ENGINE)
    if running:
        print(f"{ENGINE:<12}{running['address']}  (runs already)")
        return
    _note_started([*_started(), *start()])
    port = 8000 if parts.port_is_free(8000) else parts.free_ports(1)[0]
    options = ["--host", "127.0.0.1", "--port", str(port), "--insecure"]
    servers = ["--log", f"kafka://{_read('kafka')['address']}", "--store", f"redis://{_read('redis')['address']}"]
    command = [sys.executable, "-m", "fanout", "serve", *servers, *options]
    directory = RUN / ENGINE
    directory.mkdir(parents=True, exist_ok=True)
    engine = parts.Running(ENGINE, f"127.0.0.1:{port}", [command], directory, background=True)
    engine.spawn()
    _write(engine)  # before it is ready: ``down`` ends it also when it never becomes so
    parts.wait_ready("the engine", lambda: parts.http_ok(port, "/readyz"), engine, ENGINE_READY_S)
    print(f"{ENGINE:<12}http://127.0.0.1:{port}")
    print(f"up in {time.monotonic() - started_s:.1f} s")


def down() -> None:
    """Stop the engine and those parts that ``up`` started; a part that ran before it belongs to somebody else."""
    stop(ENGINE, *_started())
    _note_started([])


def stop(*names: str) -> None:
    """End what ``start`` and ``up`` left running, by its pids."""
    for name in names:
        running = _read(name)  # empty where a pid is another process's by now: that one is left alone
        for pid in running.get("pids", ()):
            parts.terminate(int(pid))
        (RUN / f"{name}.json").unlink(missing_ok=True)
        print(f"{name:<12}{'stopped' if running else 'does not run'}")


def status() -> None:
    """Say what runs."""
    for name in ("kafka", "redis", ENGINE):
        running = _read(name)
        print(f"{name:<12}{running['address'] if running else 'does not run'}")


def print_table() -> None:
    """Print the parts that tests will use, and their versions."""
    for name, version, where in parts.table():
        print(f"{name:<14}{version:<14}{where}")


def _write(part: parts.Running) -> None:
    RUN.mkdir(parents=True, exist_ok=True)
    pids = [process.pid for process in part.processes]
    noted = {"pids": pids, "born": [_born(pid) for pid in pids], "address": part.address}
    (RUN / f"{part.name}.json").write_text(json.dumps(noted))


def _note_started(names: Sequence[str]) -> None:
    RUN.mkdir(parents=True, exist_ok=True)
    (RUN / "up.json").write_text(json.dumps(sorted(set(names))))


def _started() -> list[str]:
    """Return the parts that ``up`` has started and ``down`` has not stopped yet."""
    try:
        names: list[str] = json.loads((RUN / "up.json").read_text())
    except (OSError, ValueError):
        return []
    return [name for name in names if _read(name)]


def _read(name: str) -> dict[str, Any]:
    """Return what is noted about a part that still runs, else an empty dict. A pid may be another's by now."""
    try:
        noted: dict[str, Any] = json.loads((RUN / f"{name}.json").read_text())
        alive = [_born(pid) for pid in noted["pids"]] == noted["born"]
    except (OSError, ValueError, KeyError):
        return {}
    return noted if alive else {}


def _born(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; pid and this never come twice together.

    Source: proc(5), /proc/pid/stat, field 22, counted from behind the command, which may hold blanks.
    """
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
