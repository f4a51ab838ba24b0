"""KITTI's frames of reference, checked by hand and against the same log in the plain layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from system.errors import DataError
from system.logs.kitti import TRACKING_STEP_NS, KittiReader
from system.logs.kitti_geometry import EARTH_RADIUS_M
from system.logs.motion import forward_speed_mps, local_slopes
from system.logs.plain import PlainReader
from system.logs.reader import BadLog
from system.records import NO_AGENTS, TIME_ASSUMED

# A rig without any rotation but the change of axes; the Velodyne is 1.73 m over the ground.
IMU_TO_VELODYNE = "1 0 0 -0.81 0 1 0 0.32 0 0 1 -0.80"
VELODYNE_TO_CAMERA = "0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27"
IDENTITY = "1 0 0 0 1 0 0 0 1"
P2 = "700 0 600 42 0 700 170 0 0 0 1 0"  # 42 / 700: camera 2 is 6 cm left of camera 0


def oxts(north_m: float, lat: float = 49.0, yaw: float = np.pi / 2, speed: float = 10.0) -> str:
    values = np.zeros(30)
    values[:6] = lat + np.degrees(north_m / EARTH_RADIUS_M), 8.4, 110.0, 0.0, 0.0, yaw
    values[8] = speed
    return " ".join(repr(float(value)) for value in values)


def label(frame: int, track: int = 3, kind: str = "Car", x: float = 2.0, z: float = 20.0) -> str:
    return f"{frame} {track} {kind} 0 0 -1.5 1 1 2 2 1.5 1.8 4.2 {x} 1.65 {z} {-np.pi / 2}"


def write_tracking(root: Path, labels: str | None = None, frames: int = 3) -> Path:
    split = root / "training"
    for folder in ("calib", "oxts", "label_02", "image_02/0007"):
        (split / folder).mkdir(parents=True)
    calib = f"P2: {P2}\nR_rect {IDENTITY}\nTr_velo_cam {VELODYNE_TO_CAMERA}\nTr_imu_velo {IMU_TO_VELODYNE}\n"
    (split / "calib/0007.txt").write_text(calib)
    (split / "oxts/0007.txt").write_text("\n".join(oxts(k * 1.0) for k in range(frames)) + "\n")
    if labels is None:
        labels = "\n".join(f"{label(k)}\n{label(k, -1, 'DontCare')}" for k in range(frames))
    (split / "label_02/0007.txt").write_text(labels)
    for k in range(frames):
        Image.new("RGB", (12, 4)).save(split / f"image_02/0007/{k:06d}.png")
    return root


def write_raw(root: Path) -> Path:
    date = root / "2011_09_26"
    drive = date / "2011_09_26_drive_0005_sync"
    for folder in ("oxts/data", "image_02/data"):
        (drive / folder).mkdir(parents=True)

    def calibration(words: str) -> str:
        m = np.array(words.split(), float).reshape(3, 4)
        rotation, shift = (" ".join(map(str, part.ravel())) for part in (m[:, :3], m[:, 3]))
        return f"calib_time: 25-May-2012 16:47:16\nR: {rotation}\nT: {shift}\n"

    (date / "calib_imu_to_velo.txt").write_text(calibration(IMU_TO_VELODYNE))
    (date / "calib_velo_to_cam.txt").write_text(calibration(VELODYNE_TO_CAMERA))
    (date / "calib_cam_to_cam.txt").write_text(f"S_rect_02: 12 4\nR_rect_00: {IDENTITY}\nP_rect_02: {P2}\n")
    for sensor, lag in (("oxts", 0), ("image_02", 5)):
        stamps = [f"2011-09-26 13:02:25.{k}0000000{lag}" for k in range(3)]
        (drive / sensor / "timestamps.txt").write_text("\n".join(stamps) + "\n")
    for k in range(3):
        (drive / f"oxts/data/{k:010d}.txt").write_text(oxts(k * 1.0))
        if k != 1:  # drives do lose pictures
            Image.new("RGB", (12, 4)).save(drive / f"image_02/data/{k:010d}.png")
    poses = "".join("<item><tx>20</tx><ty>3</ty><tz>-1.73</tz><rz>0.5</rz></item>" for _ in range(2))
    (drive / "tracklet_labels.xml").write_text(
        "<boost_serialization><tracklets><count>1</count><item><objectType>Van</objectType><h>2</h><w>1.9</w><l>5</l>"
        f"<first_frame>1</first_frame><poses><count>2</count>{poses}</poses></item></tracklets></boost_serialization>"
    )
    return root


def read_only_log(root: Path):
    reader = KittiReader()
    assert reader.recognise(str(root))
    refs = list(reader.list_logs(str(root)))
    assert len(refs) == 1 and not isinstance(refs[0], BadLog), refs
    return refs[0], reader.read_log(refs[0])


def test_tracking_sequence_has_the_values_computed_by_hand(tmp_path):
    ref, log = read_only_log(write_tracking(tmp_path))
    assert (ref.log_id, ref.source, ref.t_end_ns) == ("0007", "kitti_tracking", 2 * TRACKING_STEP_NS)
    assert TIME_ASSUMED in log.flags
    # The origin is OXTS's first place; the car heads north, so 0.32 m right of OXTS is east.
    np.testing.assert_allclose(log.ego.states[0], [0.32, 0.0, -0.93, np.pi / 2, 10.0], atol=1e-9)
    np.testing.assert_allclose(log.ego.states[2, :3], [0.32, 2.0, -0.93], atol=1e-5)
    (car,) = log.agents
    assert (car.track_id, car.category) == ("3", "Car")
    # The box is 2 m right of camera 0 and 20 m before it; the camera is 1.08 m before the ego's origin, 1.65 m high.
    np.testing.assert_allclose(car.states[0, :4], [0.32 + 2.0, 21.08, -0.93 + 0.75, np.pi / 2], atol=1e-9)
    np.testing.assert_allclose(car.states[0, 4:7], [4.2, 1.8, 1.5])
    np.testing.assert_allclose(car.states[:, 7:], [[0, 1 / 0.1036]] * 3, atol=1e-4)


def test_camera_2_stands_where_its_projection_says(tmp_path):
    _, log = read_only_log(write_tracking(tmp_path))
    frame = log.frames[1]
    assert (frame.camera, frame.t_ns, frame.uri[-10:]) == ("image_02", TRACKING_STEP_NS, "000001.png")
    assert frame.intrinsics == (700, 0, 600, 0, 700, 170, 0, 0, 1)
    pose = np.array(frame.ego_from_camera).reshape(4, 4)
    np.testing.assert_allclose(pose[:3, 3], [1.08, 0.06, 1.65], atol=1e-9)
    np.testing.assert_allclose(pose[:3, :3] @ [0, 0, 1], [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(pose[:3, :3] @ [1, 0, 0], [0, -1, 0], atol=1e-9)


def test_raw_drive_has_the_values_computed_by_hand(tmp_path):
    ref, log = read_only_log(write_raw(tmp_path))
    start_ns = 1_317_042_145 * 10**9  # 2011-09-26 13:02:25 UTC
    assert (ref.log_id, ref.t_start_ns, ref.t_end_ns) == (
        "2011_09_26_drive_0005_sync",
        start_ns,
        start_ns + 200_000_005,
    )
    assert TIME_ASSUMED not in log.flags
    assert [frame.t_ns - start_ns for frame in log.frames] == [5, 200_000_005]
    assert (log.frames[0].width, log.frames[0].height) == (12, 4) and log.frames[0].is_calibrated
    np.testing.assert_allclose(log.ego.states[2, :3], [0.32, 2.0, -0.93], atol=1e-5)
    (van,) = log.agents
    # The Velodyne is 0.81 m before the ego's origin and over its line; 3 m left of a car that heads north is west.
    np.testing.assert_allclose(van.states[0, :3], [0.32 - 3.0, 1.0 + 20.81, -0.93 + 1.0], atol=1e-5)
    np.testing.assert_allclose(van.states[0, 3:7], [np.pi / 2 + 0.5, 5, 1.9, 2])


def test_raw_drive_without_calibration_is_read_without_it(tmp_path):
    root = write_raw(tmp_path)
    (root / "2011_09_26/calib_velo_to_cam.txt").unlink()
    _, log = read_only_log(root)
    assert log.agents is None and NO_AGENTS in log.flags
    assert not log.frames[0].is_calibrated and log.ego is not None


def test_a_drive_folder_alone_is_recognised(tmp_path):
    drive = write_raw(tmp_path) / "2011_09_26/2011_09_26_drive_0005_sync"
    assert len(list(KittiReader().list_logs(str(drive)))) == 1


def test_other_folders_are_not_kitti(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "calib.txt").write_text("")
    assert KittiReader().recognise(str(tmp_path)) is None
    assert KittiReader().recognise(str(tmp_path / "calib.txt")) is None


@pytest.mark.parametrize(
    ("file", "text", "code"),
    [
        ("oxts/0007.txt", "1 2 3\n", "damaged_table"),
        ("oxts/0007.txt", oxts(0).replace("8.4", "nan") + "\n", "nan_pose"),
        ("oxts/0007.txt", "", "empty_table"),
        ("label_02/0007.txt", "0 1 Car\n", "damaged_table"),
        ("label_02/0007.txt", label(0).replace("1.8", "-1.8"), "impossible_box"),
        ("label_02/0007.txt", label(0).replace("20.0", "inf"), "nan_agent"),
        ("label_02/0007.txt", label(9), "impossible_time"),
        ("label_02/0007.txt", label(1) + "\n" + label(1), "impossible_time"),
        ("calib/0007.txt", "P2: 1 2 3\n", "damaged_calibration"),
        (
            "calib/0007.txt",
            f"R_rect {IDENTITY}\nTr_velo_cam 1 2 3\nTr_imu_velo {IMU_TO_VELODYNE}",
            "damaged_calibration",
        ),
        ("calib/0007.txt", f"R_rect {IDENTITY.replace('1', '2')}\n", "damaged_calibration"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(tmp_path, file, text, code):
    root = write_tracking(tmp_path)
    (root / "training" / file).write_text(text)
    (ref,) = KittiReader().list_logs(str(root))
    assert not isinstance(ref, BadLog)
    with pytest.raises(DataError) as fault:
        KittiReader().read_log(ref)
    assert fault.value.code == code


@pytest.mark.parametrize(
    "stamps", ["yesterday", "2011-13-45 13:02:25.1", "2011-09-26 13:02:25.2\n2011-09-26 13:02:25.1"]
)
def test_impossible_times_make_a_bad_log(tmp_path, stamps):
    root = write_raw(tmp_path)
    (root / "2011_09_26/2011_09_26_drive_0005_sync/oxts/timestamps.txt").write_text(stamps)
    (bad,) = KittiReader().list_logs(str(root))
    assert isinstance(bad, BadLog) and bad.code == "impossible_time"


def test_flipped_bytes_never_raise_anything_but_a_data_error(tmp_path):
    rng = np.random.default_rng(0)
    for root in (write_tracking(tmp_path / "a"), write_raw(tmp_path / "b")):
        paths = [path for path in root.rglob("*.*") if path.suffix in (".txt", ".xml")]
        for _ in range(300):
            path = paths[rng.integers(len(paths))]
            whole = path.read_bytes()
            data = np.frombuffer(whole, np.uint8).copy()
            where = rng.integers(0, len(data), rng.integers(1, 4))
            data[where] = rng.choice(np.frombuffer(b"0123456789.-eE \n\xff<>na", np.uint8), len(where))
            path.write_bytes(data.tobytes())
            try:
                for ref in KittiReader().list_logs(str(root)):
                    if not isinstance(ref, BadLog):
                        KittiReader().read_log(ref)
            except DataError:
                pass
            path.write_bytes(whole)


def test_real_sequence_agrees_with_its_plain_version(data_root):
    """Its poses come from another source (stereo SLAM): places relative to the ego agree, and so do headings."""
    reader, plain = KittiReader(), PlainReader()
    (ref,) = reader.list_logs(str(data_root / "native/kitti_tracking_0001"))
    log = reader.read_log(ref)
    (plain_ref,) = plain.list_logs(str(data_root / "driving/kitti_tracking/0001"))
    other = plain.read_log(plain_ref)
    assert {track.track_id for track in log.agents} == {track.track_id for track in other.agents}
    tracks = {track.track_id: track for track in log.agents}
    offsets, turns, speeds = [], [], []
    for track in other.agents:
        mine = tracks[track.track_id]
        np.testing.assert_array_equal(mine.t_ns, track.t_ns)
        np.testing.assert_allclose(mine.states[:, 4:7], track.states[:, 4:7], atol=1e-3)
        frames = track.t_ns // TRACKING_STEP_NS
        offsets.append(relative(log.ego.states[frames], mine.states) - relative(other.ego.states[frames], track.states))
        turn = (mine.states[:, 3] - log.ego.states[frames, 3]) - (track.states[:, 3] - other.ego.states[frames, 3])
        turns.append((turn + np.pi) % (2 * np.pi) - np.pi)
        speeds.append(np.hypot(*mine.states[:, 7:].T) - np.hypot(*track.states[:, 7:].T))
    offset = np.concatenate(offsets)
    # The plain version's ego is the camera: ours lies 1.08 m behind it.
    np.testing.assert_allclose(np.median(offset, axis=0), [1.1, 0.0], atol=0.06)
    assert np.percentile(np.abs(offset - np.median(offset, axis=0)), 95) < 0.2
    assert np.percentile(np.abs(np.concatenate(turns)), 95) < 0.005
    assert np.median(np.abs(np.concatenate(speeds))) < 0.15
    camera = np.array(log.frames[0].ego_from_camera).reshape(4, 4)
    assert 1.6 < camera[2, 3] < 1.7  # KITTI states 1.65 m over the ground


def relative(ego: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Places of boxes [T, 2] as the ego sees them."""
    dx, dy = (boxes[:, :2] - ego[:, :2]).T
    cos, sin = np.cos(ego[:, 3]), np.sin(ego[:, 3])
    return np.stack([cos * dx + sin * dy, cos * dy - sin * dx], axis=1)


def test_slopes_of_a_line_are_exact_and_of_one_moment_unknown():
    t_ns = np.array([0, 100, 230, 300, 900, 1000], np.int64) * 1_000_000 + 10**18
    values = np.stack([3 * (t_ns - t_ns[0]) / 1e9 + 1e6, -(t_ns - t_ns[0]) / 1e9], axis=1)
    np.testing.assert_allclose(local_slopes(t_ns, values), [[3, -1]] * 6, atol=1e-6)
    assert np.isnan(local_slopes(t_ns[:1], values[:1])).all()
    north = np.full(6, np.pi / 2)
    np.testing.assert_allclose(forward_speed_mps(t_ns, values[:, ::-1] * -1, north), [-3] * 6, atol=1e-6)
