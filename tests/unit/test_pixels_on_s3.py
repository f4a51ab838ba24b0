"""Pictures on an object store: the same answers as on disk, over real HTTP requests."""

from __future__ import annotations

import io
from collections.abc import Iterator

import fsspec
import numpy as np
import pytest
from PIL import Image

from system.errors import DataError
from system.logs import files
from system.logs.pixels import PictureLimits, read_window_pictures
from system.logs.registry import discover, list_logs, read_log
from system.records import Frame
from tests.mcap_logs import write_json
from tests.s3 import s3_bucket
from tests.unit.test_picture_folder import write_archive
from tests.unit.test_ros_mcap import drive
from tests.unit.test_video import write_video


@pytest.fixture(scope="module")
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    """Of an S3 server, with a bucket `logs`."""
    with s3_bucket("logs"):
        yield files.filesystem("s3://logs/")[0]


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 12, 3), shade, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_on_s3_are_read_and_their_faults_named(bucket):
    for k in range(20):
        bucket.pipe_file(f"logs/front/{k}.png", png(10 * k))
    bucket.pipe_file("logs/front/empty.png", b"")
    bucket.pipe_file("logs/front/cut.png", png(0)[:48])
    members = png(1) + png(2)
    bucket.pipe_file("logs/front.tar", members)
    frames = [Frame("front", k, f"s3://logs/front/{k}.png", width=12, height=8) for k in range(20)]
    frames += [Frame("front", 0, f"s3://logs/front/{name}.png") for name in ("empty", "cut", "none")]
    frames += [Frame("front", 0, "s3://logs/front.tar", "tar", f"{len(png(1))}:{len(png(2))}")]
    frames += [Frame("front", 0, "s3://no-such-bucket/a.png")]
    found = read_window_pictures(frames, PictureLimits())
    assert [int(picture.rgb_HWC[0, 0, 0]) for picture in found[:20]] == [10 * k for k in range(20)]
    codes = [picture.code for picture in found if isinstance(picture, DataError)]
    assert codes == ["empty_file", "truncated_image", "missing_file", "missing_file"]
    assert int(found[23].rgb_HWC[0, 0, 0]) == 2


def test_larger_objects_than_allowed_are_not_fetched_whole(bucket):
    bucket.pipe_file("logs/large.png", bytes(1_000_000))
    found = read_window_pictures([Frame("front", 0, "s3://logs/large.png")], PictureLimits(max_file_bytes=1000))
    assert isinstance(found[0], DataError) and found[0].code == "too_large" and "1001 bytes" in found[0].message


def test_recordings_on_s3_are_found_and_read_where_they_lie(bucket, tmp_path):
    write_json(tmp_path / "run.mcap", drive(3))
    write_video(tmp_path / "dash.mp4", "libx264", {}, count=3)
    write_archive(tmp_path / "a.tar", "w", ["1.png", "2.png", "3.png"])
    write_archive(tmp_path / "b.tar.gz", "w:gz", ["1.png", "2.png", "3.png"])
    for path in tmp_path.iterdir():
        bucket.put_file(str(path), f"logs/fleet/deep/{path.name}")
    found, _ = discover("s3://logs/fleet")
    assert sorted(each.reader for each in found) == ["mcap", "pictures", "video"]
    refs = [ref for each in found for ref in list_logs(each)]
    assert len(refs) == 4
    for ref in refs:
        frames = read_log(ref).frames
        assert len(frames) == 3
        assert not [each for each in read_window_pictures(frames, PictureLimits()) if isinstance(each, DataError)]


def test_a_store_that_cannot_be_reached_is_a_fault_of_each_picture(bucket, monkeypatch):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    files._filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    frames = [
        Frame("front", 0, "s3://logs/a.png"),
        Frame("front", 0, "s3://logs/a.mcap", "mcap", "/a@1"),
        Frame("front", 0, "s3://logs/a.mp4", "video", "1"),
        Frame("front", 0, "s3://logs/a.tar.gz", "tar", "0:1"),
    ]
    codes = [fault.code for fault in read_window_pictures(frames, PictureLimits()) if isinstance(fault, DataError)]
    files._filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    assert codes == ["unreadable_file"] * 4
