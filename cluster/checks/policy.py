"""What we ask of our own manifests beyond their schemas. Each rule has burnt somebody."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from cluster.checks.finding import Finding, name_of
from cluster.checks.pods import PodTemplate, pod_templates, ray_clusters

# Made by hand or by a secret operator before the first `apply`; the README says what each holds.
SECRETS = frozenset({"gcs-store", "nightly-webhook", "object-store", "serve-tokens"})
_SECRET_WORDS = re.compile(r"TOKEN|PASSWORD|SECRET|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
_KUBERAY_NAME = re.compile(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?")  # DNS label of at most 47: KubeRay adds to it
_VERSIONED = re.compile(r"@sha256:|:(?!latest$)[^:/]+$")
_GPU = "nvidia.com/gpu"


def container_faults(container: dict[str, Any]) -> Iterator[str]:
    """What a container may not leave open."""
    security = container.get("securityContext") or {}
    if security.get("allowPrivilegeEscalation") is not False:
        yield "securityContext.allowPrivilegeEscalation must be false"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "securityContext.readOnlyRootFilesystem must be true; mount an emptyDir where it writes"
    if "ALL" not in ((security.get("capabilities") or {}).get("drop") or []):
        yield "securityContext.capabilities.drop must have ALL"
    if security.get("privileged"):
        yield "securityContext.privileged is not allowed"
    resources = container.get("resources") or {}
    for bound in ("requests", "limits"):
        for what in ("cpu", "memory", "ephemeral-storage"):
            if what not in (resources.get(bound) or {}):
                yield f"resources.{bound}.{what} is missing"
    image = container.get("image")
    if image is not None and not _VERSIONED.search(image):
        yield f"image {image} names no version"
    for variable in container.get("env") or []:
        if "value" in variable and _SECRET_WORDS.search(variable["name"]):
            yield f"env {variable['name']} holds a secret as text; refer to a Secret by secretKeyRef"


def pod_faults(spec: dict[str, Any]) -> Iterator[str]:
    """What a Pod may not leave open."""
    security = spec.get("securityContext") or {}
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        yield "securityContext must have runAsNonRoot: true and a runAsUser other than 0"
    if (security.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
        yield "securityContext.seccompProfile.type must be RuntimeDefault"
    if not spec.get("serviceAccountName"):
        yield "serviceAccountName is missing; the default account belongs to everybody"
    if not isinstance(spec.get("automountServiceAccountToken"), bool):
        yield "automountServiceAccountToken must be said: true only where the API server is asked"
    for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(forbidden):
            yield f"{forbidden} is not allowed"
    for volume in spec.get("volumes") or []:
        if "hostPath" in volume:
            yield f"volume {volume['name']} is a hostPath"
        if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
            yield f"emptyDir {volume['name']} has no sizeLimit"


def _pod_findings(source: str, manifest: dict[str, Any]) -> Iterator[Finding]:
    thing = name_of(manifest)
    for pod in pod_templates(manifest):
        yield from (Finding(source, thing, pod.place, fault) for fault in pod_faults(pod.spec))
        for place, container in pod.containers():
            yield from (Finding(source, thing, place, fault) for fault in container_faults(container))
    for place, ray in ray_clusters(manifest):
        options = ray.get("autoscalerOptions") or {}
        for fault in container_faults(options):
            yield Finding(source, thing, f"{place}.autoscalerOptions", fault)


def _ray_faults(ray: dict[str, Any], ray_version: str) -> Iterator[tuple[str, str]]:
    """What KubeRay's operator would refuse, and what would cost money or let strangers in."""
    if str(ray.get("rayVersion")) != ray_version:
        yield "rayVersion", f"is {ray.get('rayVersion')}, constraints.txt has {ray_version}"
    if (ray.get("authOptions") or {}).get("mode") != "token":
        yield "authOptions.mode", "must be token: without it whoever reaches the dashboard runs code"
    if ray.get("enableInTreeAutoscaling") is not True:
        yield "enableInTreeAutoscaling", "must be true"
    if (ray.get("autoscalerOptions") or {}).get("version") != "v2":
        yield "autoscalerOptions.version", "must be v2"
    head = ray["headGroupSpec"]
    if (head.get("rayStartParams") or {}).get("num-cpus") != "0":
        yield "headGroupSpec.rayStartParams.num-cpus", 'must be "0": a task that starves the head ends the cluster'
    head_account = head["template"]["spec"].get("serviceAccountName")
    if head["template"]["spec"].get("automountServiceAccountToken") is not True:
        yield "headGroupSpec.template.spec.automountServiceAccountToken", "must be true: the autoscaler needs it"
    groups = [("headGroupSpec", head)]
    groups += [(f"workerGroupSpecs.{at}", group) for at, group in enumerate(ray.get("workerGroupSpecs") or [])]
    for place, group in groups:
        spec = group["template"]["spec"]
        if spec.get("restartPolicy", "Never") != "Never":
            yield f"{place}.template.spec.restartPolicy", "must be Never with autoscaler v2"
        if place == "headGroupSpec":
            continue
        least, now, most = (group.get(name, 0) for name in ("minReplicas", "replicas", "maxReplicas"))
        if not 0 <= least <= now <= most:
            yield place, f"expected minReplicas <= replicas <= maxReplicas, got {least}, {now}, {most}"
        if _GPU in spec["containers"][0].get("resources", {}).get("limits", {}) and (least, now) != (0, 0):
            yield place, f"GPUs start at 0 and come when asked for; got minReplicas {least}, replicas {now}"
        if spec.get("serviceAccountName") == head_account or spec.get("automountServiceAccountToken") is not False:
            yield place, "workers must not share the head's account or token, which may create Pods"


