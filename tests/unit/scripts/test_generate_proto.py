"""The generated Protobuf classes in the tree are those of the schema in the tree."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_proto", ROOT / "scripts" / "generate_proto.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generating_again_gives_the_committed_bytes(script: ModuleType) -> None:
    for path, generated in script.generate().items():
        assert (ROOT / path).read_bytes() == generated, f"{path}: run python scripts/generate_proto.py"


def test_check_passes_on_current_files_and_writes_nothing(script: ModuleType) -> None:
    assert script.main(["--check"]) == 0


def test_check_names_a_stale_file_and_a_run_writes_it(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generated = script.generate()
    monkeypatch.setattr(script, "generate", lambda: generated)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    (tmp_path / "fanout" / "protocol").mkdir(parents=True)
    assert script.main(["--check"]) == 1
    assert "client_pb2.py is not current" in capsys.readouterr().out
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0


def test_a_schema_that_does_not_compile_is_an_error(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "SCHEMA", "fanout/protocol/absent.proto")
    with pytest.raises(RuntimeError, match=r"absent\.proto"):
        script.generate()
