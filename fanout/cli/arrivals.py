"""When who says how much: a recorded trace, or arrivals drawn from a profile that was fitted to one.

A trace is a CSV with the header ``t_ms,sender,bytes``: milliseconds from the first message, number of the sender, UTF-8
length of the message. A profile holds figures only: messages in each second, quantiles of length, and how unequal the
senders are.
"""

from __future__ import annotations

import bisect
import csv
import random
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from fanout.core.errors import ConfigError

PROFILE: Final = "profile.json"
TRACE_HEADER: Final = ["t_ms", "sender", "bytes"]


class Arrival(NamedTuple):
    """One message of a trace."""

    at_ms: int
    sender: int
    size: int


class ArrivalProfile(msgspec.Struct):
    """Figures fitted to a trace. ``length_quantiles`` at 0, 5, …, 100 %; ``sender_shares``: the share of all senders
    that wrote 1, 2, 3, … messages."""

    source: str
    per_second: list[int]
    length_quantiles: list[int]
    sender_shares: list[float]


def read_trace(path: Path) -> list[Arrival]:
    """Return the arrivals of a CSV in order of time; raises ConfigError naming the line that cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            return list(_rows(csv.reader(lines), path))
    except OSError as error:
        raise ConfigError(f"--trace {path}: {error.strerror}") from error


def _rows(reader: Iterator[list[str]], path: Path) -> Iterator[Arrival]:
    header = next(reader, [])
    if header != TRACE_HEADER:
        raise ConfigError(f"--trace {path}: the first line must be {','.join(TRACE_HEADER)}")
    last_ms = 0
    for number, row in enumerate(reader, start=2):
        try:
            arrival = Arrival(int(row[0]), int(row[1]), int(row[2]))
        except (ValueError, IndexError):
            raise ConfigError(f"--trace {path}, line {number}: three whole numbers are expected, not {row}") from None
        if arrival.at_ms < last_ms or arrival.sender < 0 or arrival.size < 0:
            raise ConfigError(f"--trace {path}, line {number}: times must rise and nothing may be negative")
        last_ms = arrival.at_ms
        yield arrival


def fit(arrivals: Sequence[Arrival], source: str, seconds: int = 120) -> ArrivalProfile:
    """Return the figures of the busiest ``seconds`` of a trace."""
    per_second = [0] * (arrivals[-1].at_ms // 1000 + 1)
    for arrival in arrivals:
        per_second[arrival.at_ms // 1000] += 1
    start = _busiest(per_second, seconds)
    busy = [arrival for arrival in arrivals if start <= arrival.at_ms // 1000 < start + seconds]
    sizes = sorted(arrival.size for arrival in busy)
    said: dict[int, int] = {}
    for arrival in busy:
        said[arrival.sender] = said.get(arrival.sender, 0) + 1
    most = max(said.values())
    shares = [sum(1 for count in said.values() if count == n) / len(said) for n in range(1, most + 1)]
    return ArrivalProfile(
        source=source,
        per_second=per_second[start : start + seconds],
        length_quantiles=[sizes[min(len(sizes) - 1, len(sizes) * q // 20)] for q in range(21)],
        sender_shares=[round(share, 5) for share in shares],
    )


def _busiest(per_second: Sequence[int], seconds: int) -> int:
    total = best = sum(per_second[:seconds])
    start = 0
    for at in range(seconds, len(per_second)):
        total += per_second[at] - per_second[at - seconds]
        if total > best:
            best, start = total, at - seconds + 1
    return start


def load_profile() -> ArrivalProfile:
    """Return the profile that ships with the engine."""
    return msgspec.json.decode((resources.files("fanout.cli") / PROFILE).read_bytes(), type=ArrivalProfile)


def draw(profile: ArrivalProfile, seed: int) -> list[Arrival]:
    """Return arrivals with the profile's figures: the same for the same seed, the profile's count in each second."""
    dice = random.Random(seed)
    senders = _senders(profile, sum(profile.per_second), dice)
    arrivals = []
    for second, count in enumerate(profile.per_second):
        times = sorted(second * 1000 + dice.randrange(1000) for _ in range(count))
        arrivals += [Arrival(at_ms, senders.pop(), _length(profile.length_quantiles, dice)) for at_ms in times]
    return arrivals


def _senders(profile: ArrivalProfile, messages: int, dice: random.Random) -> list[int]:
    """Return a sender for each message, shuffled: most say one thing, a few say many."""
    cumulative = []
    total = 0.0
    for share in profile.sender_shares:
        total += share
        cumulative.append(total)
    senders: list[int] = []
    number = 0
    while len(senders) < messages:
        says = bisect.bisect_left(cumulative, dice.random() * total) + 1
        senders.extend([number] * says)
        number += 1
    senders = senders[:messages]
    dice.shuffle(senders)
    return senders


def _length(quantiles: Sequence[int], dice: random.Random) -> int:
    at = dice.random() * (len(quantiles) - 1)
    low = int(at)
    return round(quantiles[low] + (quantiles[low + 1] - quantiles[low]) * (at - low))


def compress(arrivals: Sequence[Arrival], speed: float) -> list[Arrival]:
    """Return the arrivals ``speed`` times faster."""
    return [arrival._replace(at_ms=int(arrival.at_ms / speed)) for arrival in arrivals]
