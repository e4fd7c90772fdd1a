"""What a load test does and when it has passed: a TOML file of ``loadtest/scenarios``, checked whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

FOLDER: Final = Path(__file__).resolve().parent / "scenarios"
SOCKETS_PER_USER: Final = 1_000  # one locust User; its sockets share a parser and a tally
MESSAGE_BYTES_MIN: Final = 80  # time, publisher and number must fit


class Mix(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Shares of the classes among the messages; normal is the rest."""

    high: float = 0.0
    low: float = 0.0

    def priority(self, number: int) -> str:
        """Return the class of the message with this number: even shares, the same in every run."""
        place = number % 100
        if place < round(self.high * 100):
            return "high"
        return "low" if place < round((self.high + self.low) * 100) else "normal"


class Marks(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Highest values that pass; the names are the report's."""

    p50_ms: float
    p99_ms: float
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    refused: int = 0
    closed: int = 0
    ledger_error: int = 0


class Scenario(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One run. ``messages_per_s`` is the sum over the publishers; the room's name gets a suffix, new for each run."""

    name: str
    room: str
    viewers: int
    publishers: int
    processes: int
    messages_per_s: float
    seconds: float
    message_bytes: int
    marks: Marks
    mix: Mix = Mix()
    connect_s: float = 60.0  # until the last viewer is subscribed
    sockets_per_user: int = SOCKETS_PER_USER

    @property
    def viewer_users(self) -> int:
        """How many locust Users hold the sockets."""
        return -(-self.viewers // self.sockets_per_user)

    @property
    def sockets_each(self) -> int:
        """How many sockets each of them holds."""
        return self.viewers // self.viewer_users

    def check(self) -> Scenario:
        """Return self; raises ValueError naming the field that cannot work."""
        for name in ("viewers", "publishers", "processes", "sockets_per_user"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: at least 1")
        if self.messages_per_s <= 0 or self.seconds <= 0:
            raise ValueError("messages_per_s and seconds: above 0")
        if self.viewers % self.viewer_users:
            raise ValueError(f"viewers: {self.viewers} cannot be shared evenly by {self.viewer_users} locust Users")
        if self.message_bytes < MESSAGE_BYTES_MIN:
            raise ValueError(f"message_bytes: at least {MESSAGE_BYTES_MIN}")
        if self.viewer_users + self.publishers < self.processes:
            raise ValueError("processes: no more than locust Users (viewers / sockets_per_user + publishers)")
        return self


def load(name: str, changes: dict[str, Any] | None = None) -> Scenario:
    """Return a scenario by name or path, with changed fields; raises FileNotFoundError, ValueError."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.exists():
        known = ", ".join(sorted(found.stem for found in FOLDER.glob("*.toml")))
        raise FileNotFoundError(f"no scenario {name}; there are: {known}")
    scenario = msgspec.toml.decode(path.read_bytes(), type=Scenario)
    return msgspec.structs.replace(scenario, **(changes or {})).check()


def encode(scenario: Scenario) -> str:
    """Return the scenario as one line, for the environment of locust's processes."""
    return msgspec.json.encode(scenario).decode()


def decode(text: str) -> Scenario:
    """Return what ``encode`` wrote."""
    return msgspec.json.decode(text, type=Scenario)
