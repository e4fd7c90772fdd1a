"""All metrics of the engine, named in one place. Labels come from closed sets; a room, user or session never is one.

With several processes (``--processes``) prometheus_client keeps the values in files that all processes share, so that
one scrape adds up; the environment for that is set before this module is imported (``runtime.process``).
"""

from __future__ import annotations

import os
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, values
from prometheus_client.multiprocess import mark_process_dead

MULTIPROCESS_ENV: Final = "PROMETHEUS_MULTIPROC_DIR"
_FIRST: Final = "first"
_name = [_FIRST]  # of this process among those that share the files

if MULTIPROCESS_ENV in os.environ:
    # By place and not by pid: a process that is started again goes on with the counters of the one before it, and the
    # files stay as many as there are processes.
    values.ValueClass = values.MultiProcessValue(lambda: _name[0])  # type: ignore[no-untyped-call]


def take_place(index: int) -> None:
    """This process, just forked, is the one of that number from now on."""
    _name[0] = str(index)


def leave_place(index: int) -> None:
    """The process of that number has ended: what it had in hand at its end (sessions, rooms, leases) counts no more."""
    if MULTIPROCESS_ENV in os.environ:
        mark_process_dead(index)  # type: ignore[no-untyped-call]


_LATENCY: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SWEEP: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

# Sender
MESSAGES_ACCEPTED: Final = Counter("fanout_messages_accepted_total", "On the log with acks=all", ["priority"])
MESSAGES_REFUSED: Final = Counter("fanout_messages_refused_total", "Refused at admission", ["reason"])
MESSAGES_DEGRADED: Final = Counter(
    "fanout_messages_degraded_total", "HIGH beyond the room's quota, taken as NORMAL", ["by"]
)
MESSAGES_REPEATED: Final = Counter("fanout_messages_repeated_total", "Answered from an idempotency key", ["outcome"])
APPEND_SECONDS: Final = Histogram("fanout_append_seconds", "Record handed to the log → acknowledged", buckets=_LATENCY)
POLICY_CHANGES: Final = Counter("fanout_policy_changes_total", "Policies set by apps", ["outcome"])
POLICY_VERSION: Final = Gauge(
    "fanout_policy_version", "Newest version (Unix ms) of what apps have set", multiprocess_mode="livemax"
)
HTTP_REQUESTS: Final = Counter("fanout_http_requests_total", "API requests", ["method", "status"])

# Room worker and member worker
RECORDS_POLLED: Final = Counter("fanout_records_polled_total", "Records read from the log", ["topic"])
MESSAGES_KEPT: Final = Counter("fanout_messages_kept_total", "Became a publication", ["priority"])
MESSAGES_MERGED: Final = Counter("fanout_messages_merged_total", "Folded into another publication", ["priority"])
FOLDS_SENT: Final = Counter("fanout_folds_sent_total", "Publications that merged messages became", ["priority"])
TICKS_APPENDED: Final = Counter("fanout_ticks_appended_total", "Records that end the windows of a silent partition")
MESSAGES_DROPPED: Final = Counter(
    "fanout_messages_dropped_total", "Dropped by policy before the gateways", ["stage", "reason", "priority"]
)
RECORDS_PARKED: Final = Counter("fanout_records_parked_total", "Records moved to the dead-letter topic", ["reason"])
LOG_GAPS: Final = Counter("fanout_log_gaps_total", "Records that the log no longer held when they were due", ["topic"])
LOG_LAG: Final = Gauge(
    "fanout_log_lag_records", "Records behind the end of the log", ["topic"], multiprocess_mode="livesum"
)
PARTITIONS_OWNED: Final = Gauge(
    "fanout_partitions_owned", "Partitions of this process", ["topic"], multiprocess_mode="livesum"
)
ROOMS_IN_MEMORY: Final = Gauge("fanout_rooms_in_memory", "Rooms a worker holds", multiprocess_mode="livesum")
ROUTES: Final = Gauge("fanout_routes", "Room → slot routes a worker holds", multiprocess_mode="livesum")
CHUNKS_APPENDED: Final = Counter("fanout_chunks_appended_total", "Chunks handed to gateways")
CHUNK_BYTES: Final = Counter("fanout_chunk_bytes_total", "Bytes of chunks")
BATCH_SECONDS: Final = Histogram("fanout_batch_seconds", "One poll → chunks acknowledged", buckets=_LATENCY)
HISTORY_SECONDS: Final = Histogram("fanout_history_store_seconds", "One pipeline of room batches", buckets=_LATENCY)
HISTORY_WAITING: Final = Gauge(
    "fanout_history_waiting_bytes", "History that waits for the store", multiprocess_mode="livesum"
)
POLICIES_APPLIED: Final = Counter("fanout_policies_applied_total", "Changed policies put in force, once a partition")
BUDGET_CHANGES: Final = Counter("fanout_budget_changes_total", "Rooms that a Budget record gave other values")
ROOMS_DEGRADED: Final = Counter(
    "fanout_rooms_degraded_changes_total", "Rooms that were degraded for their size, or are no longer"
)
SHARED_SLOTS: Final = Histogram(
    "fanout_shared_slots",
    "Shared slots that rooms were changed to",
    buckets=(0, 1, 2, 3, 5, 8, 12, 16, 20, 50, 100, 1_000),
)
TAKEOVERS: Final = Counter("fanout_takeovers_total", "Partitions taken over", ["epoch"])
FENCED: Final = Counter("fanout_fenced_total", "Words of an older generation that were ignored", ["what"])
REBUILDS: Final = Counter("fanout_rebuilds_total", "Log clients replaced because they went silent or failed", ["what"])

