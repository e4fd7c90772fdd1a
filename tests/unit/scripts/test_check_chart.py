"""The strict schemas by themselves; the chart is rendered in ``make check`` where helm is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from scripts import check_chart
from scripts.kubernetes_schemas import KINDS, strict


def budget(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "x"}, "spec": spec}


def test_what_kubernetes_knows_passes() -> None:
    assert list(check_chart.violations([budget(maxUnavailable=1, selector={"matchLabels": {"a": "b"}})])) == []
    assert list(check_chart.violations([budget(maxUnavailable="25%")])) == []


def test_a_misspelt_field_is_a_violation_with_its_place() -> None:
    (found,) = check_chart.violations([budget(maxUnavailabel=1)])
    assert found.startswith("PodDisruptionBudget/x: spec:")
    assert "maxUnavailabel" in found


def test_a_wrong_type_is_a_violation() -> None:
    (found,) = check_chart.violations([budget(selector=["a"])])
    assert found.startswith("PodDisruptionBudget/x: spec/selector:")


def test_a_kind_without_a_schema_is_a_violation() -> None:
    (found,) = check_chart.violations([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}])
    assert "no schema pod-v1.json" in found


def test_an_alert_without_an_expression_is_a_violation() -> None:
    groups = [{"name": "g", "rules": [{"alert": "A"}]}]
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "x"},
        "spec": {"groups": groups},
    }
    (found,) = check_chart.violations([manifest])
    assert "'expr' is a required property" in found


def test_the_committed_schemas_are_the_kinds_in_use_and_small() -> None:
    files = list(check_chart.SCHEMAS.glob("*.json"))
    assert len(files) == len(KINDS) + 2
    assert sum(path.stat().st_size for path in files) < 1_000_000


@pytest.mark.parametrize(
    "path", sorted((check_chart.CHART / "ci" / "refused").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_refused_value_file_says_what_it_is_refused_for(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# refused: ")


def test_every_variable_that_the_chart_sets_is_read_by_the_engine() -> None:
    name = re.compile(r"\bFANOUT_[A-Z_]+")
    source = "".join(path.read_text(encoding="utf-8") for path in (check_chart.ROOT / "fanout").rglob("*.py"))
    chart = [path for path in check_chart.CHART.rglob("*") if path.suffix in (".yaml", ".tpl")]
    named = {(path.name, found) for path in chart for found in name.findall(path.read_text(encoding="utf-8"))}
    known = set(name.findall(source))
    assert {found for _, found in named} >= {"FANOUT_LOG", "FANOUT_STORE", "FANOUT_ROLES", "FANOUT_APPS"}
    assert [(file, found) for file, found in sorted(named) if found not in known] == []


def test_a_type_that_contains_itself_becomes_a_plain_object() -> None:
    node = {"type": "object", "properties": {"again": {"$ref": "#/definitions/node"}, "$ref": {"type": "string"}}}
    schema = strict({"$ref": "#/definitions/node"}, {"node": node})
    assert schema["properties"]["again"]["type"] == ["object", "null"]
    assert schema["properties"]["$ref"]["type"] == ["string", "null"]
    assert schema["additionalProperties"] is False
