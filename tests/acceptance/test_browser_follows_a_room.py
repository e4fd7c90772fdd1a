"""A page in Chromium with the stock SDK follows a busy room over a compressed connection, and misses nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench._chat_lines import lines
from scripts.parts import chromium
from tests.support.engine_process import ServedEngine
from tests.support.parts import need

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.real

SECONDS = 10
PER_S = 200
TICKS_PER_S = 10
FOLLOW = """
async ([url, room]) => {
  window.seen = [];
  window.trouble = [];
  // The SDK's own socket, kept to see what was negotiated.
  class Socket extends WebSocket {
    constructor(...args) { super(...args); window.socket = this; }
  }
  const client = new Centrifuge(url, { websocket: Socket });
  const subscription = client.newSubscription(room);
  subscription.on('publication', (ctx) => window.seen.push([ctx.data.n, ctx.data.text, ctx.offset]));
  for (const name of ['subscribing', 'unsubscribed', 'error']) {
    subscription.on(name, (ctx) => { if (window.joined) window.trouble.push([name, ctx.code ?? 0]); });
  }
  client.on('disconnected', (ctx) => window.trouble.push(['disconnected', ctx.code]));
  const joined = new Promise((resolve) => subscription.on('subscribed', resolve));
  subscription.subscribe();
  client.connect();
  await joined;
  window.joined = true;
  return window.socket.extensions;
}
"""


@pytest.fixture
def page(js_sdk: Path) -> Iterator[Page]:
    """An empty page that has loaded the stock SDK."""
    from playwright.sync_api import sync_playwright

    browser_path = need(chromium)
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        try:
            opened = browser.new_page()
            opened.add_script_tag(path=js_sdk / "node_modules" / "centrifuge" / "dist" / "centrifuge.js")
            yield opened
        finally:
            browser.close()


def metric(engine: ServedEngine, name: str) -> float:
    """Return a value of the engine's metrics, 0 where there is none yet."""
    found = [line for line in engine.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


def test_a_page_follows_200_messages_a_second_over_a_compressed_connection(engine: ServedEngine, page: Page) -> None:
    room = f"open:browser-{time.time_ns()}"
    names = ("fanout_frames_deflated_total", "fanout_bytes_saved_total")
    before = [metric(engine, name) for name in names]
    extensions = page.evaluate(FOLLOW, [engine.ws_url, room])
    assert extensions == "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    assert metric(engine, 'fanout_sessions{compression="deflate",wire_format="json"}') >= 1
    said = [(number, line.text) for number, line in enumerate(lines(SECONDS * PER_S))]
    batch = PER_S // TICKS_PER_S
    begun_s = time.monotonic()
    for tick in range(SECONDS * TICKS_PER_S):
        time.sleep(max(0.0, begun_s + tick / TICKS_PER_S - time.monotonic()))
        engine.publish_all(room, [{"n": n, "text": text} for n, text in said[tick * batch : (tick + 1) * batch]])
    page.wait_for_function("count => window.seen.length >= count", arg=len(said), timeout=15_000)
    seen = page.evaluate("window.seen")
    assert [(number, text) for number, text, _ in seen] == said
    offsets = [offset for _, _, offset in seen]
    assert offsets == sorted(set(offsets))
    assert page.evaluate("window.trouble") == []
    frames, saved = (metric(engine, name) - count for name, count in zip(names, before, strict=True))
    assert frames >= SECONDS * TICKS_PER_S / 2
    assert saved > 100_000
