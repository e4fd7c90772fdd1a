"""A stock Centrifuge SDK in a process of its own, driven over a pipe (``tests/acceptance/sdk/driver.*``)."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from scripts.parts import PartMissing

SOURCE: Final = Path(__file__).parents[1] / "acceptance" / "sdk"
INSTALLED: Final = Path(__file__).parents[2] / ".cache" / "sdk-js"
INSTALL_S: Final = 180


class Build(NamedTuple):
    """One build of one SDK."""

    language: str
    protocol: str

    @property
    def name(self) -> str:
        """As in test ids."""
        return f"{self.language}-{self.protocol}"


BUILDS: Final = tuple(Build(language, protocol) for language in ("js", "python") for protocol in ("json", "protobuf"))


class StockSdk:
    """Everything that the SDK has reported, in order, and a way to tell it what to do."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self._changed = asyncio.Event()
        self.events: list[dict[str, Any]] = []

    async def read(self) -> None:
        """Take in what the SDK says until its process ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "answer":
                self._answers.pop(event["number"]).set_result(event)
            else:
                self.events.append(event)
            self._changed.set()

    def all(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name, in order."""
        return [event for event in self.events if event["event"] == name]

    def codes(self, name: str) -> list[int]:
        """Return the codes of the events of a name."""
        return [event["code"] for event in self.all(name)]

    @property
    def received(self) -> list[Any]:
        """Data of the publications of the subscription, in order."""
        return [event["data"] for event in self.all("publication")]

    async def until(self, met: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
        """Wait until ``met`` is true of the events; fails naming ``what``."""
        try:
            async with asyncio.timeout(timeout_s):
                while not met():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            last = "\n".join(json.dumps(event)[:300] for event in self.events[-12:])
            raise AssertionError(f"{what}: not within {timeout_s:.0f} s; the last events:\n{last}") from None

    async def has(self, name: str, times: int = 1) -> None:
        """Wait until an event has been reported so many times."""
        await self.until(lambda: len(self.all(name)) >= times, f"{name} × {times}")

    async def has_received(self, publications: int) -> None:
        """Wait until so many publications of the subscription were handed over."""
        await self.until(lambda: len(self.received) >= publications, f"{publications} publications")

    async def has_got(self, data: object, name: str = "publication") -> None:
        """Wait until a publication with this data was handed over."""
        await self.until(lambda: any(event["data"] == data for event in self.all(name)), f"{name} of {data!r}")

    async def tell(self, do: str, **fields: Any) -> dict[str, Any]:
        """Let the SDK do something; return ``{"result": …}`` or ``{"error": {"code", "message"}}``."""
        assert self._process.stdin is not None
        self._number += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[self._number] = answer
        self._process.stdin.write(json.dumps({"do": do, "number": self._number, **fields}).encode() + b"\n")
        async with asyncio.timeout(15):
            return await answer


def install_js() -> Path:
    """Install the locked packages once under ``.cache/``; return the directory. Raises PartMissing."""
    if not (shutil.which("node") and shutil.which("npm")):
        raise PartMissing("Node.js (node and npm) is not installed: the stock JavaScript SDK cannot run")
    lock = (SOURCE / "package-lock.json").read_bytes()
    marker = INSTALLED / ".installed"
    INSTALLED.mkdir(parents=True, exist_ok=True)
    shutil.copy(SOURCE / "driver.mjs", INSTALLED / "driver.mjs")
    if not marker.exists() or marker.read_bytes() != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCE / name, INSTALLED / name)
        _run_npm_ci()
        marker.write_bytes(lock)
    return INSTALLED


def _run_npm_ci() -> None:
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        subprocess.run(command, cwd=INSTALLED, check=True, timeout=INSTALL_S, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise PartMissing(f"npm ci failed: {error.stderr[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise PartMissing(f"npm ci took longer than {INSTALL_S} s") from error


@asynccontextmanager
async def stock_sdk(build: Build, url: str, room: str = "", token: str = "") -> AsyncIterator[StockSdk]:
    """Start the SDK, connect it to ``url``, subscribe it to ``room`` where given."""
    settings = json.dumps({"url": url, "protocol": build.protocol, "room": room, "token": token})
    if build.language == "js":
        command = ["node", str(INSTALLED / "driver.mjs"), settings]
    else:
        command = [sys.executable, str(SOURCE / "driver.py"), settings]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 20
    )
    sdk = StockSdk(process)
    reading = asyncio.create_task(sdk.read())
    try:
        yield sdk
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        await reading
