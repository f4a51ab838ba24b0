"""The Pods that a manifest would start, wherever in it they are described."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PodTemplate:
    """One Pod template: its place in the manifest, what it says, and the labels that its Pods will carry."""

    place: str
    template: dict[str, Any]
    labels: dict[str, str]

    @property
    def spec(self) -> dict[str, Any]:
        return self.template["spec"]

    def containers(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Containers and those that run first, with their places."""
        for group in ("initContainers", "containers"):
            for position, container in enumerate(self.spec.get(group) or []):
                yield f"{self.place}.spec.{group}.{position}".strip("."), container


def pod_templates(value: Any, place: str = "") -> Iterator[PodTemplate]:
    """Every Pod template in a manifest. Ray's Pods carry the node type that KubeRay adds."""
    if isinstance(value, dict):
        spec = value.get("spec")
        if isinstance(spec, dict) and "containers" in spec:
            labels = dict((value.get("metadata") or {}).get("labels") or {})
            if "headGroupSpec" in place:
                labels["ray.io/node-type"] = "head"
            elif "workerGroupSpecs" in place:
                labels["ray.io/node-type"] = "worker"
            yield PodTemplate(place, value, labels)
            return
        for name, part in value.items():
            yield from pod_templates(part, f"{place}.{name}".strip("."))
    elif isinstance(value, list):
        for position, part in enumerate(value):
            yield from pod_templates(part, f"{place}.{position}")


def ray_clusters(value: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every RayCluster that a manifest describes, with its place."""
    if isinstance(value, dict):
        if "headGroupSpec" in value:
            yield place, value
            return
        for name, part in value.items():
            yield from ray_clusters(part, f"{place}.{name}".strip("."))
