"""Board and alerts against the list of metrics; whether Prometheus accepts them is asked in integration."""

from __future__ import annotations

import json
import re

from fanout.core.errors import PROBLEMS
from scripts import build_board, metrics_doc
from tests.support import promql

SCRAPE_LABELS = {"job", "instance", "le", "pid"}  # of Prometheus and its client
PROCESS_METRICS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}  # prometheus_client's
ALL = promql.of_board() + promql.of_alerts()


def test_the_committed_files_are_what_the_script_makes() -> None:
    stale = [path.name for path, text in build_board.outputs().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run python -m scripts.build_board"


def test_the_board_fits_into_a_config_map_with_room_to_spare() -> None:
    assert build_board.BOARD.stat().st_size < 200_000


def test_every_metric_in_an_expression_is_one_of_the_engines() -> None:
    known = {metric.name for metric in metrics_doc.catalogue()} | PROCESS_METRICS
    assert {(found.place, name) for found in ALL for name in found.metrics - known} == set()


def test_every_expression_names_a_metric() -> None:
    assert [found.place for found in ALL if not found.metrics] == []


def test_every_label_in_an_expression_is_carried_by_its_metrics() -> None:
    labels = {metric.name: set(metric.labels) for metric in metrics_doc.catalogue()}
    wrong = []
    for found in ALL:
        carried = set().union(*(labels.get(name, set()) for name in found.metrics)) | SCRAPE_LABELS
        wrong += [(found.place, label) for label in found.labels - carried]
    assert wrong == []


def test_reasons_that_an_alert_waits_for_exist() -> None:
    known = {problem.reason for problem in PROBLEMS}
    named = {
        reason
        for found in promql.of_alerts()
        if "fanout_messages_refused_total" in found.metrics
        for label, value in found.matchers
        if label == "reason"
        for reason in value.split("|")
    }
    assert named
    assert named <= known


def test_every_metric_of_the_engine_is_on_the_board_or_left_out_on_purpose() -> None:
    left_out = {"fanout_pings_total"}  # one per session and 25 s: says nothing that sessions do not say
    shown = set().union(*(found.metrics for found in promql.of_board()))
    assert {metric.name for metric in metrics_doc.catalogue()} - shown == left_out


def test_panels_have_ids_of_their_own_and_queries_with_names() -> None:
    panels = json.loads(build_board.board())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(target["refId"] for panel in panels for target in panel.get("targets", []))


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    page = (promql.ROOT / "docs" / "operations" / "alerts.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (Fanout\w+)$", page, re.MULTILINE)
    assert headings == [rule["alert"] for rule in promql.rules()]
    for rule in promql.rules():
        assert rule["annotations"]["runbook"] == f"docs/operations/alerts.md#{rule['alert'].lower()}"
        assert {"summary", "description"} <= rule["annotations"].keys()
        assert rule["labels"]["severity"] in ("warning", "critical")
