"""Parts of the acceptance tests: an engine in a process of its own, and the stock SDKs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine_process import ServedEngine, engine_process
from tests.support.misbehaviour import API_KEY, TOKEN_SECRET
from tests.support.parts import need
from tests.support.stock_sdk import install_js


@pytest.fixture(scope="session")
def engine() -> Iterator[ServedEngine]:
    """An embedded engine as ``fanout serve --insecure`` starts it, shared by the tests: each uses rooms of its own."""
    with engine_process() as started:
        yield started


@pytest.fixture(scope="session")
def keyed_engine() -> Iterator[ServedEngine]:
    """An engine that asks for keys and tokens, and lets pages of one origin in."""
    environment = {"FANOUT_API_KEY": API_KEY, "FANOUT_TOKEN_SECRET": TOKEN_SECRET}
    with engine_process(("--origins", "https://good.example"), environment) as started:
        yield started


@pytest.fixture(scope="session")
def js_sdk() -> Path:
    """The directory with the installed npm packages of the stock JavaScript SDK."""
    return need(install_js)
