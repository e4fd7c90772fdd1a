"""``python -m loadtest --scenario live_room [--url http://…]``: run locust, ask the ledger, judge, exit 0 or 1.

Without ``--url`` an engine of its own is started (``fanout serve --insecure``, on the in-memory twins). With keys, set
FANOUT_API_KEY and FANOUT_TOKEN_SECRET as the engine has them. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from fanout.cli.api_client import ApiClient
from fanout.core.errors import FanoutError
from fanout.runtime.launch import EngineProcess
from loadtest import scenario as scenarios
from loadtest.scenario import Scenario
from loadtest.verdict import Report, complaints, failures, figures, settled

ROOT: Final = Path(__file__).resolve().parent.parent
LOCUSTFILE: Final = Path(__file__).resolve().parent / "locustfile.py"
SETTLE_S: Final = 25.0  # gateways report every 10 s, jittered
OVERHEAD_S: Final = 45.0  # locust's start, quiet at the end, its stop
_CHANGES: Final = {
    "viewers": int,
    "publishers": int,
    "processes": int,
    "messages_per_s": float,
    "seconds": float,
    "sockets_per_user": int,
}


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--scenario", default="live_room", help="name in loadtest/scenarios, or a .toml file")
    parser.add_argument("--url", default="", help="of a running engine; without it one is started")
    parser.add_argument("--wait-s", type=float, default=30.0, help="for the engine to become ready")
    parser.add_argument("--report", type=Path, help="write everything as JSON to this file")
    for name, kind in _CHANGES.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind, help="in place of the scenario's")
    return parser.parse_args()


@contextlib.contextmanager
def engine(url: str) -> Iterator[str]:
    """Give the URL of the engine to load: the one named, or one of its own, drained at the end."""
    if url:
        yield url
        return
    process = EngineProcess(["--insecure", "--port", "0"]).start()
    try:
        yield process.url
    finally:
        process.stop()


def wait_ready(url: str, wait_s: float) -> None:
    """Return when the engine says that it is ready; raises FanoutError with its answer when it does not in time."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            with ApiClient(url) as api:
                api.get("/readyz")
                return
        except FanoutError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def run_locust(scenario: Scenario, url: str, room: str, report: Path) -> None:
    """Run locust headless until its master has written the report; raises FanoutError where it has not."""
    users = scenario.viewer_users + scenario.publishers
    longest_s = scenario.connect_s + scenario.seconds + OVERHEAD_S
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--host", url]
    command += [
        "-u",
        str(users),
        "-r",
        str(users),
        "-t",
        f"{round(longest_s)}s",
        "--only-summary",
        "--stop-timeout",
        "1",
    ]
    command += ["--exit-code-on-error", "0", "--loglevel", "WARNING"]
    if scenario.processes > 1:
        command += ["--processes", str(scenario.processes)]
    environment = os.environ | {
        "LOADTEST_SCENARIO": scenarios.encode(scenario),
        "LOADTEST_ROOM": room,
        "LOADTEST_REPORT": str(report),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))),
    }
    subprocess.run(command, env=environment, timeout=longest_s + 30, check=False, cwd=ROOT)
    if not report.exists():
        raise FanoutError("locust ended without a report: see its output above")


def settled_ledger(url: str, room: str, report: Report) -> dict[str, Any]:
    """Return the room's ledger once the gateways have reported; the last one seen when they do not in time."""
    deadline = time.monotonic() + SETTLE_S
    with ApiClient(url, os.environ.get("FANOUT_API_KEY", "")) as api:
        while True:
            ledger: dict[str, Any] = api.ledger(room)
            if settled(ledger, report) or time.monotonic() > deadline:
                return ledger
            time.sleep(0.5)


def run(scenario: Scenario, url: str, report_file: Path | None) -> int:
    """Run a scenario against an engine, print the figures; returns 0 where all marks were reached."""
    room = f"{scenario.room}-{os.getpid()}-{int(time.time())}"
    with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
        path = Path(folder) / "report.json"
        run_locust(scenario, url, room, path)
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    ledger = settled_ledger(url, room, report)
    found = figures(scenario, ledger, report)
    missed = failures(scenario, found) + complaints(ledger, report)
    for sentence in missed:
        print(f"MISSED {sentence}")
    line = {"scenario": scenario.name, "room": room, "passed": not missed, "missed": missed, **found}
    if report_file is not None:
        report_file.write_bytes(msgspec.json.format(msgspec.json.encode({**line, "ledger": ledger, "report": report})))
    print(msgspec.json.encode(line).decode(), flush=True)
    return 1 if missed else 0


def main() -> int:
    """Entry point."""
    given = arguments()
    changes = {name: value for name in _CHANGES if (value := getattr(given, name)) is not None}
    try:
        scenario = scenarios.load(given.scenario, changes)
        with engine(given.url) as url:
            wait_ready(url, given.wait_s)
            return run(scenario, url, given.report)
    except (FileNotFoundError, ValueError) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    except FanoutError as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
