"""Composition root: the only place that knows all roles, and the commands a person types."""

from fanout.cli.main import main

__all__ = ["main"]
