"""A storage that does not answer while scenes are read costs none of them: the next run mines them, each whole."""

from __future__ import annotations

import errno
import io
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from mcap.reader import make_reader
from PIL import Image

from system.errors import LASTING_OUTAGE, OUTAGE_CODES, DataError
from system.logs.pixels import PictureLimits, read_window_pictures
from system.logs.registry import discover, list_logs, read_log
from system.pipelines.committing import SceneCommitter
from system.pipelines.config import MineConfig
from system.pipelines.mine import describe_model, mine_fleet, plan_only
from system.pipelines.mining_progress import MiningProgress
from system.pipelines.plan import Chunk
from system.pipelines.quarantine import QuarantineWriter
from system.pipelines.reading import ReadSettings, read_chunk
from system.pipelines.result import MiningResult
from system.pipelines.writing import _faults
from system.store.ids import committed_ids
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.schema import QUARANTINE
from system.store.tables import open_for_writing
from tests.mcap_logs import write_ros2
from tests.plain_logs import write_plain_log
from tests.unit.test_ros_mcap import drive

# Ids of runs of two earlier days.
DAYS = ("20260101T010000Z-a", "20260102T010000Z-b")


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


class Ending:
    """An open file whose storage refuses all after so many bytes."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise PermissionError("the token has expired")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def end_after(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Recordings end in an outage after so many bytes, from now on."""
    answer = LocalFileSystem.open

    def opened(self: Any, path: str, mode: str = "rb", **options: Any) -> Any:
        file = answer(self, path, mode, **options)
        return Ending(file, size) if "/recordings/" in path else file

    monkeypatch.setattr(LocalFileSystem, "open", opened)


def write_recording(folder: Path, suffix: str) -> Path:
    folder.mkdir()
    path, rng = folder / f"drive{suffix}", np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(30)]
    if suffix == ".mcap":
        write_ros2(path, drive(30))
    elif suffix == ".mp4":
        with av.open(str(path), "w") as video:
            stream = video.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for picture in pictures:
                video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            video.mux(stream.encode())
    else:
        with tarfile.open(path, "w:gz") as archive:
            for k, picture in enumerate(pictures):
                file = io.BytesIO()
                Image.fromarray(picture).save(file, "JPEG")
                member = tarfile.TarInfo(f"cam/img_{k:03d}.jpg")
                member.size = file.tell()
                archive.addfile(member, io.BytesIO(file.getvalue()))
    return path


def recording(tmp_path: Path, suffix: str) -> tuple[Path, MineConfig]:
    path = write_recording(tmp_path / "recordings", suffix)
    config = MineConfig(logs=(str(path.parent),), store=str(tmp_path / "store"))
    open_for_writing(StoreLocation.parse(config.store), describe_model(config))
    return path, config


def settings_of(config: MineConfig) -> ReadSettings:
    return ReadSettings((64, 64), config.windows, config.limits, config.thumbnails, config.risk, config.kinematics)


def faults_of(config: MineConfig) -> list[str]:
    """Codes of all that cannot be listed or read."""
    plan, settings = plan_only(config), settings_of(config)
    rows = [row for chunk in plan.chunks for row in _faults(read_chunk(chunk, settings, None))]
    return [bad.code for bad in plan.unlisted] + [row["code"] for row in rows]


def run(config: MineConfig, run_id: str, planned: Callable[[], None] = lambda: None) -> MiningResult:
    """Read what is to do, and take down the scenes that could not be read. planned: called before any is read."""
    location, model_id = StoreLocation.parse(config.store), describe_model(config).model_id
    settings = settings_of(config)
    plan = plan_only(config)
    planned()
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
    first = run(config, f"{DAYS[0]}1")
    assert (first.unread, first.remaining, first.quarantined, first.unaccounted) == (2, 2, 0, 0)
    rows = quarantine.dataset(QUARANTINE).count_rows()
    assert run(config, f"{DAYS[0]}2").unread == 2 and quarantine.dataset(QUARANTINE).count_rows() == rows, (
        "told once a day"
    )
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


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("suffix", [".mp4", ".tar.gz", ".mcap"])
def test_a_recording_that_storage_keeps_back_is_left_for_the_next_run(tmp_path, monkeypatch, suffix, share: float):
    path, config = recording(tmp_path, suffix)
    todo = plan_only(config).todo
    first = run(config, "r1", lambda: end_after(monkeypatch, int(share * path.stat().st_size)))
    assert (first.unread, first.quarantined, first.unaccounted, todo > 0) == (todo, 0, 0, True)
    monkeypatch.undo()
    assert (plan_only(config).todo, run(config, "r2").unread) == (todo, 0)


