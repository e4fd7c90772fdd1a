"""A policy in a file: JSON, or TOML by its name. Fields that it leaves out have their defaults."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fanout.core.errors import ConfigError, Refused
from fanout.core.limits import POLICIES_BYTES_MAX
from fanout.core.policies import parse_policy
from fanout.core.profiles import Policy


def read_body(path: Path) -> bytes:
    """Return what a file says as JSON, up to one byte more than a policy may have; raises ConfigError."""
    try:
        with path.open("rb") as file:
            text = file.read(POLICIES_BYTES_MAX + 1)
        if path.suffix != ".toml" or len(text) > POLICIES_BYTES_MAX:
            return text
        return msgspec.json.encode(msgspec.toml.decode(text))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error


def read_policy(path: Path, default: Policy) -> Policy:
    """Return the policy of a file; raises ConfigError naming the file and the first bad field."""
    try:
        return parse_policy(read_body(path), default)
    except Refused as refused:
        raise ConfigError(f"{path}: {refused.detail}") from refused
