"""A policy in a file: JSON, or TOML by its name. Fields that it leaves out are as in the namespace's profile."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fanout.core.errors import ConfigError, Refused
from fanout.core.limits import POLICY_FILE_BYTES_MAX
from fanout.core.profiles import Policy, check_policy


def read_policy(path: Path, default: Policy) -> Policy:
    """Return the policy of a file; raises ConfigError naming the file and the field that no room can be thinned by."""
    try:
        with path.open("rb") as file:
            return _parse(file.read(POLICY_FILE_BYTES_MAX + 1), path.suffix == ".toml", default)
    except OSError as error:
        raise ConfigError(f"--policy {path}: {error.strerror}") from error
    except Refused as refused:
        raise ConfigError(f"--policy {path}: {refused.detail}") from refused
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"--policy {path}: {error}") from error


def _parse(text: bytes, is_toml: bool, default: Policy) -> Policy:
    if len(text) > POLICY_FILE_BYTES_MAX:
        raise ValueError(f"more than {POLICY_FILE_BYTES_MAX} bytes")
    decode = msgspec.toml.decode if is_toml else msgspec.json.decode
    fields = decode(text)
    said = msgspec.convert(fields, Policy)
    policy: Policy = msgspec.structs.replace(default, **{name: getattr(said, name) for name in fields})
    check_policy(policy)
    return policy
