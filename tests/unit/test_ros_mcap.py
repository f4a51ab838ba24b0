"""MCAP recordings: the same drive in ROS 2 CDR, Foxglove protobuf and JSON reads the same."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from mcap.writer import CompressionType
from PIL import Image

from system.errors import DataError
from system.logs.pixels import Picture, PictureLimits, read_window_pictures
from system.logs.plain import PlainReader
from system.logs.reader import BadLog
from system.logs.ros_mcap import DAMAGED_PARTS, McapReader
from system.records import NO_EGO, Frame
from tests.mcap_logs import CAMERA_PLACE, START_NS, STEP_NS, Drive, K, write_json, write_protobuf, write_ros2

LIMITS = PictureLimits()
SIZE, COUNT, TURN_RAD = (64, 48), 12, 0.3
WRITERS = {"ros2": write_ros2, "protobuf": write_protobuf, "json": write_json}


def pixels(k: int) -> np.ndarray:
    rng = np.random.default_rng(k)
    return rng.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


def png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def drive(count: int = COUNT, speeds=None, **changes) -> Drive:
    """Straight on at 10 m/s, heading TURN_RAD to the left of the world's x."""
    turn = (np.cos(TURN_RAD / 2), 0.0, 0.0, np.sin(TURN_RAD / 2))
    poses = [(k * np.cos(TURN_RAD), k * np.sin(TURN_RAD), 0.5, turn) for k in range(count)]
    values = {"pictures": [png(pixels(k)) for k in range(count)], "size": SIZE, "ego_poses": poses, "speeds": speeds}
    return Drive(**(values | changes))


def read_only_log(path: Path):
    reader = McapReader()
    assert reader.recognise(str(path))
    (ref,) = reader.list_logs(str(path))
    assert not isinstance(ref, BadLog), ref
    return ref, reader.read_log(ref)


@pytest.mark.parametrize("form", WRITERS)
def test_a_drive_reads_the_same_in_every_encoding(tmp_path, form):
    ref, log = read_only_log(WRITERS[form](tmp_path / "run.mcap", drive()))
    assert (ref.log_id, ref.source) == ("run", tmp_path.name)
    assert (ref.t_start_ns, ref.t_end_ns) == (START_NS, START_NS + (COUNT - 1) * STEP_NS)
    assert [frame.t_ns for frame in log.frames] == [START_NS + k * STEP_NS for k in range(COUNT)]
    frame = log.frames[0]
    assert frame.camera == ("cam_front" if form == "ros2" else "CAM_FRONT")
    assert (frame.width, frame.height, frame.intrinsics) == (*SIZE, K)
    pose = np.array(frame.ego_from_camera).reshape(4, 4)
    np.testing.assert_allclose(pose[:3, 3], CAMERA_PLACE)
    np.testing.assert_allclose(pose[:3, :3] @ [0, 0, 1], [1, 0, 0], atol=1e-12)  # it looks along the ego's x
    np.testing.assert_allclose(pose[:3, :3] @ [0, 1, 0], [0, 0, -1], atol=1e-12)  # and its y points down
    np.testing.assert_array_equal(log.ego.t_ns, [frame.t_ns for frame in log.frames])
    expected = [[k * np.cos(TURN_RAD), k * np.sin(TURN_RAD), 0.5, TURN_RAD, 10.0] for k in range(COUNT)]
    np.testing.assert_allclose(log.ego.states, expected, atol=1e-6)
    found = read_window_pictures([log.frames[k] for k in (7, 0, 7, 11)], LIMITS)
    for picture, k in zip(found, (7, 0, 7, 11), strict=True):
        np.testing.assert_array_equal(picture.rgb_HWC, pixels(k))


def test_odometry_gives_its_own_speed(tmp_path):
    _, log = read_only_log(write_ros2(tmp_path / "run.mcap", drive(speeds=[9.0 + k / 10 for k in range(COUNT)])))
    np.testing.assert_allclose(log.ego.states[:, 4], [9.0 + k / 10 for k in range(COUNT)])


def test_a_twist_left_at_zero_is_not_a_standing_car(tmp_path):
    _, log = read_only_log(write_ros2(tmp_path / "run.mcap", drive(speeds=[0.0] * COUNT)))
    np.testing.assert_allclose(log.ego.states[:, 4], 10.0, atol=1e-6)


def test_without_motion_or_calibration_both_are_flagged_and_not_invented(tmp_path):
    _, log = read_only_log(write_ros2(tmp_path / "run.mcap", drive(ego_poses=None, k=(0.0,) * 9)))
    assert log.ego is None and NO_EGO in log.flags
    assert log.frames[0].intrinsics is None and not log.frames[0].is_calibrated


