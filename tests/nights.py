"""Nights without Ray or a model, for tests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from system.errors import StoreError
from system.pipelines.config import MineConfig
from system.pipelines.mine import describe_model
from system.pipelines.nightly.config import NightlyConfig
from system.pipelines.nightly.outcome import NightResult
from system.pipelines.plan import plan_mining
from system.pipelines.result import MiningResult
from system.store.commits import append_rows
from system.store.ids import committed_ids, quarantined_ids
from system.store.location import StoreLocation
from system.store.runs import RunRecord, write_run
from system.store.schema import SCENES, scenes_schema
from tests.plain_logs import write_plain_log
from tests.unit.test_pixels_on_s3 import bucket  # noqa: F401 - a fixture

TODAY = datetime.now(UTC).date()
DAY, NEXT = TODAY - timedelta(days=2), TODAY - timedelta(days=1)
# Maintenance takes most of the time of a night of so few scenes.
QUICK: dict[str, Any] = {"maintenance": {"enabled": False}}


Night = Callable[..., NightResult]


class Miner:
    """Stands in for `mine_fleet`: rows without any model. fails_after: so many scenes are committed, then it dies."""

    def __init__(self) -> None:
        self.fails_after, self.is_stalled = None, False

    def __call__(self, config: MineConfig, progress, should_stop, listing, remarks, keep_days, run_id) -> MiningResult:
        assert keep_days is None, "a night maintains the store itself, as it is configured"
        location, model = StoreLocation.parse(config.store), describe_model(config)
        settled = committed_ids(location, model.model_id), quarantined_ids(location, model.model_id)
        plan = plan_mining(config, *settled, listing)
        result = MiningResult(run_id, model.model_id, plan.found, 0, plan.already)
        result.quarantined, result.deferred, result.unread = len(plan.bad_logs), plan.deferred, len(plan.unread_logs)
        result.remaining = plan.todo + result.unread
        record = RunRecord(result.run_id, model.model_id, "running", 1, None, None, dict(remarks))
        write_run(location, record)
        for window in (window for chunk in plan.chunks for window in chunk.windows):
            if self.fails_after == result.committed:
                raise StoreError("the disk is full")
            embedding = np.eye(1, model.embedding_dim, dtype=np.float32)[0]
            row = {"scene_id": window.scene_id, "model_id": model.model_id, "run_id": result.run_id,
                   "source": window.log.source, "log_id": window.log.log_id, "log_uri": window.log.uri,
                   "reader": "plain", "t_start_ns": window.t_start_ns, "t_end_ns": window.t_end_ns,
                   "tags": ["night"], "risk": 0.25, "embedding": embedding, "tag_probabilities": [0.5] * 20,
                   "picture_batch": "b"}  # fmt: skip
            append_rows(location, SCENES, pa.Table.from_pylist([row], schema=scenes_schema(model.embedding_dim)))
            result.committed += 1
            result.remaining -= 1
            if result.remaining and should_stop():
                result.stopped, result.stalled = True, self.is_stalled
                break
        report = {**remarks, "figures": result.as_json(), "config": config.model_dump(mode="json")}
        write_run(location, RunRecord(result.run_id, model.model_id, "finished", 1, 2, None, report))
        return result


def settings(root: Path, **more: Any) -> NightlyConfig:
    values = {"logs": [f"{root}/logs/{{date}}"], "store": f"{root}/store", "rank": False} | more
    return NightlyConfig.parse(values, "test")


def upload(root: Path, name: str, day: date = DAY, **options: Any) -> Path:
    return write_plain_log(root / "logs" / str(day), name, cameras=(), **options)


def scenes(root: Path) -> list[dict]:
    return StoreLocation.parse(f"{root}/store").dataset(SCENES).to_table().to_pylist()
