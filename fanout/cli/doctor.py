"""``fanout doctor``: is this machine, this Kafka and this Redis fit for the engine?"""

from __future__ import annotations

import asyncio

from rich.console import Console
from rich.table import Table

from fanout.ports import Topics
from fanout.runtime.clock import SystemClock
from fanout.runtime.findings import FAIL, OK, SYSCTLS, Finding, examine_clock, examine_files, examine_sysctl
from fanout.runtime.settings import MEMORY

_COLOURS = {OK: "green", FAIL: "red"}


def examine(log: str, store: str, prefix: str) -> int:
    """Print a table of findings; return 1 where something will not work, else 0."""
    findings = [examine_files(), *(examine_sysctl(sysctl) for sysctl in SYSCTLS), examine_clock()]
    findings += asyncio.run(_examine_servers(log, store, prefix))
    Console(highlight=False).print(_table(findings))
    return 1 if any(finding.state == FAIL for finding in findings) else 0


async def _examine_servers(log: str, store: str, prefix: str) -> list[Finding]:
    from fanout.adapters.diagnosis import examine_kafka, examine_redis

    findings: list[Finding] = []
    if log == MEMORY:
        findings.append(Finding("log", OK, "in memory: nothing is kept across a restart"))
    else:
        findings += await examine_kafka(log, Topics(prefix=prefix))
    if store == MEMORY:
        findings.append(Finding("store", OK, "in memory: nothing is kept across a restart"))
    else:
        findings += await examine_redis(store, SystemClock())
    return findings


def _table(findings: list[Finding]) -> Table:
    table = Table("", "checked", "found", "remedy", box=None)
    for finding in findings:
        colour = _COLOURS.get(finding.state, "yellow")
        table.add_row(f"[{colour}]{finding.state}[/]", finding.name, finding.found, finding.remedy)
    return table
