"""The picture of budgets by size: drawn from the rule, current, and noticed when it is not."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts import draw_budget


def test_the_picture_on_disk_is_current() -> None:
    assert draw_budget.main(["--check"]) == 0


def test_the_picture_is_well_formed_and_names_its_curves() -> None:
    texts = [element.text for element in ElementTree.fromstring(draw_budget.picture()).iter() if element.text]
    assert {"growing", "shrinking"} <= set(texts)


def test_a_growing_room_goes_from_the_most_to_the_least() -> None:
    growing = draw_budget.followed(draw_budget.SIZES, draw_budget.POLICY.shared_slots_max)
    assert (growing[0], growing[-1]) == (20, 2)
    assert growing == sorted(growing, reverse=True)


def test_a_stale_picture_is_named_and_then_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(draw_budget, "ROOT", tmp_path)
    (tmp_path / draw_budget.OUTPUT).parent.mkdir(parents=True)
    assert draw_budget.main(["--check"]) == 1
    assert "is not current" in capsys.readouterr().out
    assert draw_budget.main([]) == 0
    assert draw_budget.main(["--check"]) == 0
