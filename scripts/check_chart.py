"""Check the Helm chart: lint, render with every value file, validate strictly, and refuse what must be refused.

    python scripts/check_chart.py [--install]

Value files: ``helm/fanout/ci/*.yaml`` must render; ``helm/fanout/ci/refused/*.yaml`` must fail with the words in
their first line (``# refused: …``). Schemas: ``helm/schemas`` (see ``kubernetes_schemas.py``); kubeconform where it
is installed, and the same schemas through ``jsonschema``.

helm is looked for in ``.cache/bin`` and on the PATH. It is built there (``go install``, two minutes) with ``--install``
or under CI; elsewhere its absence is said and is no failure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema
import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "helm" / "fanout"
SCHEMAS: Final = ROOT / "helm" / "schemas"
BIN: Final = ROOT / ".cache" / "bin"
HELM_PACKAGE: Final = "helm.sh/helm/v3/cmd/helm@v3.22.0"
KUBECONFORM_PACKAGE: Final = "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0"
KUBE_VERSION: Final = "1.37.0"  # of the schemas; a helm built by `go install` believes in 1.20 when nobody tells it
BUILD_S: Final = 900
RENDER_S: Final = 60


def tool(name: str) -> str | None:
    """Return the path of a program, from ``.cache/bin`` or the PATH, or None."""
    return shutil.which(name, path=str(BIN)) or shutil.which(name)


def install(package: str) -> bool:
    """Build a Go program into ``.cache/bin``; False where Go is missing or the build failed (said on stderr)."""
    if shutil.which("go") is None:
        print(f"chart: Go is not installed, so {package} cannot be built", file=sys.stderr)
        return False
    BIN.mkdir(parents=True, exist_ok=True)
    print(f"chart: building {package}", flush=True)
    environment = os.environ | {"GOBIN": str(BIN), "GOFLAGS": "-trimpath"}
    command = ["nice", "-n", "10", "go", "install", "-ldflags=-s -w", package]
    done = subprocess.run(command, env=environment, cwd=BIN, timeout=BUILD_S, check=False)
    return done.returncode == 0


def render(helm: str, values: Path) -> subprocess.CompletedProcess[str]:
    """Run ``helm template`` with a value file."""
    command = [helm, "template", "trial", str(CHART), "-n", "im", "--kube-version", KUBE_VERSION, "-f", str(values)]
    return subprocess.run(command, capture_output=True, text=True, timeout=RENDER_S, check=False)


def manifests(rendered: str) -> list[dict[str, Any]]:
    """Return the objects of a rendered chart."""
    return [document for document in yaml.safe_load_all(rendered) if document]


def schema_of(manifest: dict[str, Any]) -> Path:
    """Return the schema file of an object: ``<kind>[-<first label of the group>]-<version>.json``."""
    group, _, version = manifest["apiVersion"].rpartition("/")
    parts = (manifest["kind"].lower(), group.partition(".")[0], version)
    return SCHEMAS / ("-".join(part for part in parts if part) + ".json")


def violations(objects: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what the schemas say against the objects, with kind, name and place."""
    for manifest in objects:
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        path = schema_of(manifest)
        if not path.exists():
            yield f"{name}: no schema {path.name}; add the kind to scripts/kubernetes_schemas.py"
            continue
        validator = jsonschema.Draft7Validator(json.loads(path.read_text(encoding="utf-8")))
        for error in validator.iter_errors(manifest):
            yield f"{name}: {'/'.join(map(str, error.absolute_path))}: {error.message}"


def conform(kubeconform: str, rendered: str) -> Iterator[str]:
    """Yield the complaint of kubeconform, if any."""
    location = str(SCHEMAS / "{{.ResourceKind}}{{.KindSuffix}}.json")
    command = [kubeconform, "-strict", "-schema-location", location, "-"]
    done = subprocess.run(command, input=rendered, capture_output=True, text=True, timeout=RENDER_S, check=False)
    if done.returncode != 0:
        yield (done.stdout + done.stderr).strip()


def accepted(helm: str, kubeconform: str | None, values: Path) -> Iterator[str]:
    """Yield what is wrong with the chart under a value file that must work."""
    lint = subprocess.run(
        [helm, "lint", "--strict", "--kube-version", KUBE_VERSION, str(CHART), "-f", str(values)],
        capture_output=True, text=True, timeout=RENDER_S, check=False,
    )  # fmt: skip
    if lint.returncode != 0:
        yield f"lint: {lint.stdout}{lint.stderr}"
        return
    rendered = render(helm, values)
    if rendered.returncode != 0:
        yield rendered.stderr
        return
    yield from violations(manifests(rendered.stdout))
    if kubeconform:
        yield from conform(kubeconform, rendered.stdout)


def refused(helm: str, values: Path) -> Iterator[str]:
    """Yield a complaint where values that must be refused are not, or not for the reason in their first line."""
    wanted = values.read_text(encoding="utf-8").splitlines()[0].removeprefix("# refused:").strip()
    rendered = render(helm, values)
    if rendered.returncode == 0:
        yield f"was rendered, but must be refused: {wanted}"
    elif wanted not in rendered.stderr:
        yield f"refused, but not with {wanted!r}: {rendered.stderr.strip()}"


def check(helm: str) -> int:
    """Check the chart with every value file; returns the number of complaints, each printed."""
    kubeconform = tool("kubeconform")
    complaints = 0
    good, bad = sorted((CHART / "ci").glob("*.yaml")), sorted((CHART / "ci" / "refused").glob("*.yaml"))
    for values in good + bad:
        found = accepted(helm, kubeconform, values) if values in good else refused(helm, values)
        for complaint in found:
            complaints += 1
            print(f"chart: {values.relative_to(CHART)}: {complaint}", file=sys.stderr)
    by = "kubeconform and jsonschema" if kubeconform else "jsonschema"
    print(f"chart: {len(good)} value files rendered and validated by {by}, {len(bad)} refused; {complaints} complaints")
    return complaints


def main(arguments: list[str]) -> int:
    """Return the exit code: 0 also where helm is missing outside CI."""
    must = bool(os.environ.get("CI")) or "--install" in arguments
    if must and tool("helm") is None:
        install(HELM_PACKAGE)
    if must and tool("kubeconform") is None:
        install(KUBECONFORM_PACKAGE)
    helm = tool("helm")
    if helm is None:
        print(
            "chart: NOT CHECKED, helm is not installed; python scripts/check_chart.py --install builds it (2 minutes)"
        )
        return 1 if must else 0
    return 1 if check(helm) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
