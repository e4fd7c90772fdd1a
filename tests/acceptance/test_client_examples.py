"""The client examples run as their first lines say: a terminal and a browser page in one room."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.parts import chromium
from tests.support.engine_process import ServedEngine
from tests.support.parts import need

ROOT = Path(__file__).parents[2]
TERMINAL = ROOT / "examples" / "python_client.py"
PAGE = ROOT / "examples" / "browser" / "serve.py"


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python script until the end of the block."""
    process = subprocess.Popen([sys.executable, "-u", *command], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=10)
        process.stdout.close()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


@pytest.fixture
def room() -> str:
    return f"open:example-{time.time_ns()}"


def test_python_example_prints_what_others_say_and_says_what_it_is_given(engine: ServedEngine, room: str) -> None:
    with running(str(TERMINAL), "--url", engine.ws_url, room) as listener:
        assert next_line(listener) == f"in {room}"
        said = subprocess.run(
            [sys.executable, str(TERMINAL), "--url", engine.ws_url, room, "hello", "everybody"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert said.stdout == f"in {room}\nsomebody: hello everybody\n"
        assert next_line(listener) == "somebody: hello everybody"
        engine.publish(room, {"text": "<b>from HTTP</b>"}, sender="ada")
        assert next_line(listener) == "ada: <b>from HTTP</b>"
        engine.publish(room, [1, 2])
        assert next_line(listener) == "somebody: [1, 2]"


@pytest.mark.real
def test_browser_example_shows_what_others_say_and_sends_what_is_typed(
    engine: ServedEngine, room: str, js_sdk: Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    browser_path = need(chromium)
    with running(str(PAGE), "--port", "0", "--sdk", str(js_sdk / "node_modules")) as server, sync_playwright() as tools:
        found = re.search(r"http://127\.0\.0\.1:\d+/", next_line(server))
        assert found is not None
        browser = tools.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        try:
            page = browser.new_page()
            page.goto(f"{found[0]}?room={room}&engine={engine.ws_url}")
            expect(page.locator("#state")).to_have_text("here", timeout=15_000)
            engine.publish(room, {"text": "<b>bold?</b>"})
            expect(page.locator("#messages li")).to_have_text(["<b>bold?</b>"])
            page.fill("#text", "typed")
            page.press("#text", "Enter")
            expect(page.locator("#messages li")).to_have_text(["<b>bold?</b>", "typed"])
            expect(page.locator("#text")).to_have_value("")
        finally:
            browser.close()
