"""The expressions of the board and of the alerts, and what is named in them. Regular expressions, no parser: Prometheus
itself judges the grammar (``tests/integration/test_board_and_alerts.py``)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent.parent
BOARD: Final = ROOT / "boards" / "fanout.json"
ALERTS: Final = ROOT / "boards" / "alerts.yaml"
_METRIC: Final = re.compile(r"\b(?:fanout|process)_[a-z0-9_]+")
_SELECTOR: Final = re.compile(r"\{([^}]*)\}")
_MATCHER: Final = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING: Final = re.compile(r"\bby\s*\(([^)]*)\)")
_SUFFIXES: Final = ("_bucket", "_sum", "_count")


class Expression(NamedTuple):
    """Where an expression stands (panel or alert) and its PromQL, as Prometheus is asked."""

    place: str
    promql: str

    @property
    def metrics(self) -> set[str]:
        """Names as scraped: of a histogram's series the histogram's."""
        found = set()
        for name in _METRIC.findall(self.promql):
            suffix = next((one for one in _SUFFIXES if name.endswith(one)), "")
            found.add(name.removesuffix(suffix))
        return found

    @property
    def labels(self) -> set[str]:
        """Names of labels in selectors and groupings."""
        found = {name for name, _ in self.matchers}
        for names in _GROUPING.findall(self.promql):
            found.update(name.strip() for name in names.split(","))
        return found

    @property
    def matchers(self) -> list[tuple[str, str]]:
        """(label, value or pattern) of all selectors."""
        return [pair for inner in _SELECTOR.findall(self.promql) for pair in _MATCHER.findall(inner)]


def of_board() -> list[Expression]:
    """Return the expressions of the committed board, with Grafana's variables filled in."""
    board: dict[str, Any] = json.loads(BOARD.read_text(encoding="utf-8"))
    return [
        Expression(panel["title"], target["expr"].replace("$__rate_interval", "15s").replace("$job", ".*"))
        for panel in board["panels"]
        for target in panel.get("targets", [])
    ]


def rules() -> list[dict[str, Any]]:
    """Return the alert rules as written."""
    document: dict[str, Any] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def of_alerts() -> list[Expression]:
    """Return the expressions of the alerts."""
    return [Expression(rule["alert"], rule["expr"]) for rule in rules()]
