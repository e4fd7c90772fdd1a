"""``fanout shadow``: what another policy would have kept and dropped of what a room has said.

Reads the log and writes nothing to it: no group, no commit, no topic. Lives elsewhere: the decisions
(``workers.shadow``), how they are shown (``shadow_report``, ``shadow_plot``).
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TextIO

import msgspec

from fanout.adapters import open_log, open_store
from fanout.cli.policy_file import read_policy
from fanout.cli.shadow_plot import as_svg, as_text
from fanout.cli.shadow_report import Report, as_json, as_table, utc
from fanout.cli.terminal import say
from fanout.core.errors import ConfigError, FanoutError, OutOfRange, RecordError, Refused, Unavailable
from fanout.core.limits import POLL_RECORDS_MAX, SHADOW_QUIET_S_MAX, SHADOW_RECORDS_MAX, SHADOW_SINCE_MS_MAX
from fanout.core.messages import check_app, check_room, room_key, split_key
from fanout.core.policies import PolicyAt, decode_policies
from fanout.core.profiles import Policy, Profile, Profiles
from fanout.core.records import MESSAGES, PARTITIONS
from fanout.ports import Log, LogReader, LogRecord, PoliciesSet, Topics
from fanout.runtime.clock import SystemClock
from sharding.placement import partition_of
from workers.shadow import AT_ADMISSION, BY_WALL_CLOCK, Comparison, Place

_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([smhd])", re.ASCII)
_UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_POLL_S: Final = 1.0
_PROGRESS_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class ShadowSettings:
    """What the command was told."""

    policy: Path
    room: str
    since: str
    app: str
    log: str
    store: str
    prefix: str
    as_json: bool
    svg: Path | None


class Read(NamedTuple):
    """What came of reading. ``unread``: log offsets of the partition up to the end seen that gave no record in time.

    ``notes``: what a reader of the figures has to know of the policy in force.
    """

    comparison: Comparison
    unread: int
    notes: tuple[str, ...] = ()


def run_shadow(settings: ShadowSettings) -> int:
    """Print the comparison; exit status 1 where the room has said nothing. Raises ConfigError for everything else."""
    profile = _profile(settings.app, settings.room)
    since_ms = SystemClock().wall_ms() - duration_ms(settings.since)
    if settings.svg is not None and not settings.svg.parent.is_dir():  # said before minutes of reading, not after
        raise ConfigError(f"--svg {settings.svg}: there is no directory {settings.svg.parent}")
    proposed = read_policy(settings.policy, profile.policy)
    read = asyncio.run(_read_log(settings, profile, proposed, since_ms))
    if not read.comparison.records:
        where = f"room {settings.room} of app {settings.app}"
        sys.stderr.write(f"fanout: the log has no messages of {where} since {utc(since_ms)} ({settings.since})\n")
        return 1
    _show(settings, Report.of(read.comparison, since_ms, notes(read, proposed)))
    return 0


def duration_ms(text: str) -> int:
    """Return the ms of ``90m``, ``6h`` or ``1d``; raises ConfigError."""
    found = _DURATION.fullmatch(text)
    length_ms = int(found[1]) * _UNITS_MS[found[2]] if found else 0
    if not 0 < length_ms <= SHADOW_SINCE_MS_MAX:
        raise ConfigError(f"--since {text}: a number with s, m, h or d, such as 90m, 6h or 1d; at most 7d")
    return length_ms


def notes(read: Read, proposed: Policy) -> list[str]:
    """Return what a reader of the figures has to know, a sentence each."""
    comparison, room = read.comparison, read.comparison.in_force.room
    said = [
        "Both begin with empty windows: what the room had before is not known.",
        "Lateness is left out: it depends on when the worker came to a message.",
        *read.notes,
    ]
    if not room.profile.thinned:
        said.append(f"Rooms of the profile {room.profile.name} are not thinned, whatever the policy.")
    if differing := _differing(AT_ADMISSION, room.policy, proposed):
        said.append(
            f"{differing}: what was admitted is taken as admitted, with the class that stands on the log; "
            "only a foreign producer's JSON is classed anew."
        )
    if differing := _differing(BY_WALL_CLOCK, room.policy, proposed):
        said.append(f"{differing}: without effect here.")
    parked = comparison.in_force.parked
    if parked:
        said.append(f"{parked:,} records of the room are none that a worker can read; nobody counts them.")
    if comparison.is_cut:
        said.append(f"Cut: the room has more than {comparison.records:,} records; later ones are not counted.")
    if read.unread:
        said.append(f"The last {read.unread:,} places of the partition gave no record in {SHADOW_QUIET_S_MAX:g} s.")
    return said


def _differing(fields: Sequence[str], one: Policy, other: Policy) -> str:
    return ", ".join(field for field in fields if getattr(one, field) != getattr(other, field))


async def read_room(log: Log, comparison: Comparison, place: Place, end: int) -> Read:
    """Read a room's partition from its place up to log offset ``end``; raises Unavailable."""
    reader = await log.reader(MESSAGES, [place.number])
    try:
        reader.seek(place.number, place.start)
        quiet_s, clock = 0.0, SystemClock()
        progress = Progress(place.start, end, sys.stderr, clock.monotonic_s())
        while reader.position(place.number) < end and not comparison.is_cut and quiet_s < SHADOW_QUIET_S_MAX:
            records = await _poll(reader, place.number)
            quiet_s = 0.0 if records else quiet_s + _POLL_S
            comparison.take([record for record in records if record.offset < end])
            progress.show(reader.position(place.number), clock.monotonic_s())
        unread = 0 if comparison.is_cut else max(0, end - reader.position(place.number))
        progress.end()
    finally:
        await reader.close()
    return Read(comparison, unread)


