"""Records that are none of ours, or that could not be decided: what is known of one before it is parked."""

from __future__ import annotations

from typing import Final, NamedTuple

import structlog

from fanout.core.errors import RecordError
from fanout.ports import LogRecord

_log: Final = structlog.get_logger(__name__)


class Poison(NamedTuple):
    """A record, the partition it was polled from, and why it is parked."""

    partition: int
    record: LogRecord
    error: RecordError


def poison(partition: int, record: LogRecord, error: Exception) -> Poison:
    """Return a record that raised. What is no RecordError is a bug of ours: it must not hold up all rooms of the
    partition for ever, so it costs this record and is logged."""
    if isinstance(error, RecordError):
        return Poison(partition, record, error)
    _log.error("a record could not be decided", partition=partition, offset=record.offset, exc_info=error)
    return Poison(partition, record, RecordError("unexpected", repr(error)))
