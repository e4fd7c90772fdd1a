"""Make the JSON schemas of ``helm/schemas`` that ``check_chart`` validates rendered manifests against.

    python scripts/kubernetes_schemas.py SWAGGER_JSON

SWAGGER_JSON is ``api/openapi-spec/swagger.json`` of the Go module ``k8s.io/kubernetes`` (``go mod download
k8s.io/kubernetes@v1.37.2`` prints its folder). Only the kinds that the chart uses are written, strict: a field that
Kubernetes does not know is an error. The two kinds of prometheus-operator are written by hand from its Go types
(``pkg/apis/monitoring/v1``), reduced to the fields that the chart may use.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parent.parent / "helm" / "schemas"
KINDS: Final = {
    ("", "v1", "ConfigMap"),
    ("", "v1", "Secret"),
    ("", "v1", "Service"),
    ("", "v1", "ServiceAccount"),
    ("apps", "v1", "Deployment"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
    ("batch", "v1", "Job"),
    ("policy", "v1", "PodDisruptionBudget"),
}
_PREFIX: Final = "#/definitions/"
_QUANTITY: Final = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_INT_OR_STRING: Final = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"

Schema = dict[str, Any]


def strict(node: object, definitions: dict[str, Schema], path: tuple[str, ...] = ()) -> Any:
    """Return the schema with references inlined and unknown fields forbidden.

    ``path`` holds the definitions that are being inlined: a type that contains itself becomes a plain object.
    """
    if isinstance(node, list):
        return [strict(item, definitions, path) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if isinstance(reference, str):  # in the schema of CRDs "$ref" is also the name of a property, with an object
        return _inline(reference.removeprefix(_PREFIX), definitions, path)
    if node.get("format") == "int-or-string":
        return {"type": ["string", "integer", "null"]}
    kept = {key: value for key, value in node.items() if not key.startswith("x-kubernetes-") and key != "description"}
    result = {key: strict(value, definitions, path) for key, value in kept.items() if key != "properties"}
    if "properties" in kept:
        result |= _closed(kept, definitions, path)
    return result


def _inline(name: str, definitions: dict[str, Schema], path: tuple[str, ...]) -> Schema:
    if name == _QUANTITY:
        return {"type": ["string", "number", "null"]}
    if name == _INT_OR_STRING:
        return {"type": ["string", "integer", "null"]}
    if name in path:
        return {"type": "object"}
    found: Schema = strict(definitions[name], definitions, (*path, name))
    return found


def _closed(node: Schema, definitions: dict[str, Schema], path: tuple[str, ...]) -> Schema:
    """An object with named properties takes no others; those not required may be null, as in the API server."""
    required = set(node.get("required", ()))
    properties: Schema = {}
    for name, value in node["properties"].items():
        schema = strict(value, definitions, path)
        kind = schema.get("type")
        if name not in required and isinstance(kind, str):
            schema = schema | {"type": [kind, "null"]}
        properties[name] = {"type": "string"} if name == "apiVersion" else schema
    return {"properties": properties, "additionalProperties": False}


def _name(group: str, version: str, kind: str) -> str:
    """Return the file name by kubeconform's template ``{{.ResourceKind}}{{.KindSuffix}}``."""
    return "-".join(part for part in (kind.lower(), group.partition(".")[0].lower(), version.lower()) if part) + ".json"


def of_kubernetes(swagger: Schema) -> dict[str, Schema]:
    """Return file name → schema for the kinds in use; raises KeyError where the swagger lacks one."""
    definitions = swagger["definitions"]
    found: dict[str, Schema] = {}
    for definition, schema in definitions.items():
        kinds = schema.get("x-kubernetes-group-version-kind", [])
        if len(kinds) != 1:
            continue
        kind = (kinds[0]["group"], kinds[0]["version"], kinds[0]["kind"])
        if kind in KINDS:
            found[_name(*kind)] = strict(schema, definitions, (definition,))
    missing = {_name(*kind) for kind in KINDS} - found.keys()
    if missing:
        raise KeyError(f"not in the swagger: {', '.join(sorted(missing))}")
    return found


def of_prometheus_operator(metadata: Schema, selector: Schema) -> dict[str, Schema]:
    """Return the schemas of ServiceMonitor and PrometheusRule (v1), reduced to what a chart of ours may say."""
    texts: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
    duration: Schema = {
        "type": "string",
        "pattern": "^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$",
    }
    text: Schema = {"type": "string"}
    endpoint = _object(
        {"port": text, "path": text, "scheme": {"enum": ["http", "https", "HTTP", "HTTPS"]}, "interval": duration,
         "scrapeTimeout": duration, "honorLabels": {"type": "boolean"}}
    )  # fmt: skip
    rule = _object(
        {"record": text, "alert": text, "expr": {"type": ["string", "integer"]}, "for": duration,
         "keep_firing_for": duration, "labels": texts, "annotations": texts},
        required=["expr"],
    )  # fmt: skip
    group = _object(
        {"name": {"type": "string", "minLength": 1}, "interval": duration, "rules": {"type": "array", "items": rule}},
        required=["name"],
    )
    texts_list: Schema = {"type": "array", "items": text}
    monitor = _object(
        {"jobLabel": text, "targetLabels": texts_list, "podTargetLabels": texts_list, "selector": selector,
         "endpoints": {"type": "array", "items": endpoint}},
        required=["endpoints", "selector"],
    )  # fmt: skip
    rules = _object({"groups": {"type": "array", "items": group}})
    return {
        "servicemonitor-monitoring-v1.json": _top("ServiceMonitor", metadata, monitor),
        "prometheusrule-monitoring-v1.json": _top("PrometheusRule", metadata, rules),
    }


def _object(properties: Schema, required: list[str] | None = None) -> Schema:
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | {"required": required} if required else schema


def _top(kind: str, metadata: Schema, spec: Schema) -> Schema:
    properties: Schema = {
        "apiVersion": {"enum": ["monitoring.coreos.com/v1"]}, "kind": {"enum": [kind]}, "metadata": metadata,
        "spec": spec,
    }  # fmt: skip
    return _object(properties, ["apiVersion", "kind", "metadata", "spec"])


def main(arguments: list[str]) -> int:
    """Write the schemas; returns the exit code."""
    if len(arguments) != 1:
        print(__doc__)
        return 2
    schemas = of_kubernetes(json.loads(Path(arguments[0]).read_text()))
    service = schemas["service-v1.json"]["properties"]
    budget = schemas["poddisruptionbudget-policy-v1.json"]["properties"]
    schemas |= of_prometheus_operator(service["metadata"], budget["spec"]["properties"]["selector"])
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, schema in sorted(schemas.items()):
        (FOLDER / name).write_text(json.dumps(schema, sort_keys=True, separators=(",", ":")) + "\n")
    print(f"{len(schemas)} schemas, {sum(path.stat().st_size for path in FOLDER.glob('*.json'))} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
