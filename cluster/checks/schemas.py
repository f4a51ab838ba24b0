"""Manifests against the schemas of Kubernetes and KubeRay, unknown fields refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from kubernetes_validate import utils as core
from referencing import Registry, Resource

from cluster.checks.finding import Finding, name_of
from cluster.checks.pods import pod_templates
from system.errors import ConfigError

KUBERNETES = "1.33"  # the oldest that the README promises
_STRICT = f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict"


@lru_cache(maxsize=1)
def _definitions() -> Registry:
    contents = core.schema_contents(f"{_STRICT}/_definitions.json", KUBERNETES)
    return Resource.from_contents(contents) @ Registry()


@lru_cache(maxsize=64)
def _core_validator(kind: str, api_version: str) -> jsonschema.Draft202012Validator:
    """Raises FileNotFoundError for a kind that Kubernetes itself does not have."""
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    contents = core.schema_contents(f"{_STRICT}/{kind.lower()}-{group}.json", KUBERNETES)
    registry = Resource.from_contents(contents) @ _definitions()
    return jsonschema.Draft202012Validator(contents, registry=registry)


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A custom resource's schema with what the API server would drop in silence refused instead.

    Its `metadata` is left to Kubernetes' own schema; whatever else has no named fields may have none.
    """
    made = dict(schema)
    if "properties" in schema:
        made["properties"] = {
            name: {"type": "object"} if name == "metadata" and "properties" not in part else strict(part)
            for name, part in schema["properties"].items()
        }
    if isinstance(schema.get("items"), dict):
        made["items"] = strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = strict(schema["additionalProperties"])
    keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if schema.get("type") == "object" and "additionalProperties" not in schema and not keeps_unknown:
        made["additionalProperties"] = False
    return made


def load_custom_schemas(folder: Path) -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    """Strict validators of the custom resource definitions in a folder, by (apiVersion, kind).

    Raises:
        ConfigError: the folder holds none.
    """
    found = {}
    for file in sorted(folder.glob("*.yaml")):
        definition = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        if definition.get("kind") != "CustomResourceDefinition":
            continue
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            found[key] = jsonschema.Draft202012Validator(schema)
    if not found:
        raise ConfigError(f"{folder} holds no custom resource definition; expected KubeRay's ray.io_*.yaml")
    return found


def _places(validator: jsonschema.Draft202012Validator, value: Any) -> Iterator[tuple[str, str]]:
    for error in validator.iter_errors(value):
        yield ".".join(str(step) for step in error.absolute_path), error.message[:300]


def schema_findings(
    source: str,
    manifest: dict[str, Any],
    custom: dict[tuple[str, str], jsonschema.Draft202012Validator] | None,
) -> list[Finding]:
    """Where one manifest breaks its schema.

    Args:
        source: the overlay, for the message.
        custom: of `load_custom_schemas`; None leaves out KubeRay's own fields, and checks the Pods within alone.
    """
    thing = name_of(manifest)
    kind, api_version = str(manifest.get("kind", "")), str(manifest.get("apiVersion", ""))
    if not api_version.startswith("ray.io/"):
        try:
            validator = _core_validator(kind, api_version)
        except FileNotFoundError:
            return [Finding(source, thing, "kind", f"Kubernetes {KUBERNETES} has no {kind} in {api_version}")]
        return [Finding(source, thing, place, message) for place, message in _places(validator, manifest)]
    findings = []
    if custom is not None:
        if (api_version, kind) not in custom:
            return [Finding(source, thing, "kind", f"KubeRay's schemas have no {kind} in {api_version}")]
        findings += [Finding(source, thing, *found) for found in _places(custom[(api_version, kind)], manifest)]
    # KubeRay's schemas of a Pod and of metadata leave out what Kubernetes checks besides.
    metadata = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": manifest.get("metadata", {})}
    findings += [Finding(source, thing, *found) for found in _places(_core_validator("PodTemplate", "v1"), metadata)]
    for pod in pod_templates(manifest):
        wrapped = metadata | {"template": pod.template}
        for place, message in _places(_core_validator("PodTemplate", "v1"), wrapped):
            if place.startswith("template"):
                findings.append(Finding(source, thing, pod.place + place.removeprefix("template"), message))
    return findings
