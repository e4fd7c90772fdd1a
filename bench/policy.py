"""What thinning costs the room worker: CPU µs a message that is kept, dropped, or skipped because it is too late.

    python -m bench policy

The worker's own path from fetched records to chunks and history batches (group by room, parse, decide, encode, build),
in turns of 1,000 records, without log, store and loop. Kept: 50 rooms on two gateways each, chat within the slots.
Dropped: one room whose window is full. Late: one room, a minute behind. Figures are the best of many turns: what the
work costs where nothing else disturbs it. Exit 1 where a message has another fate than it should, or where a ledger
does not add up.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fanout.adapters.memory_log import Record
from fanout.core import ledger
from fanout.core.limits import TURN_RECORDS
from fanout.core.messages import Priority
from fanout.core.policy import WINDOW_MS
from fanout.core.profiles import Profiles
from fanout.core.records import ATTACH, MESSAGE, Attach, Message, encode
from workers import decide
from workers.partition import Partition
from workers.turn import Ownership, Turn

BEGIN_MS: Final = 1_790_000_000_000
DATA: Final = b'{"text":"' + b"x" * 100 + b'"}'
KEPT_ROOMS: Final = 50
STALL_MS: Final = 60_000
AIMS_US: Final = {"kept_us": 3.0, "dropped_us": 1.0, "late_skip_us": 0.5}


class Rooms:
    """A partition with live rooms in memory, attached to two gateways; ``fates`` counts what became of messages."""

    def __init__(self, rooms: int) -> None:
        self.keys = [f"bench/live:room-{number}".encode() for number in range(rooms)]
        self.fates: dict[str, int] = {"kept": 0}
        self._partition = Partition(Ownership(0, 1, "e1"), 0, 1, Profiles())
        self._offset = 0
        self._turns = 0
        attaches = [(key, encode(ATTACH, Attach(slot, 1, 1))) for key in self.keys for slot in (1, 2)]
        turn = Turn(0, 0.0)
        self._partition.take(turn, self._records(attaches, BEGIN_MS))
        self._partition.loaded(turn, dict.fromkeys(self._partition.ask(rooms)), lambda target: False)
        decide.close(turn)

    def take(self, values: Sequence[tuple[bytes, bytes]], at_ms: int, now_ms: int) -> float:
        """Decide about messages with this record time; return the CPU seconds."""
        records = self._records(values, at_ms)
        self._turns += 1
        gc.collect()
        gc.disable()
        begun_s = time.process_time()
        turn = Turn(self._turns, 0.0, now_ms)
        self._partition.take(turn, records)
        decide.close(turn)
        cpu_s = time.process_time() - begun_s
        gc.enable()
        self.fates["kept"] += sum(turn.kept)
        for (reason, _), messages in turn.dropped.items():
            self.fates[reason.word] = self.fates.get(reason.word, 0) + messages
        return cpu_s

    def differences(self) -> list[str]:
        """Return what does not add up in the ledgers."""
        rooms = self._partition.rooms.values()
        return [found for room in rooms for found in ledger.differences(ledger.report(room.encode()))]

    def _records(self, values: Sequence[tuple[bytes, bytes]], at_ms: int) -> list[Record]:
        first, self._offset = self._offset, self._offset + len(values)
        return [Record(0, first + index, at_ms, key, value) for index, (key, value) in enumerate(values)]


def _chat(priority: Priority, number: int) -> bytes:
    return encode(MESSAGE, Message(DATA, f"user-{number}", "chat", BEGIN_MS), priority=priority.value, id=number + 1)


def _kept(turns: int) -> tuple[float, Rooms]:
    rooms = Rooms(KEPT_ROOMS)
    values = [(rooms.keys[number % KEPT_ROOMS], _chat(Priority.NORMAL, number)) for number in range(TURN_RECORDS)]
    times = []
    for turn in range(1, turns + 1):
        at_ms = BEGIN_MS + turn * WINDOW_MS
        times.append(rooms.take(values, at_ms, at_ms))
    return min(times), rooms


def _dropped(turns: int) -> tuple[float, Rooms]:
    rooms = Rooms(1)
    values = [(rooms.keys[0], _chat(Priority.NORMAL, number)) for number in range(TURN_RECORDS)]
    rooms.take(values, BEGIN_MS, BEGIN_MS)  # fills the window
    return min(rooms.take(values, BEGIN_MS, BEGIN_MS) for _ in range(turns)), rooms


def _late(turns: int) -> tuple[float, Rooms]:
    rooms = Rooms(1)
    classes = (Priority.NORMAL, Priority.LOW)
    values = [(rooms.keys[0], _chat(classes[number % 2], number)) for number in range(TURN_RECORDS)]
    return min(rooms.take(values, BEGIN_MS, BEGIN_MS + STALL_MS) for _ in range(turns)), rooms


def main(argv: Sequence[str]) -> int:
    """Run the bench; print its figures as one JSON object in the last line."""
    parser = argparse.ArgumentParser(prog="bench policy", description=__doc__)
    parser.add_argument("--turns", type=int, default=150, help="of 1,000 messages, for each figure")
    parser.add_argument("--json", action="store_true", help="accepted for all benches; the last line always is")
    turns = max(1, parser.parse_args(argv).turns)
    measured = {"kept_us": _kept(turns), "dropped_us": _dropped(turns), "late_skip_us": _late(turns)}
    errors = _errors(turns, {name: rooms for name, (_, rooms) in measured.items()})
    figures: dict[str, Any] = {"bench": "policy"}
    for name, (cpu_s, _) in measured.items():
        figures[name] = round(cpu_s / TURN_RECORDS * 1e6, 3)
        print(f"{name:14} {figures[name]:6.3f}  (aim {AIMS_US[name]:g})")
    for error in errors:
        print(error)
    print(json.dumps(figures | {"ledger_error": len(errors)}))
    return 1 if errors else 0


def _errors(turns: int, measured: Mapping[str, Rooms]) -> list[str]:
    messages = turns * TURN_RECORDS
    slots = 20  # of the first window
    due = {
        "kept_us": {"kept": messages},
        "dropped_us": {"kept": slots, "window_full": messages + TURN_RECORDS - slots},
        "late_skip_us": {"kept": 0, "too_old": messages},
    }
    found = [difference for rooms in measured.values() for difference in rooms.differences()]
    found += [f"{name}: {rooms.fates}, not {due[name]}" for name, rooms in measured.items() if rooms.fates != due[name]]
    return found