# Gateway
SESSIONS: Final = Gauge("fanout_sessions", "Live sessions", ["wire_format", "compression"], multiprocess_mode="livesum")
SUBSCRIPTIONS: Final = Gauge("fanout_subscriptions", "Live subscriptions", multiprocess_mode="livesum")
SUBSCRIPTIONS_BEHIND: Final = Gauge(
    "fanout_subscriptions_behind", "Subscriptions whose session cannot take more now", multiprocess_mode="livesum"
)
ROOMS: Final = Gauge("fanout_rooms", "Rooms with a local subscription", multiprocess_mode="livesum")
SESSIONS_OPENED: Final = Counter("fanout_sessions_opened_total", "Sessions connected", ["wire_format", "compression"])
SESSIONS_CLOSED: Final = Counter("fanout_sessions_closed_total", "Connections ended", ["code"])
HANDSHAKES_REFUSED: Final = Counter("fanout_handshakes_refused_total", "Upgrades refused", ["status"])
DESCRIPTORS_SHORT: Final = Counter(
    "fanout_descriptors_short_total", "Connections turned away because file descriptors run out"
)
SESSIONS_MAX: Final = Gauge(
    "fanout_sessions_max", "Sessions that the limit of open files allows", multiprocess_mode="livesum"
)
CONNECTS_WAITING: Final = Gauge(
    "fanout_connects_waiting", "Connections in line for their turn to come in", multiprocess_mode="livesum"
)
CONNECT_WAIT: Final = Histogram("fanout_connect_wait_seconds", "Time in line of those let in", buckets=_LATENCY)
CONNECTS_REFUSED: Final = Counter(
    "fanout_connects_refused_total", "Connections told to come back later (503)", ["reason"]
)
MEMORY_STEP: Final = Gauge(
    "fanout_memory_step",
    "0 roomy, 1 no more connections, 2 nothing droppable is shown, 3 laggards are sent away",
    multiprocess_mode="livemax",
)
MEMORY_CLOSED: Final = Counter("fanout_memory_closed_total", "Sessions sent away because memory ran short")
COMMANDS: Final = Counter("fanout_commands_total", "Client commands", ["method"])
COMMANDS_REFUSED: Final = Counter("fanout_commands_refused_total", "Client commands answered with an error", ["reason"])
FRAMES_WRITTEN: Final = Counter("fanout_frames_written_total", "Frames handed to sockets")
BYTES_WRITTEN: Final = Counter("fanout_bytes_written_total", "Bytes of frames handed to sockets")
FRAMES_DEFLATED: Final = Counter(
    "fanout_frames_deflated_total", "Frames compressed, each once for all sessions that share it"
)
BYTES_SAVED: Final = Counter("fanout_bytes_saved_total", "Bytes that compressed frames kept off sockets")
DELIVERIES_OFFERED: Final = Counter("fanout_deliveries_offered_total", "Publications × subscriptions", ["priority"])
DELIVERIES_WRITTEN: Final = Counter("fanout_deliveries_written_total", "Deliveries handed to sockets", ["priority"])
DELIVERIES_DROPPED: Final = Counter("fanout_deliveries_dropped_total", "Deliveries not made", ["reason", "priority"])
PRESSURE: Final = Gauge(
    "fanout_pressure_percent", "Deliveries that a gateway would rather not make", multiprocess_mode="livemax"
)
SWEEPS_PACED: Final = Counter("fanout_sweeps_paced_total", "Pauses for TCP memory that ran short")
SWEEP_SECONDS: Final = Histogram(
    "fanout_sweep_seconds", "One round of sweeping over those in step of a room", buckets=_SWEEP
)
PUBLISH_TO_WRITE: Final = Histogram(
    "fanout_publish_to_write_seconds", "Admission → handed to the sockets of a gateway", buckets=_LATENCY
)
HOLES: Final = Counter("fanout_holes_total", "Missing publications noticed by prev", ["outcome"])
CHUNKS_REFUSED: Final = Counter("fanout_chunks_refused_total", "Chunks or room batches not applied", ["reason"])
UNSUBSCRIBED: Final = Counter("fanout_unsubscribed_total", "Unsubscribe pushes", ["code"])
RESUBSCRIBED: Final = Counter("fanout_recoveries_total", "Subscribes with a position", ["recovered"])
PINGS: Final = Counter("fanout_pings_total", "Pings sent")

# Process
LEASES_HELD: Final = Gauge("fanout_leases_held", "Leases of this process", ["pool"], multiprocess_mode="livesum")
READY: Final = Gauge("fanout_ready", "1 where the dependency answers", ["dependency"], multiprocess_mode="livemin")
RESTARTS: Final = Counter("fanout_process_restarts_total", "Processes that were started again", ["cause"])
CPU_SECONDS: Final = Gauge("fanout_process_cpu_seconds", "CPU time of each process", multiprocess_mode="liveall")
RESIDENT_BYTES: Final = Gauge("fanout_process_resident_bytes", "Memory of each process", multiprocess_mode="liveall")
DESCRIPTORS_FREE: Final = Gauge(
    "fanout_process_free_descriptors", "Clients that each process still has room for", multiprocess_mode="liveall"
)
LOOP_LAG: Final = Histogram("fanout_loop_lag_seconds", "How late the event loop runs a timer", buckets=_SWEEP)