@pytest.mark.parametrize("compression", list(CompressionType))
def test_every_compression_is_read(tmp_path, compression):
    _, log = read_only_log(write_ros2(tmp_path / "run.mcap", drive(), compression=compression))
    (picture,) = read_window_pictures(log.frames[5:6], LIMITS)
    np.testing.assert_array_equal(picture.rgb_HWC, pixels(5))


def test_a_file_without_chunks_is_read(tmp_path):
    _, log = read_only_log(write_json(tmp_path / "run.mcap", drive(), use_chunking=False))
    assert len(log.frames) == COUNT and log.ego is not None
    (picture,) = read_window_pictures(log.frames[5:6], LIMITS)
    np.testing.assert_array_equal(picture.rgb_HWC, pixels(5))


def test_raw_pictures_are_read_with_their_colours_and_row_padding(tmp_path):
    padded = [np.pad(pixels(k)[..., ::-1].reshape(SIZE[1], -1), ((0, 0), (0, 8))).tobytes() for k in range(3)]
    _, log = read_only_log(write_ros2(tmp_path / "run.mcap", drive(3, pictures=padded), raw=True))
    for k, picture in enumerate(read_window_pictures(log.frames, LIMITS)):
        np.testing.assert_array_equal(picture.rgb_HWC, pixels(k))


def test_listing_reads_the_summary_only(tmp_path, monkeypatch):
    path = write_ros2(tmp_path / "run.mcap", drive(60))
    reads: list[int] = []
    from system.logs import files

    def counted(uri):
        stream = io.BytesIO(Path(uri).read_bytes())
        read = stream.read
        stream_read = lambda size=-1: reads.append(size) or read(size)  # noqa: E731
        monkeypatch.setattr(files, "open_binary", open_binary)
        return _Counting(stream, stream_read)

    open_binary = files.open_binary
    monkeypatch.setattr(files, "open_binary", counted)
    (ref,) = McapReader().list_logs(str(path))
    assert not isinstance(ref, BadLog)
    assert sum(reads) < path.stat().st_size / 10


class _Counting(io.BytesIO):
    def __init__(self, stream: io.BytesIO, read) -> None:
        super().__init__(stream.getvalue())
        self._stream, self._read = stream, read

    def read(self, size: int = -1) -> bytes:
        return self._read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def test_faults_of_single_pictures_are_named(tmp_path):
    pictures = [png(pixels(0)), b"", b"no picture", png(pixels(3))[:900], png(pixels(4)[:24])]
    path = write_ros2(tmp_path / "run.mcap", drive(5, pictures=pictures))
    _, log = read_only_log(path)
    frames = [
        *log.frames,
        Frame("front", 0, str(path), "mcap", f"/cam_front/image_raw/compressed@{START_NS + 1}"),
        Frame("front", 0, str(path), "mcap", f"/none@{START_NS}"),
        Frame("front", 0, str(path), "mcap", f"/cam_front/camera_info@{START_NS}"),
        Frame("front", 0, str(path), "mcap", "anywhere"),
    ]
    found = read_window_pictures(frames, LIMITS)
    assert isinstance(found[0], Picture)
    assert [fault.code for fault in found[1:]] == [
        "empty_file",
        "not_an_image",
        "truncated_image",
        "wrong_shape",
        "missing_message",
        "missing_message",
        "unsupported_encoding",
        "bad_locator",
    ]
    (large,) = read_window_pictures(log.frames[:1], PictureLimits(max_file_bytes=100))
    assert large.code == "too_large"


def test_a_damaged_chunk_faults_its_pictures_and_is_flagged(tmp_path):
    path = write_ros2(tmp_path / "run.mcap", drive(30))
    from mcap.reader import make_reader

    with path.open("rb") as file:
        chunks = make_reader(file).get_summary().chunk_indexes
    assert len(chunks) > 5
    data = bytearray(path.read_bytes())
    middle = chunks[3].chunk_start_offset + chunks[3].chunk_length // 2
    data[middle : middle + 8] = bytes(8)
    path.write_bytes(data)
    _, log = read_only_log(path)
    assert DAMAGED_PARTS in log.flags and len(log.frames) == 30
    found = read_window_pictures(log.frames, LIMITS)
    faults = [picture for picture in found if isinstance(picture, DataError)]
    assert 1 <= len(faults) <= 4 and {fault.code for fault in faults} == {"damaged_mcap"}


