"""Pictures and tokens of logs that are replaced while a process goes on."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from system.errors import DataError
from system.logs import files
from system.logs.nuscenes import NuScenesReader, sample_tokens
from system.logs.picture_folder import PicturesReader
from system.logs.picture_list import PictureListReader
from system.logs.pixels import PictureLimits
from system.pipelines import originals
from system.pipelines.originals import read_original, scene_frames
from tests.nuscenes_logs import write_nuscenes_root
from tests.plain_logs import draw_picture, write_plain_log


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch):
    monkeypatch.setattr(files, "STAMP_AGE_S", 1e-6)
    monkeypatch.setattr(originals, "LOOK_AGAIN_S", 1e-6)


def test_originals_are_those_of_the_log_as_it_was_uploaded_last(tmp_path):
    log = write_plain_log(tmp_path, "drive1", seconds=4)
    row = {
        "reader": "plain", "log_uri": str(log), "log_id": "drive1", "source": tmp_path.name, "scene_id": "0" * 32,
        "t_start_ns": 0, "t_end_ns": 4 * 10**9,
    }  # fmt: skip
    before = scene_frames(row)
    assert {frame.camera for frame in before} == {"CAM_FRONT", "CAM_BACK"}
    shutil.rmtree(log)
    write_plain_log(tmp_path, "drive1", seconds=4, hz=4, cameras=("CAM_FRONT", "CAM_LEFT"), seed=5)
    after = scene_frames(row)
    assert {frame.camera for frame in after} == {"CAM_FRONT", "CAM_LEFT"}
    assert all(read_original(frame, PictureLimits()).ndim == 3 for frame in after)


def test_a_log_is_read_once_for_the_many_frames_of_a_page(tmp_path, monkeypatch):
    log = write_plain_log(tmp_path, "drive2", seconds=4)
    row = {
        "reader": "plain", "log_uri": str(log), "log_id": "drive2", "source": tmp_path.name, "scene_id": "0" * 32,
        "t_start_ns": 0, "t_end_ns": 4 * 10**9,
    }  # fmt: skip
    read = originals._log.cache_info().misses
    for _ in range(5):
        scene_frames(row)
    assert originals._log.cache_info().misses == read + 1


def test_a_scene_that_nuscenes_tables_gain_is_found(tmp_path):
    root = write_nuscenes_root(tmp_path / "small", scenes=1)
    tables = next(path for path in root.iterdir() if path.name.startswith("v1.0-"))
    known = {ref.log_id for ref in NuScenesReader().list_logs(str(root))}
    larger = write_nuscenes_root(tmp_path / "large", scenes=2)
    gained = next(ref for ref in NuScenesReader().list_logs(str(larger)) if ref.log_id not in known)
    with pytest.raises(DataError, match="missing_log"):
        sample_tokens(str(tables), gained.log_id, gained.t_start_ns, gained.t_end_ns)
    NuScenesReader().read_log(next(iter(NuScenesReader().list_logs(str(root)))))
    shutil.copytree(larger, root, dirs_exist_ok=True)
    assert sample_tokens(str(tables), gained.log_id, gained.t_start_ns, gained.t_end_ns)[1]
    ref = next(ref for ref in NuScenesReader().list_logs(str(root)) if ref.log_id == gained.log_id)
    assert NuScenesReader().read_log(ref).frames


def test_archives_and_lists_of_pictures_that_changed_are_read_again(tmp_path):
    for name in ("a.png", "other.png"):
        draw_picture(tmp_path / name, np.random.default_rng(0))
    archive, table = tmp_path / "all.tar", tmp_path / "frames.csv"
    for names in (["a.png"], ["a.png", "other.png"]):
        with tarfile.open(archive, "w") as tar:
            for name in names:
                tar.add(tmp_path / name, name)
        table.write_text("\n".join(["path", *names]))
        assert _names(PicturesReader(), archive) == names
        assert _names(PictureListReader(), table) == names


def _names(reader: PicturesReader | PictureListReader, uri: Path) -> list[str]:
    return sorted(ref.log_id.rpartition("@")[0] for ref in reader.list_logs(str(uri)))
