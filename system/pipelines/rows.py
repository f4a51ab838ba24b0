"""The row that travels between the stages of mining, one a scene, with the pictures as the tower takes them."""

from __future__ import annotations

import pyarrow as pa

FAULT = pa.struct(
    [
        pa.field("level", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("code", pa.string()),
        pa.field("message", pa.string()),
    ]
)

PICTURE = pa.struct(
    [
        pa.field("camera", pa.string()),
        pa.field("t_ns", pa.int64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("jpeg", pa.large_binary()),
    ]
)

# Columns of the store that reading fills; the names are those of `system.store.schema.scenes_schema`.
_SCENE_FIELDS = [
    pa.field("scene_id", pa.string()),
    pa.field("source", pa.string()),
    pa.field("log_id", pa.string()),
    pa.field("log_uri", pa.string()),
    pa.field("reader", pa.string()),
    pa.field("t_start_ns", pa.int64()),
    pa.field("t_end_ns", pa.int64()),
    pa.field("cameras", pa.list_(pa.string())),
    pa.field("num_pictures", pa.int32()),
    pa.field("num_bad_pictures", pa.int32()),
    pa.field("flags", pa.list_(pa.string())),
    pa.field("description", pa.string()),
    pa.field("truth_tags", pa.list_(pa.string())),
    pa.field("track_tags", pa.string()),
    pa.field("physics_risk", pa.float32()),
    pa.field("physics_source", pa.string()),
    pa.field("risk_detail", pa.string()),
    pa.field("min_ttc_s", pa.float32()),
    pa.field("birds_eye", pa.string()),
]

CARRIED = [
    *_SCENE_FIELDS,
    pa.field("is_bad", pa.bool_()),
    pa.field("faults", pa.list_(FAULT)),
    pa.field("pictures", pa.list_(PICTURE)),
    pa.field("read_s", pa.float64()),
]

# images: uint8 [M, H, W, 3] of the scene's M pictures; the other columns are what the miner's batch takes, flattened.
READ_SCHEMA = pa.schema(
    [
        *CARRIED,
        pa.field("images", pa.large_binary()),
        pa.field("time_s", pa.list_(pa.float32())),
        pa.field("intrinsics", pa.list_(pa.float32())),
        pa.field("ego_from_camera", pa.list_(pa.float32())),
        pa.field("is_calibrated", pa.list_(pa.bool_())),
        pa.field("ego", pa.list_(pa.float32())),
    ]
)


def mined_schema(embedding_dim: int) -> pa.Schema:
    """A scene after the forward pass: no pixels but the small pictures."""
    return pa.schema(
        [
            *CARRIED,
            pa.field("embedding", pa.list_(pa.float32(), embedding_dim)),
            pa.field("tag_probabilities", pa.list_(pa.float32())),
            pa.field("tags", pa.list_(pa.string())),
            pa.field("risk", pa.float32()),
            pa.field("risk_source", pa.string()),
            pa.field("ambiguity", pa.float32()),
            pa.field("forward_s", pa.float64()),
            pa.field("forward_began_s", pa.float64()),
        ]
    )


# What reaches the driver of a batch: fragment metadata, ids and faults.
WRITTEN_SCHEMA = pa.schema(
    [
        pa.field("scene_fragments", pa.list_(pa.string())),
        pa.field("picture_fragments", pa.list_(pa.string())),
        pa.field("scene_ids", pa.list_(pa.string())),
        pa.field("faults", pa.list_(pa.struct([*_SCENE_FIELDS[:3], *FAULT]))),
        pa.field("images", pa.int64()),
        pa.field("read_s", pa.float64()),
        pa.field("forward_s", pa.float64()),
        pa.field("forward_began_s", pa.float64()),
        pa.field("write_s", pa.float64()),
        # Why the store could not take the batch; as an exception it would come as a page of Ray's traceback.
        pa.field("store_problem", pa.string()),
    ]
)
