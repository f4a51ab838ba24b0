"""Search scenes by vector, by filter, or by both."""

from __future__ import annotations

from typing import Any

import lance
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from system.config import FrozenConfig
from system.errors import ConfigError, StoreError
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.nearest import nearest_rows
from system.store.runs import read_runs, run_shown
from system.store.schema import SCENES
from system.store.tables import read_models

COLUMNS = (
    "scene_id", "model_id", "log_id", "source", "t_start_ns", "t_end_ns", "cameras", "num_pictures", "flags",
    "description", "truth_tags", "tags", "tag_probabilities", "risk", "risk_source", "ambiguity", "rarity",
    "risk_rank", "ambiguity_rank", "rarity_rank", "hardness", "ranked_among", "risk_detail",
    "track_tags",
)  # fmt: skip


class SearchConfig(FrozenConfig):
    """top: how many results. hardness_weight: share of hardness in the hybrid score, the rest is similarity."""

    top: int = Field(default=10, ge=1, le=10_000)
    hardness_weight: float = Field(default=0.0, ge=0, le=1)


def searched_model(location: StoreLocation, tag: str | None = None) -> dict[str, Any]:
    """The model that a search of the table, or of its tagged version, means when it names none; as of `run_shown`.

    Raises:
        StoreError: the store is empty.
    """
    run = run_shown(read_runs(location), tag)
    if run is None:
        raise StoreError(f"{location.uri}: no run has mined into this store yet")
    return next(model for model in read_models(location) if model["model_id"] == run.model_id)


def search_scenes(
    location: StoreLocation,
    query_E: NDArray[np.float32] | None,
    where: SceneFilter,
    config: SearchConfig,
    tag: str | None = None,
) -> list[dict[str, Any]]:
    """Scenes that pass the filter, best first.

    Args:
        query_E: with it, scenes are ordered by (1 - w) * cosine similarity + w * hardness; without it by hardness.
        tag: ask the table's tagged version of an earlier run and not the newest.
    Returns:
        One mapping a scene: COLUMNS, and `score`.
    Raises:
        ConfigError: the query's width is not the store's; an unknown table tag.
    """
    if query_E is None:
        return _by_hardness(location, where, config.top, tag)
    dataset = scenes_version(location, tag)
    width = dataset.schema.field("embedding").type.list_size
    if query_E.shape != (width,):
        raise ConfigError(f"the query has shape {query_E.shape}, the store's embeddings have {width} numbers")
    # A hybrid score needs candidates that similarity alone would not bring.
    depth = config.top if config.hardness_weight == 0 else max(20 * config.top, 200)
    rows = nearest_rows(dataset, query_E, where.to_sql(), depth, COLUMNS).to_pylist()
    weight = config.hardness_weight
    for row in rows:
        similarity = 1.0 - row.pop("_distance")
        row["score"] = (1 - weight) * similarity + weight * (row["hardness"] or 0.0)
    return sorted(rows, key=lambda row: (-row["score"], row["scene_id"]))[: config.top]


def hardest_scene_ids(
    location: StoreLocation, where: SceneFilter, top: int | None = None, tag: str | None = None
) -> list[str]:
    """Ids of the scenes that pass the filter, hardest first; of all of them, where `top` is None.

    Two narrow columns are scanned.

    Raises:
        ConfigError: an unknown table tag.
    """
    found = scenes_version(location, tag).to_table(columns=["scene_id", "hardness"], filter=where.to_sql())
    hardness = np.nan_to_num(found["hardness"].to_numpy().astype(np.float64), nan=-1.0)
    return found["scene_id"].take(np.argsort(-hardness, kind="stable")[:top]).to_pylist()


def scenes_version(location: StoreLocation, tag: str | None) -> lance.LanceDataset:
    """The table of scenes, as it is or as it was tagged.

    Raises:
        ConfigError: there is no such tag; names those there are.
    """
    dataset = location.dataset(SCENES)
    if tag is None:
        return dataset
    known = dataset.tags.list()
    if tag not in known:
        raise ConfigError(f"{location.uri} has no table version tagged {tag!r}; it has {', '.join(sorted(known))}")
    return dataset.checkout_version(tag)


def _by_hardness(location: StoreLocation, where: SceneFilter, top: int, tag: str | None) -> list[dict[str, Any]]:
    """The hardest scenes that pass; rows are fetched for the winners."""
    winners = hardest_scene_ids(location, where, top, tag)
    if not winners:
        return []
    chosen = SceneFilter(scene_ids=tuple(winners), model_id=where.model_id)
    rows = scenes_version(location, tag).to_table(columns=list(COLUMNS), filter=chosen.to_sql()).to_pylist()
    for row in rows:
        row["score"] = row["hardness"]
    return sorted(rows, key=lambda row: (-(row["score"] if row["score"] is not None else -1.0), row["scene_id"]))


def tag_names(location: StoreLocation) -> tuple[str, ...]:
    """Every tag that a scene of this store may carry."""
    names: dict[str, None] = {}
    for model in read_models(location):
        names.update(dict.fromkeys(model["tag_names"]))
    return tuple(names)


def embedding_of(location: StoreLocation, scene_id: str, model_id: str, tag: str | None = None) -> NDArray[np.float32]:
    """A scene's own embedding, float32 [E], of the table or of its tagged version.

    Raises:
        ConfigError: no such scene, one without pictures, or an unknown table tag.
    """
    where = SceneFilter(scene_ids=(scene_id,), model_id=model_id).to_sql()
    rows = scenes_version(location, tag).to_table(columns=["embedding"], filter=where)["embedding"].to_pylist()
    if not rows:
        raise ConfigError(f"{location.uri}: no scene {scene_id!r}")
    if rows[0] is None:
        raise ConfigError(f"scene {scene_id} has no pictures, hence no embedding to search with")
    return np.array(rows[0], dtype=np.float32)