def _ray_findings(source: str, manifest: dict[str, Any], ray_version: str) -> Iterator[Finding]:
    thing = name_of(manifest)
    for place, ray in ray_clusters(manifest):
        for inner, fault in _ray_faults(ray, ray_version):
            yield Finding(source, thing, f"{place}.{inner}", fault)
        if manifest["kind"] == "RayService" and not ray.get("gcsFaultToleranceOptions"):
            yield Finding(source, thing, place, "gcsFaultToleranceOptions are missing: a dead head would end serving")
    if str(manifest.get("apiVersion", "")).startswith("ray.io/"):
        name = (manifest.get("metadata") or {}).get("name") or ""
        if not _KUBERAY_NAME.fullmatch(name):
            yield Finding(source, thing, "metadata.name", "must be a DNS label of at most 47 characters")


def _named(value: Any, keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(key, name) of every `key: {name: ...}` or `key: name` in a manifest."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key in keys:
                name = part if isinstance(part, str) else (part or {}).get("name") or (part or {}).get("secretName")
                yield key, str(name)
            yield from _named(part, keys)
    elif isinstance(value, list):
        for part in value:
            yield from _named(part, keys)


def _reference_findings(source: str, manifests: list[dict[str, Any]]) -> Iterator[Finding]:
    """Names that lead nowhere, and secrets as text."""
    there = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    kinds = {"configMap": "ConfigMap", "configMapKeyRef": "ConfigMap", "configMapRef": "ConfigMap"}
    kinds["serviceAccountName"] = "ServiceAccount"
    for manifest in manifests:
        thing = name_of(manifest)
        if manifest["kind"] == "Secret":
            yield Finding(source, thing, "", "secrets are referred to, never shipped")
        for key, name in _named(manifest, kinds):
            if (kinds[key], name) not in there:
                yield Finding(source, thing, key, f"there is no {kinds[key]} {name}")
        for key, name in _named(manifest, ("secretKeyRef", "secretRef", "secret")):
            if name not in SECRETS:
                yield Finding(source, thing, key, f"Secret {name} is not among those that the README asks for")


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector of Kubernetes matches labels; an empty one matches all.

    Knows `matchLabels` and the operator `In`, which is all that is used here.
    """
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for rule in selector.get("matchExpressions") or []:
        if rule["operator"] != "In":
            raise ValueError(f"selector operator {rule['operator']} is not known to this check")
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True


def _network_findings(source: str, manifests: list[dict[str, Any]]) -> Iterator[Finding]:
    """Pods that no rule speaks of, and rules or budgets that speak of no Pod."""
    pods: list[tuple[str, PodTemplate]] = [
        (name_of(manifest), pod) for manifest in manifests for pod in pod_templates(manifest)
    ]
    policies = [manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    closed = [
        policy
        for policy in policies
        if not policy["spec"]["podSelector"]
        and set(policy["spec"].get("policyTypes") or []) == {"Ingress", "Egress"}
        and not policy["spec"].get("ingress")
        and not policy["spec"].get("egress")
    ]
    if pods and not closed:
        yield Finding(source, "NetworkPolicy", "", "no policy closes all of the namespace's Pods to begin with")
    for thing, pod in pods:
        if not any(p["spec"]["podSelector"] and selects(p["spec"]["podSelector"], pod.labels) for p in policies):
            yield Finding(source, thing, pod.place, f"no NetworkPolicy of its own selects labels {pod.labels}")
    budgets = [manifest for manifest in manifests if manifest["kind"] == "PodDisruptionBudget"]
    for manifest in policies + budgets:
        selector = manifest["spec"]["podSelector" if manifest["kind"] == "NetworkPolicy" else "selector"]
        if pods and not any(selects(selector, pod.labels) for _, pod in pods):
            yield Finding(source, name_of(manifest), "spec", f"selects no Pod of this overlay: {selector}")
        if manifest["kind"] == "PodDisruptionBudget" and not isinstance(manifest["spec"].get("minAvailable"), int):
            yield Finding(source, name_of(manifest), "spec", "Ray's Pods can only be counted by a whole minAvailable")


def policy_findings(source: str, manifests: list[dict[str, Any]], ray_version: str) -> list[Finding]:
    """Where an overlay breaks our rules.

    Args:
        source: the overlay, for the message.
        manifests: all of its objects; references and selectors are looked up among them.
        ray_version: the version in constraints.txt.
    """
    findings: list[Finding] = []
    for manifest in manifests:
        findings += _pod_findings(source, manifest)
        findings += _ray_findings(source, manifest, ray_version)
    findings += _reference_findings(source, manifests)
    findings += _network_findings(source, manifests)
    return findings
