"""``docs/errors.md`` is what the table in the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from fanout.core.errors import CLOSE_CODES, PROBLEMS, UNSUBSCRIBE_CODES

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_errors", ROOT / "scripts" / "generate_errors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_in_the_tree_is_current(script: ModuleType) -> None:
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == script.page()
    assert script.main(["--check"]) == 0


def test_every_problem_and_every_code_has_a_row(script: ModuleType) -> None:
    rows = [line.split(" | ") for line in script.page().splitlines() if line.startswith("| ")]
    first = {row[0].removeprefix("| ") for row in rows}
    assert first >= {f"`{problem.reason}`" for problem in PROBLEMS}
    assert first >= {str(code.code) for code in (*CLOSE_CODES, *UNSUBSCRIBE_CODES)}


@pytest.mark.parametrize(
    "row",
    [
        "| `bad_request` | 107 | 400 | no | 3501 | the request is malformed; nothing was done"
        " | reports it to the application; closed: stops for good |",
        "| `draining` | 100 | 503 | yes | 3001 | this process is going away; another one serves"
        " | tries again with backoff; closed: reconnects |",
        "| `token_expired` | 109 | 401 | no | – | the token has expired; fetch a new one"
        " | fetches a new token and tries again |",
        "| 2000 | server unsubscribe | the application ended the subscription | stays unsubscribed |",
        "| 2500 | insufficient state | the subscription must be recovered from its position"
        " | resubscribes from its position |",
        "| 3012 | no pong | a ping was not answered in time | reconnects |",
        "| 3500 | invalid token | the token is not valid and will not become so | stops for good |",
    ],
)
def test_a_row_says_what_the_doors_and_the_sdks_do(script: ModuleType, row: str) -> None:
    assert row in script.page().splitlines()


def test_a_stale_page_is_named_and_then_written(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "errors.md").write_text("old")
    assert script.main(["--check"]) == 1
    assert "is not current" in capsys.readouterr().out
    assert script.main([]) == 0
    assert (tmp_path / "docs" / "errors.md").read_text(encoding="utf-8") == script.page()
