"""``python -m bench NAME [options]`` runs one bench, ``python -m bench all`` those of ``bench/baseline.json``."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import bench

BASELINE: Final = Path(__file__).parent / "baseline.json"


def names() -> list[str]:
    """Return the benches that stand beside this file."""
    return sorted(module.name for module in pkgutil.iter_modules(bench.__path__) if not module.name.startswith("_"))


def run_all() -> int:
    """Run every entry of the baseline in a process of its own; print its figures beside the earlier ones."""
    worst = 0
    for entry in json.loads(BASELINE.read_text()):
        command = [sys.executable, "-m", "bench", *entry["run"]]
        finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        lines = finished.stdout.strip().splitlines()
        figures: dict[str, Any] = json.loads(lines[-1]) if lines else {"bench": entry["run"][0], "failed": True}
        print(json.dumps(figures | {"before": entry["figures"], "before_date": entry["date"]}), flush=True)
        worst = max(worst, finished.returncode)
    return worst


def main() -> int:
    """Return the exit status of the bench that the command line names."""
    known = names()
    if len(sys.argv) < 2 or sys.argv[1] not in (*known, "all"):
        print(f"usage: python -m bench NAME [options]; NAME is all or one of: {', '.join(known)}", file=sys.stderr)
        return 2
    if sys.argv[1] == "all":
        return run_all()
    module = importlib.import_module(f"bench.{sys.argv[1]}")
    return int(module.main([option for option in sys.argv[2:] if option != "--json"]))


if __name__ == "__main__":
    sys.exit(main())
