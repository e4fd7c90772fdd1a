"""Two ledgers of one room side by side, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from fanout.core.ledger import WORDS
from fanout.core.messages import split_key
from workers.shadow import Comparison
from workers.shadow_steps import Step

IN_FORCE: Final = "in force"
PROPOSED: Final = "proposed"
_ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class Report:
    """All that is shown. ``in_force`` and ``proposed`` are ledgers of messages; ``since_ms`` was asked for, ``from_ms``
    and ``to_ms`` are the record times of the room's first and last record; times are Unix ms."""

    app: str
    room: str
    since_ms: int
    from_ms: int
    to_ms: int
    records: int
    is_cut: bool
    step_ms: int
    steps: list[Step]
    in_force: dict[str, Any]
    proposed: dict[str, Any]
    notes: list[str]

    @classmethod
    def of(cls, comparison: Comparison, since_ms: int, notes: list[str]) -> Report:
        """Return what is shown of a comparison that has taken a record."""
        app, room = split_key(comparison.key)
        return cls(
            app,
            room,
            since_ms,
            comparison.first_ms,
            comparison.last_ms,
            comparison.records,
            comparison.is_cut,
            comparison.steps.step_ms,
            comparison.steps.all(),
            comparison.in_force.counts(),
            comparison.proposed.counts(),
            notes,
        )


class Row(NamedTuple):
    """A line of the table: a fate (``dropped`` with stage and reason), a class, and messages under either policy."""

    fate: str
    priority: str
    in_force: int
    proposed: int

    @property
    def difference(self) -> int:
        """Messages that the proposed policy has more of."""
        return self.proposed - self.in_force


def rows(report: Report) -> list[Row]:
    """Return the lines of the table; those that are zero under both policies are left out."""
    found: list[Row] = []
    for fate in _fates(report):
        in_force, proposed = _counts(report.in_force, fate), _counts(report.proposed, fate)
        name = " ".join(fate) if len(fate) < 3 else f"dropped {fate[1]}/{fate[2]}"
        found += [Row(name, word, in_force[word], proposed[word]) for word in WORDS if in_force[word] or proposed[word]]
        total = Row(name, _ALL, sum(in_force.values()), sum(proposed.values()))
        if fate == ("kept",):
            found.append(total)
    dropped = Row("dropped", _ALL, *(_dropped(counts) for counts in (report.in_force, report.proposed)))
    return [*found, dropped]


def as_json(report: Report) -> dict[str, Any]:
    """Return the report JSON-able: ledgers ``{accepted, kept, merged, dropped: {stage: {reason: {class: n}}}}``."""
    return {
        "app": report.app,
        "room": report.room,
        "since_ms": report.since_ms,
        "from_ms": report.from_ms,
        "to_ms": report.to_ms,
        "records": report.records,
        "cut": report.is_cut,
        "in_force": report.in_force,
        "proposed": report.proposed,
        "step_ms": report.step_ms,
        "steps": [
            {"at_ms": step.at_ms, "in_force": step.in_force._asdict(), "proposed": step.proposed._asdict()}
            for step in report.steps
        ],
        "notes": report.notes,
    }


def as_table(report: Report) -> Iterator[str]:
    """Yield the lines of what was read and of the table, at most 72 characters wide."""
    yield f"{report.room} of app {report.app}: {report.records:,} records, {utc(report.from_ms)} to {utc(report.to_ms)}"
    yield ""
    yield f"{'':28}{'':8}{IN_FORCE:>12}{PROPOSED:>12}{'difference':>12}"
    for row in rows(report):
        difference = f"{row.difference:+,}" if row.difference else "0"
        yield f"{row.fate:28}{row.priority:8}{row.in_force:>12,}{row.proposed:>12,}{difference:>12}"


def utc(at_ms: int) -> str:
    """Return a time (Unix ms) for people."""
    return f"{datetime.fromtimestamp(at_ms / 1_000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _fates(report: Report) -> list[tuple[str, ...]]:
    reasons = {
        ("dropped", stage, reason)
        for counts in (report.in_force, report.proposed)
        for stage, by_reason in counts["dropped"].items()
        for reason in by_reason
    }
    return [("accepted",), ("kept",), ("merged",), *sorted(reasons)]


def _counts(counted: Mapping[str, Any], fate: tuple[str, ...]) -> dict[str, int]:
    found: Any = counted
    for name in fate:
        found = found.get(name, {})
    return {word: found.get(word, 0) for word in WORDS}


def _dropped(counted: Mapping[str, Any]) -> int:
    return sum(sum(counts.values()) for reasons in counted["dropped"].values() for counts in reasons.values())
