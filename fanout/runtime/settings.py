"""What a process is told at its start: flags name servers and ports, each with an environment variable beside it.

Everything else is a profile or a limit. Wrong combinations raise ConfigError with the line that helps.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final

from fanout.core.errors import ConfigError
from fanout.core.limits import (
    CONNECT_BURST,
    CONNECTS_PER_S,
    CONNECTS_PER_S_MAX,
    DRAIN_GATEWAY_S,
    DRAIN_S_MAX,
    MEMORY_MB_MAX,
    MEMORY_MB_MIN,
)

ROLES: Final = ("sender", "worker", "gateway")
MEMORY: Final = "memory"
_LOG_SCHEMES: Final = ("kafka://",)
_STORE_SCHEMES: Final = ("redis://", "rediss://", "redis+cluster://")


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Settings of ``fanout serve``; ``check`` has been passed where one exists outside tests of itself."""

    roles: tuple[str, ...] = ROLES
    log: str = MEMORY
    store: str = MEMORY
    host: str = "127.0.0.1"
    port: int = 8000
    processes: int = 1
    insecure: bool = False
    prefix: str = "fanout"
    address: str = ""
    origins: tuple[str, ...] = field(default=())
    deflate: bool = True
    connects_per_s: float = CONNECTS_PER_S
    connect_burst: int = CONNECT_BURST
    drain_s: float = DRAIN_GATEWAY_S
    memory_mb: int = 0

    @property
    def on_twins(self) -> bool:
        """True where nothing survives this process."""
        return MEMORY in (self.log, self.store)

    def check(self) -> ServeSettings:
        """Return self; raises ConfigError with one line that names the flag and the remedy."""
        self._check_roles()
        self._check_servers()
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"--port {self.port}: a port is 0 (any free one) to 65535")
        if self.processes < 1:
            raise ConfigError(f"--processes {self.processes}: at least 1")
        self._check_rates()
        if self.insecure and not is_loopback(self.host):
            raise ConfigError(
                f"--insecure serves everybody without a key, so only on loopback: use --host 127.0.0.1, not {self.host}"
            )
        return self

    def _check_rates(self) -> None:
        if not 0 < self.connects_per_s <= CONNECTS_PER_S_MAX:
            raise ConfigError(f"--connects-per-s {self.connects_per_s:g}: above 0, at most {CONNECTS_PER_S_MAX:g}")
        if not 1 <= self.connect_burst <= CONNECTS_PER_S_MAX:
            raise ConfigError(f"--connect-burst {self.connect_burst}: 1 to {CONNECTS_PER_S_MAX:g}")
        if not 0 <= self.drain_s <= DRAIN_S_MAX:
            raise ConfigError(f"--drain-s {self.drain_s:g}: 0 (all sessions at once) to {DRAIN_S_MAX:g}")
        if self.memory_mb and not MEMORY_MB_MIN <= self.memory_mb <= MEMORY_MB_MAX:
            raise ConfigError(f"--memory-mb {self.memory_mb}: 0 (the container's share), or {MEMORY_MB_MIN} and more")

    def _check_roles(self) -> None:
        unknown = [role for role in self.roles if role not in ROLES]
        if unknown or not self.roles:
            raise ConfigError(f"--roles {','.join(self.roles)}: choose from {','.join(ROLES)}")

    def _check_servers(self) -> None:
        if self.log != MEMORY and not self.log.startswith(_LOG_SCHEMES):
            raise ConfigError(f"--log {self.log}: use memory or kafka://host:port[,host:port]")
        if self.store != MEMORY and not self.store.startswith(_STORE_SCHEMES):
            raise ConfigError(f"--store {self.store}: use memory, redis://host:port or redis+cluster://host:port")
        if (self.log == MEMORY) != (self.store == MEMORY):
            raise ConfigError("--log and --store: both in memory, or both servers (kafka://… with redis://…)")
        if self.on_twins and (self.processes > 1 or set(self.roles) != set(ROLES)):
            raise ConfigError(
                "the in-memory log and store live in one process with all roles: "
                "give --log kafka://host:port --store redis://host:port, or leave out --processes and --roles"
            )


def is_loopback(host: str) -> bool:
    """True where only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
