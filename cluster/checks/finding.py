"""What a check found wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One fault: in which file or overlay, on which object, at which place in it, and what to do."""

    source: str
    thing: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.source}: {self.thing} at {self.place or 'its root'}: {self.message}"


def name_of(manifest: dict[str, Any]) -> str:
    """`Kind/name`, with what is missing left open."""
    metadata = manifest.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"{manifest.get('kind', '?')}/{name or '?'}"
