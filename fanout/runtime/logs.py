"""Logs: a fixed sentence plus fields, one line each; JSON where no person watches. Nothing is logged per delivery."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logs(*, level: str = "info") -> None:
    """Send structlog and the libraries' warnings to standard error; coloured on a terminal, JSON elsewhere."""
    renderer: structlog.types.Processor
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    # aiokafka reports each lost connection several times as an error; our own watch says it once, with the remedy
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
