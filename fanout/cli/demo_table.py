"""What the demo shows while it runs, and the ledger at its end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from fanout.cli import reconcile
from fanout.core.latencies import Latencies
from fanout.viewers import Viewers

_BEHIND: Final = re.compile(r"^fanout_subscriptions_behind(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


@dataclass(slots=True)
class Sight:
    """Figures of the last look, and the rates since the one before."""

    messages: int
    viewers: int
    act: str = ""
    at_s: float = 0.0
    accepted: int = 0
    deliveries: int = 0
    messages_per_s: float = 0.0
    deliveries_per_s: float = 0.0
    behind: int = 0
    kept: int = 0
    merged: int = 0
    dropped: int = 0
    dropped_at_edge: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0

    def update(self, now_s: float, accepted: int, crew: Viewers, ledger: Mapping[str, Any], metrics: str) -> None:
        """Take a new look."""
        deliveries = crew.deliveries
        if self.at_s:
            passed_s = max(0.001, now_s - self.at_s)
            self.messages_per_s = (accepted - self.accepted) / passed_s
            self.deliveries_per_s = (deliveries - self.deliveries) / passed_s
        self.at_s, self.accepted, self.deliveries = now_s, accepted, deliveries
        self.behind = sum(int(float(value)) for value in _BEHIND.findall(metrics))
        self.kept, self.merged = reconcile.total(ledger["kept"]), reconcile.total(ledger["merged"])
        self.dropped = sum(reconcile.dropped_before(ledger).values())
        self.dropped_at_edge = sum(reconcile.dropped_at_edge(ledger).values())
        latencies: Latencies = crew.latencies
        self.p50_ms, self.p99_ms = latencies.quantile(0.5) * 1000, latencies.quantile(0.99) * 1000


def live_table(sight: Sight) -> Table:
    """Return the table of a look."""
    act = f": {sight.act}" if sight.act else ""
    table = Table(title=f"{sight.viewers:,} viewers, {sight.messages:,} messages{act}", padding=(0, 0))
    for heading in (
        "msgs/s",
        "deliv./s",
        "p50 ms",
        "p99 ms",
        "behind",
        "accepted",
        "kept",
        "merged",
        "dropped",
        "at edge",
    ):  # 80 columns
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row(
        f"{sight.messages_per_s:,.0f}",
        f"{sight.deliveries_per_s:,.0f}",
        f"{sight.p50_ms:.1f}",
        f"{sight.p99_ms:.1f}",
        str(sight.behind),
        f"{sight.accepted:,}",
        f"{sight.kept:,}",
        f"{sight.merged:,}",
        f"{sight.dropped:,}",
        f"{sight.dropped_at_edge:,}",
    )
    return table


def print_ledger(console: Console, room: str, ledger: Mapping[str, Any], witness: reconcile.Witness) -> None:
    """Print what became of every message and of every delivery."""
    table = Table(title=f"ledger of {room}", box=None)
    table.add_column("")
    table.add_column("", justify="right")
    rows: list[tuple[str, int]] = [
        ("messages accepted", reconcile.total(ledger["accepted"])),
        ("  kept", reconcile.total(ledger["kept"])),
        ("  merged", reconcile.total(ledger["merged"])),
        *((f"  dropped: {name}", count) for name, count in reconcile.dropped_before(ledger).items()),
        ("publications of merged", reconcile.total(ledger["folds"])),
        ("deliveries offered", reconcile.total(ledger["edge"]["offered"])),
        ("  written", reconcile.total(ledger["edge"]["written"])),
        *((f"  dropped: {name}", count) for name, count in reconcile.dropped_at_edge(ledger).items()),
        ("  pending", reconcile.total(ledger["edge"]["pending"])),
        ("  unreported", reconcile.total(ledger["edge"]["unreported"])),
        ("received by viewers", witness.received),
    ]
    for name, count in rows:
        table.add_row(name, f"{count:,}")
    console.print(table)
