"""Make ``boards/fanout.json`` from the table below, and the copies of board and alerts that the chart carries.

    python scripts/build_board.py          write
    python scripts/build_board.py --check  exit 1 where a file on disk differs

A chart can only read files below its own folder, hence the copies. Needs ``grafana-foundation-sdk`` (group ``boards``).
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as dashboard_models

ROOT: Final = Path(__file__).resolve().parent.parent
BOARD: Final = ROOT / "boards" / "fanout.json"
ALERTS: Final = ROOT / "boards" / "alerts.yaml"
CHART_FILES: Final = ROOT / "helm" / "fanout" / "files"
_SOURCE: Final = dashboard_models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_JOB: Final = '{job=~"$job"}'


def rate(name: str, by: str = "", matchers: str = "") -> str:
    """Return PromQL: increase per second of a counter, summed, by labels where given."""
    inner = f'{{job=~"$job"{"," + matchers if matchers else ""}}}'
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({name}{inner}[$__rate_interval]))"


def total(name: str, by: str = "") -> str:
    """Return PromQL: sum of a gauge, by labels where given."""
    return f"sum{f' by ({by})' if by else ''} ({name}{_JOB})"


def quantile(share: float, name: str, by: str = "") -> str:
    """Return PromQL: quantile of a histogram over all processes, by labels where given."""
    grouping = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, sum by ({grouping}) (rate({name}_bucket{_JOB}[$__rate_interval])))"


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: what it shows, the unit in Grafana's words, and (PromQL, legend) pairs."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    description: str = ""
    big: bool = False  # a single figure in place of a curve
    stacked: bool = False
    red_from: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...] = field(default=())


def _times(name: str) -> tuple[tuple[str, str], ...]:
    return ((quantile(0.5, name), "p50"), (quantile(0.99, name), "p99"))


ROWS: Final = (
    Row(
        "Now",
        (
            Panel("Messages accepted", "cps", ((rate("fanout_messages_accepted_total"), "accepted"),), big=True),
            Panel("Deliveries written", "cps", ((rate("fanout_deliveries_written_total"), "written"),), big=True),
            Panel("Sessions", "short", ((total("fanout_sessions"), "sessions"),), big=True),
            Panel(
                "Publish → socket, p99",
                "s",
                ((quantile(0.99, "fanout_publish_to_write_seconds"), "p99"),),
                "From admission until the bytes are handed to the sockets of a gateway; two clocks are compared.",
                big=True,
                red_from=0.5,
            ),
            Panel(
                "Share of subscriptions behind",
                "percentunit",
                ((f"{total('fanout_subscriptions_behind')} / ({total('fanout_subscriptions')} > 0)", "behind"),),
                big=True,
                red_from=0.05,
            ),
            Panel(
                "Not ready",
                "short",
                ((f"count(min by (instance, dependency) (fanout_ready{_JOB}) < 1) or vector(0)", "dependencies"),),
                "Pairs of process and dependency that do not answer.",
                big=True,
                red_from=1,
            ),
        ),
    ),
    Row(
        "Messages: accepted = kept + merged + dropped",
        (
            Panel("Accepted by class", "cps", ((rate("fanout_messages_accepted_total", "priority"), "{{priority}}"),)),
            Panel(
                "Refused at admission, or taken as less",
                "cps",
                (
                    (rate("fanout_messages_refused_total", "reason"), "{{reason}}"),
                    (rate("fanout_messages_degraded_total", "by"), "HIGH as NORMAL: {{by}}"),
                ),
            ),
            Panel(
                "Kept, merged, dropped",
                "cps",
                (
                    (rate("fanout_messages_kept_total"), "kept"),
                    (rate("fanout_messages_merged_total"), "merged"),
                    (rate("fanout_messages_dropped_total", "stage, reason"), "{{stage}}: {{reason}}"),
                ),
                "Drops happen by policy, least important first; SYSTEM and HIGH never appear here.",
                stacked=True,
            ),
            Panel(
                "Publications of merged messages",
                "cps",
                (
                    (rate("fanout_folds_sent_total", "priority"), "{{priority}}"),
                    (rate("fanout_ticks_appended_total"), "ticks"),
                ),
                "At most five a second, room, key and class. A tick ends the windows of a partition that fell silent.",
            ),
            Panel("Record → acknowledged by the log", "s", _times("fanout_append_seconds")),
            Panel(
                "HTTP requests",
                "cps",
                ((rate("fanout_http_requests_total", "method, status"), "{{method}} {{status}}"),),
            ),
            Panel(
                "Repeats answered from keys",
                "cps",
                ((rate("fanout_messages_repeated_total", "outcome"), "{{outcome}}"),),
            ),
        ),
    ),
    Row(
        "Workers",
        (
            Panel("Behind the end of the log", "short", ((total("fanout_log_lag_records", "topic"), "{{topic}}"),)),
            Panel("Records polled", "cps", ((rate("fanout_records_polled_total", "topic"), "{{topic}}"),)),
            Panel("One poll → chunks acknowledged", "s", _times("fanout_batch_seconds")),
            Panel("History pipeline", "s", _times("fanout_history_store_seconds")),
            Panel("History that waits for the store", "bytes", ((total("fanout_history_waiting_bytes"), "waiting"),)),
            Panel("Chunks", "cps", ((rate("fanout_chunks_appended_total"), "chunks"),)),
            Panel("Bytes of chunks", "Bps", ((rate("fanout_chunk_bytes_total"), "bytes"),)),
            Panel(
                "Rooms and routes in memory",
                "short",
                ((total("fanout_rooms_in_memory"), "rooms"), (total("fanout_routes"), "routes")),
            ),
            Panel(
                "Partitions owned",
                "short",
                ((total("fanout_partitions_owned", "topic, instance"), "{{topic}} {{instance}}"),),
            ),
            Panel(
                "Policies and budgets",
                "cps",
                (
                    (rate("fanout_policy_changes_total", "outcome"), "set by an app: {{outcome}}"),
                    (rate("fanout_policies_applied_total"), "put in force, partition by partition"),
                    (rate("fanout_budget_changes_total"), "rooms given other values"),
                    (rate("fanout_rooms_degraded_changes_total"), "rooms degraded, or no longer"),
                ),
                "A change of policy is a record in every partition; a room that grows or shrinks gets a budget record.",
            ),
            Panel("Policies last set", "dateTimeFromNow", ((f"max (fanout_policy_version{_JOB})", "newest"),)),
            Panel("Shared slots that rooms were changed to", "short", _times("fanout_shared_slots")),
            Panel(
                "Parked and lost to retention",
                "cps",
                (
                    (rate("fanout_records_parked_total", "reason"), "parked: {{reason}}"),
                    (rate("fanout_log_gaps_total", "topic"), "gap: {{topic}}"),
                ),
            ),
        ),
    ),
    Row(
        "Gateways: offered = written + dropped + pending",
        (
            Panel(
                "Deliveries",
                "cps",
                (
                    (rate("fanout_deliveries_offered_total"), "offered"),
                    (rate("fanout_deliveries_written_total"), "written"),
                    (rate("fanout_deliveries_dropped_total", "reason"), "dropped: {{reason}}"),
                ),
            ),
            Panel("Publish → socket", "s", _times("fanout_publish_to_write_seconds")),
            Panel("One round of a sweep", "s", _times("fanout_sweep_seconds")),
            Panel(
                "Sessions by process", "short", ((total("fanout_sessions", "instance"), "{{instance}}"),), stacked=True
            ),
            Panel(
                "Opened, closed, refused",
                "cps",
                (
                    (rate("fanout_sessions_opened_total", "wire_format"), "opened: {{wire_format}}"),
                    (rate("fanout_sessions_closed_total", "code"), "closed: {{code}}"),
                    (rate("fanout_handshakes_refused_total", "status"), "refused: {{status}}"),
                    (rate("fanout_descriptors_short_total"), "file descriptors short"),
                ),
            ),
            Panel(
                "Waiting to come in",
                "short",
                (
                    (total("fanout_connects_waiting"), "waiting"),
                    (rate("fanout_connects_refused_total", "reason"), "told to come later, a second: {{reason}}"),
                ),
                "After a cut connects come in at a rate; those beyond the line are told when to come again.",
            ),
            Panel("Wait before coming in", "s", _times("fanout_connect_wait_seconds")),
            Panel(
                "Room for clients",
                "short",
                (
                    (total("fanout_sessions_max"), "sessions that the limit of open files allows"),
                    (total("fanout_process_free_descriptors", "pid"), "free in process {{pid}}"),
                ),
            ),
            Panel(
                "Memory runs short",
                "short",
                (
                    (total("fanout_memory_step", "instance"), "step of {{instance}}"),
                    (rate("fanout_memory_closed_total"), "laggards sent away, a second"),
                ),
                "1: no more connections; 2: nothing droppable is shown; 3: those who lag longest are sent away.",
            ),
            Panel(
                "Subscriptions",
                "short",
                (
                    (total("fanout_subscriptions"), "subscriptions"),
                    (total("fanout_subscriptions_behind"), "behind"),
                    (total("fanout_rooms"), "rooms"),
                ),
            ),
            Panel(
                "Commands",
                "cps",
                (
                    (rate("fanout_commands_total", "method"), "{{method}}"),
                    (rate("fanout_commands_refused_total", "reason"), "refused: {{reason}}"),
                ),
            ),
            Panel(
                "Messages in one frame",
                "short",
                ((f"{rate('fanout_deliveries_written_total')} / {rate('fanout_frames_written_total')}", "messages"),),
                "Joining grows with load by itself; it is what one core's deliveries depend on.",
            ),
            Panel(
                "Pressure",
                "percent",
                ((f"max by (instance) (fanout_pressure_percent{_JOB})", "{{instance}}"),),
                "Sweeps longer than a window, or most subscriptions behind: rooms thin until it is gone.",
            ),
            Panel(
                "Bytes to sockets",
                "Bps",
                (
                    (rate("fanout_bytes_written_total"), "written"),
                    (rate("fanout_bytes_saved_total"), "saved by compression"),
                ),
            ),
            Panel(
                "Frames compressed, sweeps paused",
                "cps",
                (
                    (rate("fanout_frames_deflated_total"), "frames compressed"),
                    (rate("fanout_sweeps_paced_total"), "pauses: the kernel is short of memory for TCP"),
                ),
                "A frame is compressed once for all sessions that share it: about 0.1 ms of CPU for 64 messages.",
            ),
            Panel(
                "Holes and recoveries",
                "cps",
                (
                    (rate("fanout_holes_total", "outcome"), "hole: {{outcome}}"),
                    (rate("fanout_recoveries_total", "recovered"), "recovered: {{recovered}}"),
                    (rate("fanout_unsubscribed_total", "code"), "unsubscribed: {{code}}"),
                    (rate("fanout_chunks_refused_total", "reason"), "chunk refused: {{reason}}"),
                ),
            ),
        ),
    ),
    Row(
        "Processes",
        (
            Panel(
                "Event loop lag, p99", "s", ((quantile(0.99, "fanout_loop_lag_seconds", "instance"), "{{instance}}"),)
            ),
            Panel("Ready", "short", ((f"min by (dependency) (fanout_ready{_JOB})", "{{dependency}}"),)),
            Panel("Leases held", "short", ((total("fanout_leases_held", "pool"), "{{pool}}"),)),
            Panel(
                "Take-overs, fenced words, rebuilt clients",
                "cps",
                (
                    (rate("fanout_takeovers_total", "epoch"), "take-over: {{epoch}}"),
                    (rate("fanout_fenced_total", "what"), "fenced: {{what}}"),
                    (rate("fanout_rebuilds_total", "what"), "rebuilt: {{what}}"),
                ),
            ),
            Panel(
                "CPU",
                "percentunit",
                ((f"sum by (instance) (rate(process_cpu_seconds_total{_JOB}[$__rate_interval]))", "{{instance}}"),),
            ),
            Panel("Memory", "bytes", ((f"sum by (instance) (process_resident_memory_bytes{_JOB})", "{{instance}}"),)),
            Panel(
                "CPU of processes behind one port",
                "percentunit",
                ((rate("fanout_process_cpu_seconds", "pid"), "process {{pid}}"),),
            ),
            Panel(
                "Memory of processes behind one port",
                "bytes",
                ((total("fanout_process_resident_bytes", "pid"), "process {{pid}}"),),
            ),
            Panel(
                "Processes started again",
                "cps",
                ((rate("fanout_process_restarts_total", "cause"), "{{cause}}"),),
            ),
        ),
    ),
)


def _thresholds(red_from: float) -> dashboard.ThresholdsConfig:
    steps = [
        dashboard_models.Threshold(value=None, color="green"),
        dashboard_models.Threshold(value=red_from, color="red"),
    ]
    return dashboard.ThresholdsConfig().mode(dashboard_models.ThresholdsMode.ABSOLUTE).steps(steps)


def _figure() -> stat.Panel:
    newest = common.ReduceDataOptions().calcs(["lastNotNull"])
    return stat.Panel().span(4).height(4).reduce_options(newest)


def _curves(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(True).placement(common_models.LegendPlacement.BOTTOM)
    picture = timeseries.Panel().span(8).height(7).fill_opacity(20 if panel.stacked else 5).line_width(1).legend(legend)
    if panel.stacked:
        picture = picture.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    return picture


def _panel(panel: Panel, number: int) -> stat.Panel | timeseries.Panel:
    picture: stat.Panel | timeseries.Panel = _figure() if panel.big else _curves(panel)
    picture = (
        picture.id(number).title(panel.title).description(panel.description).datasource(_SOURCE).unit(panel.unit).min(0)
    )
    if panel.red_from is not None:
        picture = picture.thresholds(_thresholds(panel.red_from))
    for index, (expression, legend) in enumerate(panel.queries):
        query = prometheus.Dataquery().ref_id(chr(ord("A") + index)).expr(expression).legend_format(legend)
        query = query.datasource(_SOURCE)
        picture = picture.with_target(query.instant() if panel.big else query.range())
    return picture


def board() -> str:
    """Return the board as JSON text, the same for the same table."""
    jobs = (
        dashboard.QueryVariable("job")
        .label("Job")
        .datasource(_SOURCE)
        .query("label_values(fanout_ready, job)")
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .refresh(dashboard_models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
    builder = (
        dashboard.Dashboard("Fan-out engine")
        .uid("fanout")
        .description(
            "One message in, its deliveries out, and what became of the rest. Metrics: docs/operations/metrics.md"
        )
        .tags(["fanout"])
        .timezone("browser")
        .refresh("10s")
        .time("now-30m", "now")
        .tooltip(dashboard_models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Source").type("prometheus"))
        .with_variable(jobs)
    )
    numbers = itertools.count(1)
    for row in ROWS:
        builder = builder.with_row(dashboard.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            builder = builder.with_panel(_panel(panel, next(numbers)))
    return json.dumps(builder.build(), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def outputs() -> dict[Path, str]:
    """Return every file that this script writes, with its content."""
    text = board()
    return {
        BOARD: text,
        CHART_FILES / "fanout.json": text,
        CHART_FILES / "alerts.yaml": ALERTS.read_text(encoding="utf-8"),
    }


def main(arguments: list[str]) -> int:
    """Write or check; returns the exit code."""
    stale = [path for path, text in outputs().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what scripts/build_board.py makes; run it")
        return 1 if stale else 0
    for path, text in outputs().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
