"""Make ``docs/operations/metrics.md`` from ``fanout/runtime/metrics.py``.

    python scripts/metrics_doc.py          write
    python scripts/metrics_doc.py --check  exit 1 where the page on disk differs

Headings are the comment lines of that file. What a label means stands here, once for all metrics that carry it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client.metrics import MetricWrapperBase

from fanout.runtime import metrics

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "operations" / "metrics.md"

LABELS: Final = {
    "by": "`admission`, or the room `worker` for what a foreign producer wrote",
    "cause": "why a process ended: `dependency` (log or store are away) or `crash`",
    "code": "close or unsubscribe code (docs/errors.md), RFC 6455 codes as they come, `lost` without a close frame",
    "compression": "`deflate` where the client negotiated permessage-deflate, else `none`",
    "dependency": "what the process needs to work: log, store, its roles, its leases",
    "epoch": "`kept` where the partition goes on in its epoch, `renewed` where a new one began",
    "method": "HTTP method, or client command (`connect`, `subscribe`, `publish`, ...)",
    "outcome": "how it ended, one word per way",
    "pool": "`slots` (chunk slots of gateways) or `nodes` (of ids)",
    "priority": "class: `system`, `high`, `normal`, `low`",
    "reason": "why, from a closed table (docs/errors.md and the policy)",
    "recovered": "`true` or `false`, as the client was told",
    "stage": "where the policy dropped it",
    "status": "HTTP status",
    "topic": "topic without prefix: `messages`, `members`, `tasks`, `chunks`, `dead`",
    "what": "which part",
    "wire_format": "`json` or `protobuf`",
}

_INTRO: Final = """\
# Metrics

Every process serves them at `GET /metrics` as Prometheus text. This page is made by `scripts/metrics_doc.py` from
`fanout/runtime/metrics.py`, the one place where metrics are named. A room, user or session is never a label.

With `--processes N` the processes of one port share their values and one scrape adds up: counters and histograms are
summed, gauges are sums over the living processes (`fanout_ready`: the lowest; `fanout_pressure_percent` and
`fanout_policy_version`: the highest). A process that ended and was started again goes on with the counters of the one
before it; its gauges begin anew. The gauges `fanout_process_*` are there once for each process, which the label `pid`
numbers from 0. Python's own `process_*` and `python_*` exist with one process only. A labelled metric has no series
before its first event; `fanout_…_created` can be ignored.

The board (`boards/fanout.json`) and the alerts (`boards/alerts.yaml`, runbooks in [alerts.md](alerts.md)) use them;
a test asks a real Prometheus every expression of both.
"""


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the page. ``name`` is as scraped (counters end in ``_total``, histograms have three series)."""

    heading: str
    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    meaning: str


def _unit(name: str) -> str:
    stem = name.removesuffix("_total")
    for unit in ("seconds", "bytes", "records", "percent", "slots"):
        if stem.endswith(f"_{unit}"):
            return unit
    return "0 or 1" if stem == "fanout_ready" else "count"


def _headings() -> Iterator[tuple[int, str]]:
    for number, line in enumerate(inspect.getsource(metrics).splitlines()):
        if line.startswith("# "):
            yield number, line.removeprefix("# ")


def catalogue() -> list[Metric]:
    """Return all metrics of the engine in the order of their file."""
    lines = inspect.getsource(metrics).splitlines()
    headings = list(_headings())
    found: list[Metric] = []
    for variable, value in vars(metrics).items():
        if not isinstance(value, MetricWrapperBase):
            continue
        place = next(number for number, line in enumerate(lines) if line.startswith(f"{variable}:"))
        heading = [text for number, text in headings if number < place][-1]
        family = next(iter(value.describe()))
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.append(Metric(heading, name, family.type, _unit(name), value._labelnames, family.documentation))
    return found


def page() -> str:
    """Return the page; raises KeyError for a label that nobody has explained."""
    parts = [_INTRO]
    heading = ""
    for metric in catalogue():
        if metric.heading != heading:
            heading = metric.heading
            parts.append(f"\n## {heading}\n\n| metric | kind | unit | labels | meaning |\n|---|---|---|---|---|\n")
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
        parts.append(f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.meaning} |\n")
    used = sorted({label for metric in catalogue() for label in metric.labels})
    parts.append("\n## Labels\n\n| label | values |\n|---|---|\n")
    parts.extend(f"| `{label}` | {LABELS[label]} |\n" for label in used)
    return "".join(parts)


def main(arguments: list[str]) -> int:
    """Write or check; returns the exit code."""
    text = page()
    if "--check" in arguments:
        fresh = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        if not fresh:
            print("docs/operations/metrics.md is not what scripts/metrics_doc.py makes; run it")
        return 0 if fresh else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
