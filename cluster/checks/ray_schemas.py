"""What Ray itself says of our files: the launcher's schema for `ray up`, and Serve's for the RayService."""

from __future__ import annotations

import copy
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from botocore.exceptions import ParamValidationError
from botocore.session import Session
from botocore.validate import validate_parameters
from pydantic import ValidationError

from cluster.checks.finding import Finding


def launcher_findings(path: Path, ray_version: str) -> list[Finding]:
    """Where a file for `ray up` breaks Ray's schema, cannot be prepared, or asks EC2 for what it does not know.

    Nothing leaves this machine: what asks the cloud (images, subnets, keys) comes after `prepare_config`.
    """
    import ray
    from ray.autoscaler._private.util import prepare_config, validate_config

    source = path.name
    config = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    findings = []
    if ray.__version__ != ray_version:
        findings.append(Finding(source, "ray", "", f"is {ray.__version__}, constraints.txt has {ray_version}"))
    try:
        prepared = prepare_config(copy.deepcopy(config))
        validate_config(prepared)
    except (ValueError, AssertionError, KeyError) as error:
        return [*findings, Finding(source, "ray up", "", str(error)[:300])]
    except jsonschema.ValidationError as error:
        place = ".".join(str(step) for step in error.absolute_path)
        return [*findings, Finding(source, "ray up", place, error.message[:300])]
    head = prepared["head_node_type"]
    for name, node in prepared["available_node_types"].items():
        place = f"available_node_types.{name}"
        if name == head and node.get("resources", {}).get("CPU") != 0:
            findings.append(Finding(source, "ray up", place, "the head must offer CPU: 0"))
        if name != head and node["min_workers"] != 0:
            findings.append(Finding(source, "ray up", place, "must start at min_workers: 0"))
        if prepared["provider"]["type"] == "aws":
            findings += [Finding(source, "ray up", place, fault) for fault in _ec2_faults(node["node_config"])]
    if not any("RAY_AUTH_MODE=token" in option for option in prepared["docker"].get("run_options", [])):
        findings.append(Finding(source, "ray up", "docker.run_options", "must set RAY_AUTH_MODE=token"))
    return findings


@cache
def _run_instances_shape() -> Any:
    return Session().get_service_model("ec2").operation_model("RunInstances").input_shape


def _ec2_faults(node_config: dict[str, Any]) -> list[str]:
    """What EC2's own description of RunInstances does not know, and keys that do not belong in a file."""
    faults = []
    try:
        validate_parameters({"MinCount": 1, "MaxCount": 1} | node_config, _run_instances_shape())
    except ParamValidationError as error:
        faults.append(str(error)[:300])
    if "IamInstanceProfile" not in node_config:
        faults.append("IamInstanceProfile is missing; rights come from the machine's role, not from keys")
    if node_config.get("MetadataOptions", {}).get("HttpTokens") != "required":
        faults.append("MetadataOptions.HttpTokens must be required (IMDSv2)")
    return faults


def serve_findings(source: str, manifest: dict[str, Any]) -> list[Finding]:
    """Where a RayService's `serveConfigV2` breaks Serve's own schema."""
    if manifest.get("kind") != "RayService":
        return []
    with warnings.catch_warnings():  # of pydantic, about how Ray's own module uses it
        warnings.simplefilter("ignore", DeprecationWarning)
        from ray.serve.schema import ServeDeploySchema
    config = yaml.load(manifest["spec"].get("serveConfigV2") or "{}", Loader=yaml.CSafeLoader)
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        return [
            Finding(source, "RayService", f"serveConfigV2.{'.'.join(map(str, fault['loc']))}", fault["msg"])
            for fault in error.errors()
        ]
    return []