class Holed:
    """An open file of which the storage does not give what begins at one byte."""

    def __init__(self, file: Any, hole: int) -> None:
        self._file, self._hole = file, hole

    def read(self, size: int = -1) -> bytes:
        if self._file.tell() == self._hole:
            raise OSError(errno.EIO, "Input/output error")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_part_of_a_recording_that_is_kept_back_costs_its_pictures_alone(tmp_path, monkeypatch):
    path = write_ros2(tmp_path / "a.mcap", drive(), chunk_size=1024)
    (found,), _ = discover(str(path))
    (ref,) = list_logs(found)
    frames = list(read_log(ref).frames)
    with path.open("rb") as file:
        chunks = make_reader(file).get_summary().chunk_indexes
    answer, hole = LocalFileSystem.open, chunks[len(chunks) // 2].chunk_start_offset
    monkeypatch.setattr(LocalFileSystem, "open", lambda self, *a, **options: Holed(answer(self, *a, **options), hole))
    codes = Counter(getattr(each, "code", "") for each in read_window_pictures(frames, PictureLimits()))
    assert codes == {"": len(frames) - 1, "unreadable_file": 1}
    hole = chunks[0].chunk_start_offset  # of what is no picture: the log is whole or it is for the next run
    with pytest.raises(DataError) as raised:
        read_log(ref)
    assert raised.value.code == "unreadable_file"


@pytest.mark.parametrize("suffix", [".mp4", ".tar.gz", ".mcap"])
def test_a_damaged_recording_is_no_outage(tmp_path, suffix: str):
    path, config = recording(tmp_path, suffix)
    whole = path.read_bytes()
    for damaged in (b"", whole[:5], whole[: len(whole) // 2], whole[:200] + b"\xff" * 200 + whole[400:],
                    whole[:-40] + b"\xff" * 40):  # fmt: skip
        path.write_bytes(damaged)
        assert not set(codes := faults_of(config)) & set(OUTAGE_CODES), codes


@pytest.mark.parametrize("suffix", [".mp4", ".tar.gz", ".mcap"])
def test_a_log_that_cannot_be_listed_in_an_outage_is_left_for_the_next_run(tmp_path, monkeypatch, suffix: str):
    _, config = recording(tmp_path, suffix)
    end_after(monkeypatch, 0)
    assert plan_only(config).figures() | {"logs": 0} == {
        "found": 1, "already": 0, "quarantined": 0, "todo": 0, "unread": 1, "deferred": 0, "logs": 0
    }  # fmt: skip
    with MiningProgress() as progress:
        result = mine_fleet(config, progress)
    assert (result.found, result.remaining, result.unread, result.quarantined, result.unaccounted) == (1, 1, 1, 0, 0)
    assert not result.stopped and result.problem is not None and "did not answer for 1 of 1" in result.problem
    monkeypatch.undo()
    assert plan_only(config).todo > 0


def test_a_picture_that_is_kept_back_on_a_third_day_costs_its_scene_no_more_than_itself(config, monkeypatch):
    keep_back(monkeypatch, "CAM_BACK")
    for run_id in (DAYS[0], DAYS[0] + "-again", DAYS[0] + "-and-again", DAYS[1]):
        assert (run(config, run_id).unread, plan_only(config).todo) == (2, 2)
    (chunk,) = plan_only(config).chunks
    assert chunk.last_tries == {window.scene_id for window in chunk.windows} and len(chunk.last_tries) == 2
    assert Chunk.from_json(chunk.to_json()) == chunk
    rows = read_chunk(chunk, settings_of(config), None).to_pylist()
    assert [row["is_bad"] for row in rows] == [False, False]
    assert all(row["num_bad_pictures"] > 0 and row["cameras"] == ["CAM_FRONT"] for row in rows)
    assert {(fault["level"], fault["code"]) for row in rows for fault in row["faults"]} == {
        ("frame", "unreadable_file")
    }


def test_runs_of_one_day_are_one_outage_however_many(config, monkeypatch):
    keep_back(monkeypatch, "CAM_")
    rows = [run(config, f"{DAYS[0]}{k}").unread for k in range(4)]
    assert rows == [2] * 4 and not plan_only(config).chunks[0].last_tries


def test_a_scene_of_which_nothing_is_given_on_a_third_day_is_in_quarantine_and_may_be_retried(config, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise TimeoutError("no answer")

    keep_back(monkeypatch, "CAM_")
    run(config, DAYS[0])
    run(config, DAYS[1])
    codes = faults_of(config)
    assert codes.count(LASTING_OUTAGE) == 2 and "unreachable" not in codes
    with monkeypatch.context() as away:
        away.setattr("system.pipelines.reading.read_log", refuse)
        third = run(config, "20260103T010000Z-c")
    assert (third.quarantined, third.unread, third.remaining, third.unaccounted) == (2, 0, 0, 0)
    assert (plan_only(config).todo, plan_only(config).quarantined_before) == (0, 2)
    assert plan_only(config.model_copy(update={"retry_quarantined": True})).todo == 2


def test_a_log_that_cannot_be_listed_on_a_third_day_is_in_quarantine_and_leaves_nothing(tmp_path, monkeypatch):
    _, config = recording(tmp_path, ".mp4")
    location, model_id = StoreLocation.parse(config.store), describe_model(config).model_id
    end_after(monkeypatch, 0)
    for run_id in DAYS:
        assert len(plan_only(config).unread_logs) == 1
        QuarantineWriter(location, model_id, run_id).add_bad_logs(plan_only(config).unlisted)
    with MiningProgress() as progress:
        result = mine_fleet(config, progress)
    assert (result.found, result.quarantined, result.unread, result.remaining) == (1, 1, 0, 0)
    codes = location.dataset(QUARANTINE).to_table()["code"].to_pylist()
    assert codes == ["unreadable_file"] * 2 + [LASTING_OUTAGE]
    monkeypatch.undo()
    assert plan_only(config).todo > 0, "mined once it can be read"
