"""``fanout ledger``: the flow of a room's messages, or of an app's, as a tree, and whether it adds up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from fanout.cli.api_client import ApiClient
from fanout.cli.reconcile import total
from fanout.cli.terminal import say
from fanout.core.ledger import differences
from fanout.core.ledger_spans import since_ms

_NAME_WIDTH: Final = 28

Row = tuple[int, str, Mapping[str, int]]  # depth, name, counts by class


def show_ledger(url: str, key: str, room: str, since: str, as_json: bool) -> int:
    """Print the ledger of a room (without one, of the app); exit status 1 where it does not add up.

    Raises FanoutError with the engine's sentence.
    """
    if since:
        since_ms(since)  # says what is wrong with it before anybody is asked
    with ApiClient(url, key) as api:
        ledger = api.ledger(room, since) if room else api.app_ledger(since)
    found = differences(ledger)
    if as_json:
        say(msgspec.json.encode(ledger).decode())
    else:
        for line in drawn(ledger, since):
            say(line)
        for sentence in found or ["adds up: accepted = kept + merged + dropped, offered = the fates of its deliveries"]:
            say(f"does not add up: {sentence}" if found else sentence)
    return 1 if found else 0


def drawn(ledger: Mapping[str, Any], since: str = "") -> Iterator[str]:
    """Yield the lines of a ledger (the answer of the API) as two trees, of messages and of deliveries."""
    while_ = f"the last {since}" if since else "since its first message"
    of = ledger["room"] if "room" in ledger else f"{ledger['rooms']:,} rooms of {ledger['app']}"
    yield f"{of}, {while_}: from {_time(ledger['from'])} to {_time(ledger['to'])}"
    yield f"newest message {_time(ledger['as_of'])}"
    yield ""
    yield from _tree("messages accepted", ledger["accepted"], list(_messages(ledger)))
    yield ""
    yield from _tree("deliveries offered", ledger["edge"]["offered"], list(_deliveries(ledger["edge"])))
    yield ""


def _messages(ledger: Mapping[str, Any]) -> Iterator[Row]:
    yield 1, "kept", ledger["kept"]
    yield 1, "merged", ledger["merged"]
    stages = ledger["dropped"]
    yield 1, "dropped", _sum(counts for reasons in stages.values() for counts in reasons.values())
    for stage, reasons in sorted(stages.items()):
        yield 2, stage, _sum(reasons.values())
        for reason, counts in sorted(reasons.items()):
            yield 3, reason, counts


def _deliveries(edge: Mapping[str, Any]) -> Iterator[Row]:
    yield 1, "written", edge["written"]
    yield 2, "of it unconfirmed", edge["unconfirmed"]
    yield 1, "dropped", _sum(edge["dropped"].values())
    for reason, counts in sorted(edge["dropped"].items()):
        yield 2, reason, counts
    yield 1, "pending", edge["pending"]
    yield 1, "unreported", edge["unreported"]


def _tree(name: str, counts: Mapping[str, int], rows: list[Row]) -> Iterator[str]:
    yield _line(name, counts)
    for place, (depth, row_name, row_counts) in enumerate(rows):
        rest = rows[place + 1 :]
        stems = "".join("│  " if _goes_on(level, rest) else "   " for level in range(1, depth))
        yield _line(f"{stems}{'├─' if _goes_on(depth, rest) else '└─'} {row_name}", row_counts)


def _goes_on(depth: int, rest: list[Row]) -> bool:
    """True where another row of this depth follows under the same one above."""
    following = next((row[0] for row in rest if row[0] <= depth), 0)
    return following == depth


def _line(name: str, counts: Mapping[str, int]) -> str:
    classes = ", ".join(f"{word} {count:,}" for word, count in counts.items() if count)
    return f"{name:<{_NAME_WIDTH}}{total(counts):>14,}   {classes}".rstrip()


def _sum(many: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for counts in many:
        for word, count in counts.items():
            found[word] = found.get(word, 0) + count
    return found


def _time(at_ms: int) -> str:
    if not at_ms:
        return "never"
    return datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
