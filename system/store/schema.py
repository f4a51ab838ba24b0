"""The tables of a store and their Arrow schemas. Conventions as in `system.records`."""

from __future__ import annotations

import pyarrow as pa

SCENES, PICTURES, QUARANTINE, RUNS, MODELS = "scenes", "thumbnails", "quarantine", "runs", "models"

# Filled by ranking, once the whole store is known; null until then.
RANKING_COLUMNS = ("rarity", "risk_rank", "ambiguity_rank", "rarity_rank", "hardness", "ranked_among")


def scenes_schema(embedding_dim: int) -> pa.Schema:
    """One row a scene and model.

    risk is in [0, 1) and `risk_source` says whether it comes from the trained "head", from "tracks" or from the "ego"
    motion; `physics_risk` is the physics score where there is one. ambiguity is in metres; ranks and hardness are in
    [0, 1]. `tags` holds the names that count as present: those that tracks decide, and of the others those of the
    model. `picture_batch` names the pictures of this row in the table `thumbnails`. `ranked_among`: of how many
    scenes the ranks are percentiles.
    """
    return pa.schema(
        [
            pa.field("scene_id", pa.string(), nullable=False),
            pa.field("model_id", pa.string(), nullable=False),
            pa.field("run_id", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("log_id", pa.string(), nullable=False),
            pa.field("log_uri", pa.string(), nullable=False),
            pa.field("reader", pa.string(), nullable=False),
            pa.field("t_start_ns", pa.int64(), nullable=False),
            pa.field("t_end_ns", pa.int64(), nullable=False),
            pa.field("cameras", pa.list_(pa.string())),
            pa.field("num_pictures", pa.int32()),
            pa.field("num_bad_pictures", pa.int32()),
            pa.field("flags", pa.list_(pa.string())),
            pa.field("description", pa.string()),
            pa.field("truth_tags", pa.list_(pa.string())),
            pa.field("embedding", pa.list_(pa.float32(), embedding_dim)),
            pa.field("tag_probabilities", pa.list_(pa.float32())),
            pa.field("track_tags", pa.string()),
            pa.field("tags", pa.list_(pa.string())),
            pa.field("risk", pa.float32()),
            pa.field("risk_source", pa.string()),
            pa.field("physics_risk", pa.float32()),
            pa.field("physics_source", pa.string()),
            pa.field("risk_detail", pa.string()),
            pa.field("min_ttc_s", pa.float32()),
            pa.field("ambiguity", pa.float32()),
            pa.field("birds_eye", pa.string()),
            pa.field("picture_batch", pa.string()),
            pa.field("rarity", pa.float32()),
            pa.field("risk_rank", pa.float32()),
            pa.field("ambiguity_rank", pa.float32()),
            pa.field("rarity_rank", pa.float32()),
            pa.field("hardness", pa.float32()),
            pa.field("ranked_among", pa.int64()),
        ]
    )


def pictures_schema() -> pa.Schema:
    """Small pictures of a scene, apart from the vectors; the blob encoding keeps them out of scans."""
    return pa.schema(
        [
            pa.field("picture_batch", pa.string(), nullable=False),
            pa.field("scene_id", pa.string(), nullable=False),
            pa.field("camera", pa.string(), nullable=False),
            pa.field("t_ns", pa.int64(), nullable=False),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("jpeg", pa.large_binary(), metadata={"lance-encoding:blob": "true"}),
        ]
    )


def quarantine_schema() -> pa.Schema:
    """What could not be mined, and why. `level` is "log", "scene" or "frame"; only scenes and logs count as lost."""
    return pa.schema(
        [
            pa.field("quarantine_id", pa.string(), nullable=False),
            pa.field("level", pa.string(), nullable=False),
            pa.field("scene_id", pa.string()),
            pa.field("model_id", pa.string(), nullable=False),
            pa.field("run_id", pa.string(), nullable=False),
            pa.field("source", pa.string()),
            pa.field("log_id", pa.string()),
            pa.field("uri", pa.string()),
            pa.field("stage", pa.string(), nullable=False),
            pa.field("code", pa.string(), nullable=False),
            pa.field("message", pa.string(), nullable=False),
        ]
    )


def runs_schema() -> pa.Schema:
    """One row a run; `report` is JSON with the counts, stages, configuration and git commit."""
    return pa.schema(
        [
            pa.field("run_id", pa.string(), nullable=False),
            pa.field("model_id", pa.string(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("started_ns", pa.int64(), nullable=False),
            pa.field("ended_ns", pa.int64()),
            pa.field("table_version", pa.int64()),
            pa.field("report", pa.string(), nullable=False),
        ]
    )


def models_schema() -> pa.Schema:
    """The models whose rows the store holds; `config` and `tags` explain a row without the model at hand."""
    return pa.schema(
        [
            pa.field("model_id", pa.string(), nullable=False),
            pa.field("tower", pa.string(), nullable=False),
            pa.field("tower_id", pa.string(), nullable=False),
            pa.field("model_path", pa.string()),
            pa.field("embedding_dim", pa.int32(), nullable=False),
            pa.field("tag_names", pa.list_(pa.string()), nullable=False),
            pa.field("config", pa.string(), nullable=False),
        ]
    )
