"""Videos: every picture at its own time, found again by its stamp in any order."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from system.errors import DataError
from system.logs.pixels import Picture, PictureLimits, read_window_pictures
from system.logs.reader import BadLog
from system.logs.video import VideoReader
from system.records import TIME_ASSUMED, Frame

LIMITS = PictureLimits()
RATE, COUNT, SIZE = 10, 60, (64, 48)
OPEN_GROUPS = {"g": "12", "bf": "2", "x264-params": "open-gop=1:scenecut=0"}
# Containers, codecs and their settings: with and without B-frames, all-keyframe, open groups, no time stamps (AVI).
VIDEOS = {
    "bframes.mp4": ("libx264", {"g": "12", "bf": "2"}),
    "open.mkv": ("libx264", OPEN_GROUPS),
    "long.mov": ("libx264", {"g": "600", "bf": "0"}),
    "stream.ts": ("libx264", {"g": "12", "bf": "2"}),
    "old.avi": ("mpeg4", {"g": "12"}),
    "stills.avi": ("mjpeg", {}),
    "web.webm": ("libvpx", {"g": "12"}),
    "program.mpg": ("mpeg2video", {"g": "12", "bf": "2"}),
}


def shade(k: int) -> int:
    """Neighbours differ by far more than a codec blurs."""
    return 30 + 37 * k % 200


def write_video(
    path: Path, codec: str, options: dict[str, str], created: str | None = None, count: int = COUNT
) -> Path:
    """Picture k is grey of shade(k), its right half twice as dark."""
    with av.open(str(path), "w") as container:
        if created:
            container.metadata["creation_time"] = created
        stream = container.add_stream(codec, rate=25 if path.suffix == ".mpg" else RATE, options=options)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        stream.bit_rate = 2_000_000
        for k in range(count):
            pixels = np.full((SIZE[1], SIZE[0], 3), shade(k), np.uint8)
            pixels[:, SIZE[0] // 2 :] //= 2
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def read_only_log(path: Path):
    reader = VideoReader()
    assert reader.recognise(str(path))
    (ref,) = reader.list_logs(str(path))
    assert not isinstance(ref, BadLog), ref
    return ref, reader.read_log(ref)


def shades(found: list[Picture | DataError]) -> np.ndarray:
    faults = [picture for picture in found if isinstance(picture, DataError)]
    assert not faults, faults
    return np.array([picture.rgb_HWC[8:-8, 4 : SIZE[0] // 2 - 4].mean() for picture in found])


@pytest.mark.parametrize("name", VIDEOS)
def test_every_picture_is_found_by_its_stamp_in_any_order(tmp_path, name):
    ref, log = read_only_log(write_video(tmp_path / name, *VIDEOS[name]))
    assert len(log.frames) == COUNT
    step_ns = 10**9 // (25 if name.endswith("mpg") else RATE)
    np.testing.assert_allclose(np.diff([frame.t_ns for frame in log.frames]), step_ns, atol=1.1e6)
    assert log.frames[0].t_ns == ref.t_start_ns == 0 and abs(ref.t_end_ns - log.frames[-1].t_ns) < 1.1 * step_ns
    assert TIME_ASSUMED in log.flags and (log.frames[0].width, log.frames[0].height) == SIZE
    order = [41, 3, 59, 12, 11, 0, 24, 23, 25, 3]
    found = read_window_pictures([log.frames[k] for k in order], LIMITS)
    np.testing.assert_allclose(shades(found), [shade(k) for k in order], atol=6)
    for picture in found:
        assert np.abs(picture.rgb_HWC[8:-8, SIZE[0] // 2 + 4 : -4].mean() - shades([picture])[0] / 2) < 6


@pytest.mark.parametrize("name", VIDEOS)
def test_each_single_picture_is_exact(tmp_path, name):
    _, log = read_only_log(write_video(tmp_path / name, *VIDEOS[name]))
    for k in range(0, COUNT, 7):
        np.testing.assert_allclose(shades(read_window_pictures([log.frames[k]], LIMITS)), shade(k), atol=6)


def test_creation_time_is_the_time_of_the_first_picture(tmp_path):
    ref, log = read_only_log(write_video(tmp_path / "a.mp4", "libx264", {}, created="2024-03-01T10:00:00Z"))
    assert ref.t_start_ns == 1_709_287_200 * 10**9 == log.frames[0].t_ns
    assert ref.t_end_ns == log.frames[-1].t_ns and TIME_ASSUMED not in log.flags
    assert ref.log_id == "a.mp4"


@pytest.mark.parametrize("created", ["1904-01-01T00:00:00Z", "1970-01-01T00:00:00Z"])
def test_a_clock_that_was_never_set_is_no_time(tmp_path, created):
    ref, log = read_only_log(write_video(tmp_path / "a.mkv", "libx264", {}, created=created))
    assert ref.t_start_ns == 0 and TIME_ASSUMED in log.flags


def test_same_name_without_a_time_in_two_folders_is_two_logs(tmp_path):
    ids = set()
    for card in ("card1", "card2"):
        (tmp_path / card / "dcim").mkdir(parents=True)
        ids.add(read_only_log(write_video(tmp_path / card / "dcim" / "0001.mp4", "libx264", {}, count=3))[0].log_id)
    assert len(ids) == 2


def test_scaled_reading_keeps_the_side_asked_for_and_the_full_size(tmp_path):
    _, log = read_only_log(write_video(tmp_path / "a.mp4", "libx264", {}))
    (picture,) = read_window_pictures(log.frames[:1], LIMITS, 20)
    assert picture.rgb_HWC.shape == (24, 32, 3) and (picture.full_width, picture.full_height) == SIZE


def test_faults_of_single_pictures_are_named(tmp_path):
    path = write_video(tmp_path / "a.mp4", "libx264", {"g": "12"})
    _, log = read_only_log(path)
    frames = [
        log.frames[5],
        Frame("video", 0, str(path), "video", "7"),
        Frame("video", 0, str(path), "video", "soon"),
        Frame("video", 0, str(path), "video", str(10**9)),
        Frame("video", 0, str(path), "video", log.frames[50].locator, 640, 480),
    ]
    found = read_window_pictures(frames, LIMITS)
    assert isinstance(found[0], Picture)
    assert [fault.code for fault in found[1:]] == ["missing_frame", "bad_locator", "missing_frame", "wrong_shape"]
    (large,) = read_window_pictures(log.frames[:1], PictureLimits(max_pixels=100))
    assert large.code == "too_large"
    (missing,) = read_window_pictures([Frame("video", 0, str(tmp_path / "b.mp4"), "video", "0")], LIMITS)
    assert missing.code == "missing_file"


def test_a_truncated_video_is_a_bad_log(tmp_path):
    path = write_video(tmp_path / "a.mp4", "libx264", {})
    path.write_bytes(path.read_bytes()[:-500])  # the index of an MP4 is at its end
    (bad,) = VideoReader().list_logs(str(path))
    assert isinstance(bad, BadLog) and bad.code == "damaged_video"


@pytest.mark.parametrize(
    "data", [b"", b"no video", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n"]
)
def test_what_is_no_video_is_a_bad_log_and_play_lists_are_not_followed(tmp_path, data):
    (tmp_path / "a.mp4").write_bytes(data)
    (bad,) = VideoReader().list_logs(str(tmp_path))
    assert isinstance(bad, BadLog) and bad.code == "damaged_video"


@pytest.mark.parametrize("name", ["bframes.mp4", "open.mkv", "stream.ts", "old.avi"])
def test_flipped_bytes_never_raise_anything_but_a_data_error(tmp_path, name):
    whole = write_video(tmp_path / name, *VIDEOS[name]).read_bytes()
    rng = np.random.default_rng(0)
    faults = 0
    for _ in range(80):
        data = np.frombuffer(whole, np.uint8).copy()
        where = rng.integers(0, len(data), rng.integers(1, 20))
        data[where] = rng.integers(0, 256, len(where))
        path = tmp_path / f"damaged_{name}"
        path.write_bytes(data.tobytes()[: rng.choice([len(data), rng.integers(1, len(data))])])
        for ref in VideoReader().list_logs(str(path)):
            if isinstance(ref, BadLog):
                faults += 1
                continue
            try:
                found = read_window_pictures(VideoReader().read_log(ref).frames[::9], LIMITS)
                faults += any(isinstance(picture, DataError) for picture in found)
            except DataError:
                faults += 1
    assert faults > 10


def test_a_damaged_group_of_pictures_is_not_handed_out_as_whole(tmp_path):
    path = write_video(tmp_path / "a.mp4", "libx264", {"g": "12", "bf": "0"})
    _, log = read_only_log(path)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    position, size = packets[24]  # a keyframe
    data[position + size // 2 : position + size] = bytes(size - size // 2)
    path.write_bytes(data)
    found = read_window_pictures(log.frames, LIMITS)
    assert isinstance(found[24], DataError) and found[24].code == "damaged_video"
    assert all(isinstance(picture, Picture) for picture in (*found[:24], *found[36:]))