def test_a_chunk_that_unpacks_to_more_than_it_states_is_refused(tmp_path):
    """Otherwise a few kilobytes could fill the memory."""
    import zstandard
    from mcap.records import Chunk

    from system.logs.mcap_messages import _uncompressed

    bomb = zstandard.compress(bytes(10**8))
    with pytest.raises(ValueError, match="or more unpacked"):
        _uncompressed(Chunk("zstd", bomb, 0, 0, 0, 1000))
    import lz4.frame

    with pytest.raises(ValueError, match="or more unpacked"):
        _uncompressed(Chunk("lz4", lz4.frame.compress(bytes(10**8)), 0, 0, 0, 1000))


@pytest.mark.parametrize("keep", [0, 5, 100, -30, -4000])
def test_a_recording_that_broke_off_is_a_bad_log(tmp_path, keep):
    path = write_ros2(tmp_path / "run.mcap", drive())
    path.write_bytes(path.read_bytes()[:keep])
    (bad,) = McapReader().list_logs(str(tmp_path))
    assert isinstance(bad, BadLog) and bad.code in ("damaged_mcap", "no_summary")


def test_a_pose_that_is_not_a_number_names_topic_and_time(tmp_path):
    base = drive(speeds=[1.0] * COUNT)
    poses = [*base.ego_poses[:4], (float("nan"), 0.0, 0.0, (1.0, 0.0, 0.0, 0.0)), *base.ego_poses[5:]]
    path = write_ros2(tmp_path / "run.mcap", drive(speeds=[1.0] * COUNT, ego_poses=poses))
    (ref,) = McapReader().list_logs(str(path))
    with pytest.raises(DataError, match=f"/odom at {START_NS + 4 * STEP_NS}") as fault:
        McapReader().read_log(ref)
    assert fault.value.code == "nan_pose"


@pytest.mark.parametrize("form", WRITERS)
def test_flipped_bytes_never_raise_anything_but_a_data_error(tmp_path, form):
    whole = WRITERS[form](tmp_path / "whole.mcap", drive(4)).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.mcap"
    for k in range(150):
        data = np.frombuffer(whole, np.uint8).copy()
        # Half of the flips in the last tenth, where the summary is.
        first = len(data) * 9 // 10 if k % 2 else 0
        where = rng.integers(first, len(data), rng.integers(1, 6))
        data[where] = rng.integers(0, 256, len(where))
        path.write_bytes(data.tobytes())
        for ref in McapReader().list_logs(str(path)):
            if isinstance(ref, BadLog):
                continue
            with suppress(DataError):
                read_window_pictures(McapReader().read_log(ref).frames, LIMITS)


def test_flipped_bytes_of_unpacked_messages_never_raise_anything_but_a_data_error(tmp_path):
    """Without compression and checksums the damage reaches the decoders."""
    from mcap_ros2.writer import Writer

    rng = np.random.default_rng(1)
    path = tmp_path / "run.mcap"
    original = Writer.__init__

    def without_checksums(self, *args, **options):
        original(self, *args, **(options | {"enable_crcs": False}))

    Writer.__init__ = without_checksums
    try:
        whole = write_ros2(path, drive(4, speeds=[1.0] * 4), compression=CompressionType.NONE).read_bytes()
    finally:
        Writer.__init__ = original
    for _ in range(200):
        data = np.frombuffer(whole, np.uint8).copy()
        where = rng.integers(0, len(data), 30)
        data[where] = rng.integers(0, 256, len(where))
        path.write_bytes(data.tobytes())
        for ref in McapReader().list_logs(str(path)):
            if not isinstance(ref, BadLog):
                with suppress(DataError):
                    read_window_pictures(McapReader().read_log(ref).frames, LIMITS)


def test_a_real_log_comes_back_from_an_mcap(tmp_path, data_root):
    plain = PlainReader()
    (ref,) = plain.list_logs(str(data_root / "driving/nuscenes_mini/scene-0061"))
    log = plain.read_log(ref)
    front = [frame for frame in log.frames if frame.camera == "CAM_FRONT"]
    rows = [int(np.argmin(np.abs(log.ego.t_ns - frame.t_ns))) for frame in front]
    states = log.ego.states[rows]
    poses = [(x, y, z, (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))) for x, y, z, yaw, _ in states]
    pictures = [Path(frame.uri).read_bytes() for frame in front]
    size = (front[0].width, front[0].height)
    made = write_protobuf(tmp_path / "scene.mcap", Drive(pictures, size, poses, k=front[0].intrinsics))
    _, back = read_only_log(made)
    np.testing.assert_allclose(back.ego.states[:, :4], states[:, :4], atol=1e-9)
    assert back.frames[0].intrinsics == pytest.approx(front[0].intrinsics)
    for mine, theirs in zip(
        read_window_pictures(back.frames[::8], LIMITS), read_window_pictures(front[::8], LIMITS), strict=True
    ):
        np.testing.assert_array_equal(mine.rgb_HWC, theirs.rgb_HWC)
