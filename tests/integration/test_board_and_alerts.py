"""Every expression of the board and of the alerts, asked of a real Prometheus that scrapes a running engine."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.sync.client import connect

from fanout.cli.api_client import ApiClient
from fanout.runtime.launch import EngineProcess
from scripts.parts import start_prometheus
from tests.support import promql
from tests.support.parts import need

pytestmark = pytest.mark.real

ROOM: Final = "live:board"
_CONFIG: Final = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: fanout
    static_configs: [{{targets: ["{target}"]}}]
"""
VALUE_S: Final = 20.0  # a rate needs two scrapes
# Panels that show a figure on any engine with traffic; the others wait for drops, holes, leases lost and the like.
ALWAYS: Final = {
    "Messages accepted", "Deliveries written", "Sessions", "Publish → socket, p99", "Share of subscriptions behind",
    "Not ready", "Accepted by class", "Kept, merged, dropped", "Record → acknowledged by the log", "HTTP requests",
    "Records polled", "One poll → chunks acknowledged", "Chunks", "Deliveries", "Sessions by process", "Subscriptions",
    "Bytes to sockets", "Event loop lag, p99", "Ready", "Leases held",
}  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with (tmp_path_factory.mktemp("engine") / "log").open("wb") as errors:
        process = EngineProcess(["--insecure", "--port", "0"], errors=errors).start()
        yield process
        process.stop()


class Prometheus:
    """A real Prometheus; ``query`` is its HTTP API."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}/api/v1"

    def get(self, path: str, **parameters: str) -> dict[str, Any]:
        """Return the decoded answer, also of a refused query."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self._url}/{path}?{query}", timeout=10) as response:
                raw = response.read()
        except urllib.error.HTTPError as error:
            raw = error.read()
            error.close()
        answer: dict[str, Any] = json.loads(raw)
        return answer

    def values(self, expression: str) -> list[float]:
        """Return the finite values of an instant query."""
        answer = self.get("query", query=expression)
        assert answer["status"] == "success", answer
        found = [float(sample["value"][1]) for sample in answer["data"]["result"]]
        return [value for value in found if math.isfinite(value)]


@pytest.fixture(scope="module")
def prometheus(engine: EngineProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    config = _CONFIG.format(rules=promql.ALERTS, target=engine.url.removeprefix("http://"))
    running = need(lambda: start_prometheus(tmp_path_factory.mktemp("prometheus"), config))
    yield Prometheus(running.address)
    running.stop()


class Traffic:
    """Three viewers of a room and a sender; ``more`` sends a message of each class."""

    def __init__(self, engine: EngineProcess, stack: ExitStack) -> None:
        self._api = stack.enter_context(ApiClient(engine.url))
        self.api = self._api
        # Nobody reads what they receive; with a bounded queue they would stop reading and not see the close either.
        self._viewers = [stack.enter_context(connect(engine.websocket_url, max_queue=None)) for _ in range(3)]
        for viewer in self._viewers:
            viewer.send(f'{{"id":1,"connect":{{}}}}\n{{"id":2,"subscribe":{{"channel":"{ROOM}"}}}}')

    def more(self) -> None:
        """Publish; what the viewers receive is not looked at."""
        for priority in ("high", "normal", "low"):
            self._api.post("/v1/publish", {"room": ROOM, "data": {"text": "hello"}, "priority": priority})


@pytest.fixture(scope="module")
def traffic(engine: EngineProcess, prometheus: Prometheus) -> Iterator[Traffic]:
    with ExitStack() as stack:
        traffic = Traffic(engine, stack)
        traffic.more()
        yield traffic


EVERYTHING: Final = promql.of_board() + promql.of_alerts()


@pytest.mark.parametrize("expression", EVERYTHING, ids=lambda expression: expression.place)
def test_prometheus_evaluates_every_expression(
    prometheus: Prometheus, traffic: Traffic, expression: promql.Expression
) -> None:
    answer = prometheus.get("query", query=expression.promql)
    assert answer["status"] == "success", answer
    assert not answer.get("warnings")


def test_every_metric_that_is_named_is_exposed_by_a_running_engine(traffic: Traffic) -> None:
    types = [line.split() for line in traffic.api.text("/metrics").splitlines() if line.startswith("# TYPE ")]
    exposed = {name if kind != "counter" else name.removesuffix("_total") + "_total" for _, _, name, kind in types}
    named = set().union(*(expression.metrics for expression in EVERYTHING))
    assert named - exposed == set()


def test_the_board_shows_figures_once_there_is_traffic(prometheus: Prometheus, traffic: Traffic) -> None:
    empty = [expression for expression in promql.of_board() if expression.place in ALWAYS]
    assert {expression.place for expression in empty} == ALWAYS
    deadline = time.monotonic() + VALUE_S
    shown: set[str] = set()
    while shown != ALWAYS and time.monotonic() < deadline:
        traffic.more()
        time.sleep(0.5)
        shown |= {found.place for found in empty if found.place not in shown and prometheus.values(found.promql)}
    assert ALWAYS - shown == set()


def test_the_rules_are_loaded_and_none_fires_on_a_healthy_engine(prometheus: Prometheus, traffic: Traffic) -> None:
    deadline = time.monotonic() + VALUE_S
    rules: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        groups = prometheus.get("rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        if rules and all(rule["health"] != "unknown" for rule in rules):
            break
        time.sleep(0.2)
    assert {rule["name"]: rule["health"] for rule in rules} == {rule["alert"]: "ok" for rule in promql.rules()}
    assert prometheus.get("alerts")["data"]["alerts"] == []


def test_every_alert_fires_for_what_it_is_named_after(prometheus: Prometheus) -> None:
    promtool = shutil.which("promtool") or str(Path(shutil.which("prometheus") or "").with_name("promtool"))
    scenarios = promql.ALERTS.with_name("alerts_test.yaml")
    done = subprocess.run([promtool, "test", "rules", str(scenarios)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = scenarios.read_text(encoding="utf-8")
    assert [rule["alert"] for rule in promql.rules() if f'alertname="{rule["alert"]}",alertstate' not in tested] == []
