"""The in-memory twins of the ports: what ``fanout serve`` runs on when no server is named."""

from __future__ import annotations

from fanout.adapters.memory_log import MemoryGroupReader, MemoryLog, MemoryReader, MemoryWriter, Retention
from fanout.adapters.memory_store import MemoryState, memory_store

__all__ = [
    "MemoryGroupReader",
    "MemoryLog",
    "MemoryReader",
    "MemoryState",
    "MemoryWriter",
    "Retention",
    "memory_store",
]
