"""A path is recognised by the right reader, also where formats lie mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

from system.errors import ConfigError, DataError, FormatError
from system.logs.reader import BadLog
from system.logs.registry import READERS, discover, list_logs, read_log, reader_named
from system.records import LogRef
from tests.mcap_logs import write_json
from tests.plain_logs import write_plain_log
from tests.unit.test_kitti import write_raw, write_tracking
from tests.unit.test_picture_folder import write, write_archive
from tests.unit.test_ros_mcap import drive
from tests.unit.test_video import write_video


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> Path:
    """One log of each kind beneath one root, and things that are no log."""
    root = tmp_path_factory.mktemp("fleet")
    write_plain_log(root / "plain", "log1", seconds=2)
    write_raw(root / "raw")
    write_tracking(root / "tracking")
    (root / "bags").mkdir()
    write_json(root / "bags" / "run.mcap", drive(3))
    write_video(root / "bags" / "dash.mp4", "libx264", {}, count=3)
    write(root / "pictures" / "deep" / "front", "0001.png", "0002.png", "0003.png")
    listed = write(root / "listed", "a.png")
    (listed / "frames.csv").write_text("path\na.png\n")
    write_archive(root / "frames.tar", "w", ["1.png", "2.png", "3.png"])
    (root / "notes.txt").write_text("hello")
    (root / "docs").mkdir()
    (root / "docs" / "a.txt").write_text("hello")
    return root


def found_names(root: Path, **options) -> list[tuple[str, str]]:
    found, _ = discover(str(root), **options)
    return sorted((each.reader, str(Path(each.uri).relative_to(root))) for each in found)


def test_every_format_of_a_mixture_is_found_once(mixture):
    assert found_names(mixture) == [
        ("kitti", "raw"),
        ("kitti", "tracking"),
        ("mcap", "bags"),
        ("picture_list", "listed"),
        ("pictures", "."),
        ("pictures", "pictures/deep/front"),
        ("plain", "plain"),
        ("video", "bags"),
    ]
    _, skipped = discover(str(mixture))
    assert [Path(each.uri).name for each in skipped] == ["docs"] and "a.txt" in skipped[0].why


def test_every_log_of_a_mixture_is_listed_and_read(mixture):
    refs = [ref for found in discover(str(mixture))[0] for ref in list_logs(found)]
    assert len(refs) == 8 and not any(isinstance(ref, BadLog) for ref in refs)
    assert len({(ref.source, ref.log_id) for ref in refs}) == 8
    for ref in refs:
        assert isinstance(ref, LogRef)
        log = read_log(ref)
        assert log.frames and ref.t_start_ns <= log.frames[0].t_ns <= log.frames[-1].t_ns <= ref.t_end_ns


def test_a_format_asked_for_is_the_only_one_looked_for(mixture):
    assert found_names(mixture, log_format="video") == [("video", "bags")]
    with pytest.raises(FormatError, match=r"Looked for: nuscenes"):
        discover(str(mixture / "bags"), log_format="nuscenes")


def test_a_log_beside_another_format_does_not_hide_it(tmp_path):
    write_plain_log(tmp_path, "log1", seconds=2)
    write_tracking(tmp_path / "kitti")
    write(tmp_path / "kitti" / "extra", "a.png")
    assert found_names(tmp_path) == [("kitti", "kitti/training"), ("pictures", "kitti/extra"), ("plain", "log1")]


def test_single_files_are_recognised(mixture):
    for path, reader in (("bags/run.mcap", "mcap"), ("bags/dash.mp4", "video"), ("frames.tar", "pictures")):
        (found,) = discover(str(mixture / path))[0]
        assert found.reader == reader
        assert all(isinstance(ref, LogRef) for ref in list_logs(found))
    with pytest.raises(FormatError):
        discover(str(mixture / "notes.txt"))


def test_pictures_at_any_depth_are_found_when_asked_for(tmp_path):
    write(tmp_path / "a/b/c/d/e/f", "x.png")
    with pytest.raises(FormatError):
        discover(str(tmp_path))
    assert found_names(tmp_path, log_format="pictures") == [("pictures", "a/b/c/d/e/f")]


def test_nothing_at_a_path_and_unknown_formats_are_named(tmp_path):
    with pytest.raises(DataError, match="missing_path"):
        discover(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"rosbag.*auto, "):
        reader_named("rosbag")
    assert len({reader.name for reader in READERS}) == len(READERS)
