"""Checks everything in `cluster/` that a cloud would read. Faults go to stderr, one JSON object ends stdout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster.checks.finding import Finding
from cluster.checks.policy import policy_findings
from cluster.checks.ray_schemas import launcher_findings, serve_findings
from cluster.checks.rendering import render
from cluster.checks.schemas import load_custom_schemas, schema_findings
from system.errors import NightminerError

CLUSTER = Path(__file__).parents[1]
SCHEMAS = "NIGHTMINER_KUBERAY"


def pinned(package: str) -> str:
    """The version of a package in constraints.txt."""
    text = (CLUSTER.parent / "constraints.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(package)}==(\S+)$", text, re.MULTILINE)
    if found is None:
        raise LookupError(f"constraints.txt pins no {package}")
    return found[1]


def overlays() -> list[Path]:
    """Folders that are applied, in order of name."""
    return sorted(path.parent for path in (CLUSTER / "kuberay" / "overlays").glob("*/kustomization.yaml"))


def overlay_findings(source: str, manifests: list[dict[str, Any]], custom: dict | None) -> list[Finding]:
    """All that is wrong with one rendered overlay; see the functions it calls."""
    findings = policy_findings(source, manifests, pinned("ray"))
    for manifest in manifests:
        findings += schema_findings(source, manifest, custom)
        findings += serve_findings(source, manifest)
    return findings


def dockerfile_findings(path: Path) -> list[Finding]:
    """What hadolint says of a Dockerfile."""
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if hadolint is None:
        return [Finding(path.name, "hadolint", "", "is not installed; it is in constraints.txt")]
    done = subprocess.run(  # noqa: S603  (a pinned tool on a file of this repository)
        [hadolint, "--format", "json", str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    faults = json.loads(done.stdout or "[]")
    findings = [Finding(path.name, fault["code"], f"line {fault['line']}", fault["message"]) for fault in faults]
    if done.returncode != 0 and not findings:
        findings.append(Finding(path.name, "hadolint", "", done.stderr.strip()[-300:]))
    return findings


def main() -> int:
    """Returns 0 where nothing is wrong, 1 where something is, or another error's code."""
    folder = os.environ.get(SCHEMAS)
    try:
        custom = load_custom_schemas(Path(folder)) if folder else None
        findings: list[Finding] = []
        objects = unchecked = 0
        for overlay in overlays():
            manifests = render(overlay)
            objects += len(manifests)
            if custom is None:
                unchecked += sum(str(m.get("apiVersion", "")).startswith("ray.io/") for m in manifests)
            findings += overlay_findings(overlay.name, manifests, custom)
    except NightminerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    launchers = [CLUSTER / "aws.yaml", CLUSTER / "gcp.yaml"]
    for path in launchers:
        findings += launcher_findings(path, pinned("ray"))
    findings += dockerfile_findings(CLUSTER / "Dockerfile")
    for finding in findings:
        print(f"error: {finding}", file=sys.stderr)
    if custom is None:
        print(
            f"WARNING: {unchecked} objects of KubeRay were NOT checked against its schemas: set {SCHEMAS} to a folder "
            "with the custom resource definitions of KubeRay 1.7.0 (cluster/README.md)",
            file=sys.stderr,
        )
    files = [
        *(CLUSTER / "kuberay").rglob("*.yaml"),
        CLUSTER / "monitoring" / "kustomization.yaml",
        *launchers,
        CLUSTER / "Dockerfile",
    ]
    summary = {"files": len(files), "objects": objects, "errors": len(findings), "unchecked": unchecked}
    print(json.dumps(summary))
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
