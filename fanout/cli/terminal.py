"""Standard output of the commands."""

from __future__ import annotations

import sys


def say(line: str) -> None:
    """Print a line that a person or a script waits for."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
