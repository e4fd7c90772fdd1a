"""Fit the demo's arrivals to a trace: ``python -m scripts.fit_profile TRACE.csv NAME`` writes the shipped profile."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from fanout.cli.arrivals import PROFILE, fit, read_trace


def main() -> None:
    """Write ``fanout/cli/profile.json`` from the trace named on the command line."""
    path, source = Path(sys.argv[1]), sys.argv[2]
    profile = fit(read_trace(path), source)
    target = Path(__file__).parent.parent / "fanout" / "cli" / PROFILE
    target.write_bytes(msgspec.json.encode(profile) + b"\n")
    print(f"{target.name}: {sum(profile.per_second)} messages in {len(profile.per_second)} s")


if __name__ == "__main__":
    main()
