"""What a detector is to look at: pictures, the infrared cameras of logs, and videos; the bad with their reasons."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from system.errors import ConfigError, DataError
from system.logs.windows import WindowConfig
from system.pairs.files import pictures_below
from system.pairs.pixels import InfraredMapping, InfraredPixels
from system.pipelines.infrared_reading import NO_INFRARED, Part, picture_parts, read_part, window_parts, windows_of
from system.pipelines.predict_infrared import Looked, _parts
from tests.mcap_logs import Drive, write_ros2
from tests.plain_logs import write_plain_log
from tests.unit.test_video import COUNT, RATE, write_video

MAPPING = InfraredMapping()


def plain_log(root: Path) -> Path:
    log = write_plain_log(root / "fleet", "log", seconds=8, cameras=("FRONT", "NIGHT"))
    described = json.loads((log / "log.json").read_text())
    for image in described["images"]:
        if image["camera"] == "NIGHT":
            image["modality"] = "infrared"
    (log / "log.json").write_text(json.dumps(described))
    return log


def test_of_a_log_only_the_infrared_camera_is_read_and_a_broken_picture_says_why(tmp_path: Path):
    log = plain_log(tmp_path)
    windows, bad = windows_of([str(tmp_path / "fleet")], "auto", WindowConfig())
    assert len(windows) == 2 and not bad
    (log / "images" / "NIGHT_0001.jpg").write_bytes(b"\xff\xd8 half")
    (part,) = window_parts(windows, keyframe_hz=1.0)
    rows = list(read_part(Part.from_json(part.to_json()), MAPPING))
    assert {shot.camera for shot, _, _ in rows} == {"NIGHT"} and {of for _, of, _ in rows} == {4}
    assert {shot.scene_id for shot, _, _ in rows} == {window.scene_id for window in windows}
    assert all(isinstance(read, InfraredPixels) and read.is_coloured for _, _, read in rows)
    (whole,) = window_parts(windows, keyframe_hz=2.0)
    rows = list(read_part(whole, MAPPING))
    faults = [read for _, _, read in rows if isinstance(read, tuple)]
    assert len(rows) == 16 and len(faults) == 1 and "NIGHT_0001.jpg" in faults[0][1]


def test_a_log_without_an_infrared_camera_says_so_and_all_can_be_taken(tmp_path: Path):
    write_plain_log(tmp_path / "fleet", "log", seconds=4, cameras=("FRONT",))
    windows, _ = windows_of([str(tmp_path / "fleet")], "auto", WindowConfig())
    (part,) = window_parts(windows, 2.0)
    ((shot, of, read),) = list(read_part(part, MAPPING))
    assert of == 0 and isinstance(read, tuple) and read[0] == NO_INFRARED and shot.scene_id == windows[0].scene_id
    (part,) = window_parts(windows, 2.0, all_cameras=True)
    assert len(list(read_part(part, MAPPING))) == 8
    with pytest.raises((ConfigError, DataError)):
        windows_of([str(tmp_path / "nowhere")], "auto", WindowConfig())


def test_a_video_is_looked_at_at_the_rate_that_is_asked_for(tmp_path: Path):
    path = write_video(tmp_path / "drive.mp4", "h264", {})
    windows, _ = windows_of([str(path)], "video", WindowConfig(keyframe_hz=1.0))
    rows = [row for part in window_parts(windows, 1.0, all_cameras=True) for row in read_part(part, MAPPING)]
    assert COUNT / RATE <= len(rows) <= 1.4 * COUNT / RATE  # keyframes may come a quarter early
    assert all(isinstance(read, InfraredPixels) and not read.is_coloured for _, _, read in rows)
    assert len({shot.name for shot, _, _ in rows}) == len(rows) and rows[0][0].name.startswith(f"{path}#")


def test_videos_of_one_name_and_second_in_two_folders_are_both_looked_at_and_each_once(tmp_path: Path):
    for side in ("left", "right"):
        (tmp_path / side / "ir").mkdir(parents=True)
        write_video(tmp_path / side / "ir" / "0001.mp4", "h264", {}, "2026-01-01T00:00:00Z", count=20)
    both = [str(tmp_path), str(tmp_path / "left" / "ir" / "0001.mp4")]
    windows, _ = windows_of(both, "video", WindowConfig())
    assert sorted(window.log.uri for window in windows) == [
        str(tmp_path / side / "ir" / "0001.mp4") for side in ("left", "right")
    ]


@pytest.mark.parametrize("keyframe_hz", [0.5, 0.05])
def test_of_a_log_no_more_pictures_are_looked_at_than_asked_for_however_few(tmp_path: Path, keyframe_hz: float):
    log = write_plain_log(tmp_path / "fleet", "log", seconds=120, hz=1, cameras=("FRONT",))
    parts, _ = _parts(Looked(logs=(str(log),), keyframe_hz=keyframe_hz, all_cameras=True))
    rows = [row for part in parts for row in read_part(part, MAPPING)]
    assert 120 * keyframe_hz <= len(rows) <= 1.4 * 120 * keyframe_hz  # keyframes may come a quarter early


def test_what_a_video_lost_is_a_fault_and_no_window_without_a_camera(tmp_path: Path):
    path = write_video(tmp_path / "drive.mkv", "libx264", {"g": "12"}, count=200)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    windows, _ = windows_of([str(path)], "video", WindowConfig(keyframe_hz=1.0))
    rows = [row for part in window_parts(windows, 1.0, all_cameras=True) for row in read_part(part, MAPPING)]
    faults = [read for _, of, read in rows if of == 1 and isinstance(read, tuple)]
    assert len(rows) > len(faults) > 0 and {code for code, _ in faults} == {"damaged_video"}


def test_sixteen_bits_of_a_log_are_mapped_as_those_of_a_folder(tmp_path: Path):
    log = plain_log(tmp_path)
    described = json.loads((log / "log.json").read_text())
    deep = np.linspace(7000, 9000, 180 * 320).reshape(180, 320).astype(np.uint16)
    for image in described["images"]:
        if image["camera"] == "NIGHT":
            image["path"] = image["path"].replace(".jpg", ".png")
            Image.fromarray(deep).save(log / image["path"])
    (log / "log.json").write_text(json.dumps(described))
    windows, _ = windows_of([str(tmp_path / "fleet")], "auto", WindowConfig())
    (_, _, of_log), *_ = read_part(window_parts(windows, 2.0)[0], MAPPING)
    ((_, _, of_folder),) = read_part(picture_parts([str(log / "images" / "NIGHT_0000.png")])[0], MAPPING)
    assert isinstance(of_log, InfraredPixels) and isinstance(of_folder, InfraredPixels)
    assert of_log.bits == 16 and np.array_equal(of_log.pixels_HW, of_folder.pixels_HW) and of_log.pixels_HW.max() == 255


@pytest.mark.parametrize("name", ["lwir.tar", "lwir.tar.gz"])
def test_sixteen_bits_of_an_archive_are_mapped_as_the_detector_says(tmp_path: Path, name: str):
    mapping = InfraredMapping(kind="range", low=6000, high=10000)
    deep = np.linspace(7000, 9000, 48 * 64).reshape(48, 64).astype(np.uint16)
    (tmp_path / "lwir").mkdir()
    for k in range(3):
        Image.fromarray(deep + np.uint16(k)).save(tmp_path / "lwir" / f"night_{k:03d}.png")
    with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
        for file in sorted((tmp_path / "lwir").iterdir()):
            archive.add(file, f"lwir/{file.name}")
    windows, _ = windows_of([str(tmp_path / name)], "auto", WindowConfig())
    rows = [row for part in window_parts(windows, 10.0) for row in read_part(part, mapping)]
    assert len(rows) == 3 and all(shot.container == "tar" for shot, _, _ in rows)
    ((_, _, of_folder),) = read_part(picture_parts([str(tmp_path / "lwir" / "night_000.png")])[0], mapping)
    of_tar = rows[0][2]
    assert isinstance(of_tar, InfraredPixels) and isinstance(of_folder, InfraredPixels)
    assert of_tar.bits == 16 and not of_tar.is_coloured and np.array_equal(of_tar.pixels_HW, of_folder.pixels_HW)
    assert (of_tar.pixels_HW.min(), of_tar.pixels_HW.max()) == (64, 191), "a quarter to three quarters of the range"


def test_sixteen_bits_of_a_recording_are_mapped_as_the_detector_says(tmp_path: Path):
    buffer = io.BytesIO()
    deep = np.linspace(7000, 9000, 48 * 64).reshape(48, 64).astype(np.uint16)
    Image.fromarray(deep).save(buffer, "PNG")
    path = write_ros2(tmp_path / "drive.mcap", Drive([buffer.getvalue()] * 2, (64, 48)))
    windows, _ = windows_of([str(path)], "auto", WindowConfig())
    mapping = InfraredMapping(kind="range", low=6000, high=10000)
    rows = [row for part in window_parts(windows, 10.0, all_cameras=True) for row in read_part(part, mapping)]
    assert rows and all(shot.container == "mcap" for shot, _, _ in rows)
    read = rows[0][2]
    assert isinstance(read, InfraredPixels) and (read.pixels_HW.min(), read.pixels_HW.max()) == (64, 191)


def test_pictures_lie_at_any_depth_and_a_ring_of_links_ends(tmp_path: Path):
    deep = tmp_path.joinpath(*"abcdefghijkl")
    deep.mkdir(parents=True)
    Image.new("L", (4, 4)).save(deep / "night.png")
    os.symlink(tmp_path / "a", tmp_path / "a" / "b" / "back")
    assert pictures_below(str(tmp_path)) == [str(deep / "night.png")]
    assert pictures_below(str(tmp_path), is_deep=False) == []
