"""docs/topics/apps.md: its file is one that the engine takes."""

from __future__ import annotations

import re
from pathlib import Path

from fanout.runtime.apps import Apps

PAGE = (Path(__file__).parents[3] / "docs" / "topics" / "apps.md").read_text()


def test_the_file_of_the_page_is_taken(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    path = tmp_path / "apps.toml"
    path.write_text(found[1])
    assert Apps.from_env({"FANOUT_APPS": str(path)}).ids == ["shop", "news"]
