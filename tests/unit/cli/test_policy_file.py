"""A policy in a file: what it says, what it leaves out, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fanout.cli.policy_file import read_policy
from fanout.core.errors import ConfigError
from fanout.core.profiles import Policy

DEFAULT = Policy(reserved_slots=7)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.json", '{"shared_slots_max": 5, "types": {"gift": "high"}, "raised_users": ["ann"]}'),
        ("p.toml", 'shared_slots_max = 5\nraised_users = ["ann"]\n[types]\ngift = "high"\n'),
    ],
)
def test_what_a_file_leaves_out_is_as_in_the_default(tmp_path: Path, name: str, text: str) -> None:
    assert read_policy(written(tmp_path / name, text), DEFAULT) == Policy(
        reserved_slots=7, shared_slots_max=5, types={"gift": "high"}, raised_users=frozenset({"ann"})
    )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.json", '{"reserved_slots": -1}', "reserved_slots"),
        ("p.json", '{"reserved_slots": "many"}', "reserved_slots"),
        ("p.json", '{"reserved": 1}', "reserved"),
        ("p.json", '{"shared_slots_min": 9, "shared_slots_max": 3}', "shared_slots_min"),
        ("p.toml", '[types]\ngift = "golden"\n', "types.gift"),
        ("p.toml", '{"reserved_slots": 1}', "p.toml"),
        ("p.json", "reserved_slots = 1", "p.json"),
        ("p.json", "[]", "p.json"),
        ("p.json", "", "p.json"),
        ("p.json", "\xff", "p.json"),
        ("p.json", "[" * 60_000, "p.json"),
        ("p.json", " " * 70_000 + "{}", "65536"),
    ],
)
def test_a_file_that_no_room_can_be_thinned_by_is_refused_with_what_is_wrong(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as raised:
        read_policy(path, DEFAULT)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_policy(tmp_path / "none.json", DEFAULT)
