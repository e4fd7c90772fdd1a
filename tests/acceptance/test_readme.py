"""The README's quickstarts are taken out of the README and run, as a newcomer would paste them."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fanout.client import Client, Publication
from tests.support.engine_process import ServedEngine

README = Path(__file__).parents[2] / "README.md"
PORT = "127.0.0.1:8000"  # what the README shows; the test's engine has another


def quickstart(heading: str, language: str, engine: ServedEngine) -> str:
    """Return the first code block after a heading line, pointed at the engine of the test."""
    found = re.search(rf"^{heading}.*?^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"the README has no {language} block after {heading!r}"
    assert PORT in found[1]
    return found[1].replace(PORT, f"127.0.0.1:{engine.port}")


@pytest.fixture
async def shown(engine: ServedEngine) -> AsyncIterator[asyncio.Queue[bytes]]:
    """What arrives in the room that the quickstarts use."""
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    def show(publication: Publication) -> None:
        arrived.put_nowait(bytes(publication.data))

    async with Client(engine.ws_url) as client:
        await client.subscribe("open:lobby", show)
        yield arrived


async def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command to its end and return what it printed; fails when it failed."""
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd)
    printed, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, printed.decode()
    return printed.decode()


async def test_the_curl_quickstart_publishes(engine: ServedEngine, shown: asyncio.Queue[bytes]) -> None:
    printed = await run("bash", "-euc", quickstart("curl", "sh", engine))
    assert '"offset"' in printed
    assert await asyncio.wait_for(shown.get(), 10) == b'{"text": "hello"}'


async def test_the_python_quickstart_publishes(
    engine: ServedEngine, shown: asyncio.Queue[bytes], tmp_path: Path
) -> None:
    script = tmp_path / "quickstart.py"
    script.write_text(quickstart("Python", "python", engine))
    await run(sys.executable, str(script))
    assert b"hello from Python" in await asyncio.wait_for(shown.get(), 10)


@pytest.mark.real
async def test_the_javascript_quickstart_receives(engine: ServedEngine, js_sdk: Path) -> None:
    """Browsers have WebSocket and the page's script tag brings Centrifuge: here two lines bring both."""
    prelude = (
        "import { Centrifuge } from 'centrifuge';\nimport WebSocket from 'ws';\nglobalThis.WebSocket = WebSocket;\n"
    )
    epilogue = "room.on('subscribed', () => console.log('subscribed'));\n"
    script = js_sdk / "quickstart.mjs"
    script.write_text(prelude + quickstart("JavaScript", "js", engine) + epilogue)
    process = await asyncio.create_subprocess_exec(
        "node", str(script), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=js_sdk
    )
    assert process.stdout is not None
    try:
        assert (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip() == "subscribed"
        await asyncio.to_thread(engine.publish, "open:lobby", {"text": "hello, browser"})
        assert (await asyncio.wait_for(process.stdout.readline(), 10)).decode().strip() == "hello, browser"
    finally:
        process.kill()
        await process.communicate()
