"""Where an export comes from: written into it, so that whoever gets the folder can tell."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from system.store.location import StoreLocation
from system.store.runs import git_commit

# What the makers of public data sets ask, by the source that our readers give. A fleet's own logs: as the user states.
_PUBLISHED = {
    "nuscenes-v1.0-mini": "nuScenes terms of use, CC BY-NC-SA 4.0",
    "nuscenes-v1.0-trainval": "nuScenes terms of use, CC BY-NC-SA 4.0",
    "nuscenes-v1.0-test": "nuScenes terms of use, CC BY-NC-SA 4.0",
}
NOT_STATED = "not stated"


def describe_export(
    location: StoreLocation,
    table_version: int,
    version_tag: str | None,
    model: Mapping[str, Any],
    query: Mapping[str, Any],
    sources: Mapping[str, int],
    runs: list[str],
    licence: str,
    format_name: str,
) -> dict[str, Any]:
    """What `export.json` says, and COCO's `info` and others repeat.

    Args:
        sources: scenes by source. licence: in the user's words, of sources whose licence is not published.
    """
    return {
        "format": format_name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "store": location.uri,
        "table_version": table_version,
        "version_tag": version_tag,
        "query": dict(query),
        "model": {name: model[name] for name in ("model_id", "tower", "tower_id", "model_path")},
        "runs": runs,
        "code": git_commit(),
        "sources": {
            source: {"scenes": count, "licence": _PUBLISHED.get(source, licence)} for source, count in sources.items()
        },
    }
