"""A storage that does not answer while scenes are read costs none of them: the next run mines them, each whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from system.pipelines.committing import SceneCommitter
from system.pipelines.config import MineConfig
from system.pipelines.mine import describe_model, plan_only
from system.pipelines.quarantine import QuarantineWriter
from system.pipelines.reading import ReadSettings, read_chunk
from system.pipelines.result import MiningResult
from system.pipelines.writing import _faults
from system.store.ids import committed_ids
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.schema import QUARANTINE
from system.store.tables import open_for_writing
from tests.plain_logs import write_plain_log


@pytest.fixture
def config(tmp_path: Path) -> MineConfig:
    write_plain_log(tmp_path / "logs", "a")
    config = MineConfig(logs=(str(tmp_path / "logs"),), store=str(tmp_path / "store"))
    open_for_writing(StoreLocation.parse(config.store), describe_model(config))
    return config


def keep_back(monkeypatch: pytest.MonkeyPatch, camera: str) -> None:
    """Pictures of which cameras the storage refuses from now on."""
    answer = LocalFileSystem.cat_ranges

    def cat_ranges(self: Any, paths: list[str], *args: Any, **options: Any) -> list[Any]:
        given = answer(self, paths, *args, **options)
        refused = PermissionError("the token has expired")
        return [refused if camera in path else data for path, data in zip(paths, given, strict=True)]

    monkeypatch.setattr(LocalFileSystem, "cat_ranges", cat_ranges)


def run(config: MineConfig, run_id: str) -> MiningResult:
    """Read what is to do, and take down the scenes that could not be read."""
    location, model_id = StoreLocation.parse(config.store), describe_model(config).model_id
    settings = ReadSettings((64, 64), config.windows, config.limits, config.thumbnails, config.risk, config.kinematics)
    plan = plan_only(config)
    result = MiningResult(run_id, model_id, found=plan.found, quarantined=plan.quarantined_before, remaining=plan.todo)
    with Lease(location, run_id) as lease:
        quarantine, held = QuarantineWriter(location, model_id, run_id), committed_ids(location, model_id)
        committer = SceneCommitter(location, lease, quarantine, held, result, lambda *_: None)
        for chunk in plan.chunks:
            rows = read_chunk(chunk, settings, None)
            committer.add(
                {"scene_ids": [], "scene_fragments": [], "picture_fragments": [], "faults": _faults(rows), "images": 0,
                 "read_s": 0.0, "forward_s": 0.0, "write_s": 0.0, "store_problem": None}
            )  # fmt: skip
        committer.flush()
    return result


@pytest.mark.parametrize("camera", ["CAM_", "CAM_BACK"])
def test_scenes_of_an_outage_are_left_for_the_next_run(config, monkeypatch, camera: str):
    quarantine = StoreLocation.parse(config.store)
    keep_back(monkeypatch, camera)
    first = run(config, "r1")
    assert (first.unread, first.remaining, first.quarantined, first.unaccounted) == (2, 2, 0, 0)
    rows = quarantine.dataset(QUARANTINE).count_rows()
    assert run(config, "r2").unread == 2 and quarantine.dataset(QUARANTINE).count_rows() == rows, "told once"
    monkeypatch.undo()
    assert (plan_only(config).todo, plan_only(config).quarantined_before) == (2, 0)
    assert run(config, "r3").unread == 0


def test_a_log_whose_tables_storage_keeps_back_is_left_and_a_damaged_one_is_not(config, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise TimeoutError("no answer")

    monkeypatch.setattr("system.pipelines.reading.read_log", refuse)
    assert (run(config, "r1").unread, plan_only(config).todo) == (2, 2)
    monkeypatch.undo()
    for path in Path(config.logs[0]).rglob("*.jpg"):
        path.write_bytes(b"\xff\xd8no picture")
    assert (run(config, "r2").quarantined, plan_only(config).todo) == (2, 0)
