"""A small store of real or drawn logs, made without Ray and without a model: what mining would have left."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from system.logs.reader import BadLog
from system.logs.registry import discover, list_logs, read_log
from system.logs.windows import WindowConfig, cut_window, list_windows
from system.miner.kinematics import KinematicConfig
from system.miner.motion_tags import motion_tags
from system.miner.risk import RiskConfig
from system.miner.scene_risk import score_scene
from system.store.commits import append_rows
from system.store.location import StoreLocation
from system.store.maintain import tag_version
from system.store.runs import RunRecord, write_run
from system.store.schema import SCENES, scenes_schema
from system.store.tables import ModelRow, open_for_writing

DIM = 8
MODEL = ModelRow("m1", "packaged", "tower-1", None, DIM, ("night", "rain"), "{}")
RUN_ID = "r1"


def mine_without_model(logs: Path, store: Path, windows: WindowConfig | None = None) -> StoreLocation:
    """One row a window of every log below `logs`; tags and embeddings are drawn, risk is physics."""
    windows = windows or WindowConfig()
    location = StoreLocation.parse(str(store))
    open_for_writing(location, MODEL)
    rng = np.random.default_rng(0)
    rows = []
    for found in discover(str(logs))[0]:
        for ref in list_logs(found):
            assert not isinstance(ref, BadLog), ref
            log = read_log(ref)
            for window in list_windows(ref, windows):
                scene = cut_window(log, window, windows)
                risk = score_scene(scene, RiskConfig(), KinematicConfig())
                embedding = rng.normal(size=DIM).astype(np.float32)
                rows.append(
                    {
                        "scene_id": window.scene_id,
                        "model_id": MODEL.model_id,
                        "run_id": RUN_ID,
                        "source": ref.source,
                        "log_id": ref.log_id,
                        "log_uri": ref.uri,
                        "reader": ref.reader,
                        "t_start_ns": window.t_start_ns,
                        "t_end_ns": window.t_end_ns,
                        "cameras": sorted({frame.camera for frame in scene.frames}),
                        "num_pictures": len(scene.frames),
                        "num_bad_pictures": 0,
                        "flags": list(scene.flags),
                        "description": scene.description,
                        "truth_tags": list(scene.truth_tags),
                        "embedding": embedding / np.linalg.norm(embedding),
                        "tag_probabilities": [0.75, 0.25],
                        "track_tags": json.dumps(motion_tags(scene)),
                        "tags": ["night"],
                        "risk": risk.risk,
                        "risk_source": risk.source,
                        "physics_risk": risk.risk,
                        "physics_source": risk.source,
                        "risk_detail": json.dumps(asdict(risk)),
                        "min_ttc_s": risk.min_ttc_s,
                        "picture_batch": "b1",
                    }
                )
    append_rows(location, SCENES, pa.Table.from_pylist(rows, schema=scenes_schema(DIM)))
    report = {"config": {"windows": windows.model_dump(mode="json")}}
    write_run(location, RunRecord(RUN_ID, MODEL.model_id, "finished", 1, 2, None, report))
    tag_version(location, f"run-{RUN_ID}")
    return location
