"""How much of its memory a process takes, from the files that say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from fanout.runtime.process_memory import ProcessMemory, limit_bytes


def test_a_setting_is_the_limit_of_each_process(tmp_path: Path) -> None:
    given = tmp_path / "memory.max"
    given.write_text("1000000\n")
    assert limit_bytes(200, 4, (given,)) == 200 << 20


@pytest.mark.parametrize(
    ("text", "limit"), [("1000000\n", 250_000), ("max\n", 0), ("9223372036854771712\n", 0), (None, 0), ("", 0)]
)
def test_without_a_setting_the_container_s_limit_is_shared(tmp_path: Path, text: str | None, limit: int) -> None:
    given = tmp_path / "memory.max"
    if text is not None:
        given.write_text(text)
    assert limit_bytes(0, 4, (given,)) == limit


def test_the_older_cgroup_is_asked_where_the_newer_says_nothing(tmp_path: Path) -> None:
    newer, older = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    older.write_text("4096")
    assert limit_bytes(0, 1, (newer, older)) == 4_096


def test_the_share_is_of_resident_memory() -> None:
    taken = ProcessMemory(1 << 30).share()
    assert 0.01 < taken < 1
    assert ProcessMemory(1 << 29).share() == pytest.approx(2 * taken, rel=0.05)


def test_without_a_limit_or_a_file_nothing_is_known(tmp_path: Path) -> None:
    assert ProcessMemory(0).share() == 0.0
    assert ProcessMemory(1 << 30, tmp_path / "missing").share() == 0.0
    (tmp_path / "odd").write_text("")
    assert ProcessMemory(1 << 30, tmp_path / "odd").share() == 0.0


def test_what_is_free_is_given_back() -> None:
    ProcessMemory(0).give_back()