class Progress:
    """How far a partition has been read, on one line of a terminal; a read of two seconds shows nothing."""

    def __init__(self, start: int, end: int, terminal: TextIO, now_s: float) -> None:
        self._start = start
        self._records = max(1, end - start)
        self._terminal = terminal if terminal.isatty() else None
        self._shown_s = now_s
        self._is_shown = False

    def show(self, offset: int, now_s: float) -> None:
        """Show that the records before a log offset have been read; ``now_s`` is monotonic."""
        if self._terminal is not None and now_s - self._shown_s >= _PROGRESS_S:
            share = 100 * (offset - self._start) // self._records
            self._terminal.write(f"\rread {share} % of {self._records:,} records")
            self._terminal.flush()
            self._shown_s, self._is_shown = now_s, True

    def end(self) -> None:
        """Clear the line."""
        if self._terminal is not None and self._is_shown:
            self._terminal.write("\r\x1b[K")


async def _poll(reader: LogReader, number: int) -> list[LogRecord]:
    try:
        return list((await reader.poll(POLL_RECORDS_MAX, _POLL_S)).get(number, ()))
    except OutOfRange as error:
        if error.earliest <= error.offset:
            raise Unavailable(f"the log was cut short while it was read: {error}") from error
        reader.seek(number, error.earliest)  # its oldest records went meanwhile
        return []


async def _read_log(settings: ShadowSettings, profile: Profile, proposed: Policy, since_ms: int) -> Read:
    if not settings.log.startswith("kafka://"):
        raise ConfigError(f"--log {settings.log}: a log in memory ends with its engine, give --log kafka://host:port")
    set_before = await _set_before(settings, since_ms)
    topics = Topics(prefix=settings.prefix, partitions={MESSAGES: PARTITIONS[MESSAGES]})
    try:
        log = await open_log(settings.log, topics=topics, clock=SystemClock(), create_missing=False)
        try:
            key = room_key(settings.app, settings.room)
            read = await compare(log, key, profile, proposed, since_ms, set_before.policies)
        finally:
            await log.close()
    except (FanoutError, ValueError) as error:
        raise ConfigError(f"--log {settings.log}: {error}") from error
    return read._replace(notes=set_before.notes)


class SetBefore(NamedTuple):
    """An app's policies at the beginning, none where they are not known, and what is to be said about that."""

    policies: PoliciesSet | None
    notes: tuple[str, ...]


async def _set_before(settings: ShadowSettings, since_ms: int) -> SetBefore:
    if settings.store in ("", "memory"):
        return SetBefore(
            None, ("In force: the defaults, and changes since then. Give --store for what was set before.",)
        )
    try:
        store = await open_store(settings.store, prefix=settings.prefix, clock=SystemClock())
        try:
            return known_before(await store.configs.get(settings.app), since_ms)
        finally:
            await store.backend.close()
    except (FanoutError, ValueError) as error:
        raise ConfigError(f"--store {settings.store}: {error}") from error


def known_before(found: PoliciesSet | None, since_ms: int) -> SetBefore:
    """Return what was in force at a time (Unix ms): the store has the newest policies, and their version says when."""
    if found is None:
        return SetBefore(None, ())
    if found.version >= since_ms:
        return SetBefore(
            None, ("In force: the defaults, until the first change since then; earlier ones are not kept.",)
        )
    try:
        decode_policies(found.policies)
    except RecordError as error:
        return SetBefore(None, (f"In force: the defaults; what the app had set is unreadable here: {error.detail}.",))
    return SetBefore(found, ())


async def compare(
    log: Log,
    key: str,
    profile: Profile,
    proposed: Policy,
    since_ms: int,
    set_before: PoliciesSet | None = None,
    *,
    records_max: int = SHADOW_RECORDS_MAX,
) -> Read:
    """Decide a room's records since a time (Unix ms) twice, up to the log's end as it is now; raises Unavailable."""
    number = partition_of(key.encode(), log.partitions(MESSAGES))
    ((_, end),) = (await log.ends(MESSAGES, [number])).values()
    start = await log.offset_at(MESSAGES, number, since_ms)
    place = Place(number, log.partitions(MESSAGES), start)
    stored = [] if set_before is None else [_as_stored(split_key(key)[0], start, set_before)]
    comparison = Comparison(key, profile, proposed, place, stored, records_max=records_max)
    return await read_room(log, comparison, place, end)


def _as_stored(app: str, start: int, found: PoliciesSet) -> PolicyAt:
    return PolicyAt(app, start - 1, found.version, found.policies)


def _profile(app: str, room: str) -> Profile:
    try:
        check_app(app)
        return Profiles(insecure=True).of(check_room(room))
    except Refused as refused:
        raise ConfigError(f"--app {app} --room {room}: {refused.detail}") from refused


def _show(settings: ShadowSettings, report: Report) -> None:
    if settings.svg is not None:
        try:
            settings.svg.write_text(as_svg(report), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--svg {settings.svg}: {error.strerror}") from error
    if settings.as_json:
        say(msgspec.json.encode(as_json(report)).decode())
        return
    for line in (*as_table(report), "", *as_text(report), "", *report.notes):
        say(line)
