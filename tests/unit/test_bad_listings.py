"""What goes wrong while logs are listed costs one log, by name, and never the run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from system.errors import DataError, FormatError
from system.logs import files
from system.logs.reader import BadLog
from system.logs.registry import discover, list_logs
from tests.plain_logs import write_plain_log


def listed(root: Path) -> list:
    found, _ = discover(str(root))
    return [log for each in found for log in list_logs(each)]


def change_head(root: Path, **values: object) -> None:
    file = root / "bad" / "log.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "ego", "code", "said"),
    [
        ({"hz": "fast"}, None, "impossible_value", "expected hz as a positive number, found 'fast'"),
        ({"hz": float("nan")}, None, "impossible_value", "found nan"),
        ({"hz": -5}, None, "impossible_value", "found -5"),
        ({"images": [{"frame": "x", "camera": "c", "path": "a.png"}]}, None, "impossible_value", "found 'x'"),
        ({"images": [{"frame": 10**30, "camera": "c", "path": "a.png"}]}, None, "impossible_time", "rising times"),
        ({}, "t,x,y,z,yaw,v\n0,0,0,0,0,0\n,1,0,0,0,0\n", "nan_pose", "found none in row 1"),
        ({}, "t,x,y,z,yaw,v\n0,0,0,0,0,0\n1e12,1,0,0,0,0\n", "impossible_time", "rising times"),
        ({}, "t,x,y,z,yaw,v\n0,0,0,0,0,0\n2e6,1,0,0,0,0\n", "impossible_time", "lasts 23.1 days"),
    ],
)
def test_a_log_with_a_wrong_value_is_named_and_the_others_are_listed(tmp_path, values, ego, code, said):
    write_plain_log(tmp_path, "good")
    write_plain_log(tmp_path, "bad", with_ego=False, with_agents=False)
    change_head(tmp_path, **values)
    if ego is not None:
        (tmp_path / "bad" / "ego.csv").write_text(ego)
    bad, good = sorted(listed(tmp_path), key=lambda log: log.uri)
    assert isinstance(bad, BadLog) and not isinstance(good, BadLog)
    assert bad.code == code and said in bad.message and "/bad" in bad.message


def test_json_that_is_nested_without_end_is_damaged(tmp_path):
    write_plain_log(tmp_path, "bad")
    (tmp_path / "bad" / "log.json").write_text("[" * 100_000)
    (bad,) = listed(tmp_path)
    assert isinstance(bad, BadLog) and bad.code == "damaged_json"


def test_a_name_that_is_no_text_is_told_and_the_others_are_listed(tmp_path):
    for name in (b"a.jpg", b"b\xe9.jpg"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"")
    (tmp_path / "below").mkdir()
    os.mkdir(os.fsencode(tmp_path) + b"/c\xe9")
    found, skipped = discover(str(tmp_path))
    logs = [log for each in found for log in list_logs(each)]
    assert sorted(type(log).__name__ for log in logs) == ["BadLog", "LogRef"]
    (bad,) = (log for log in logs if isinstance(log, BadLog))
    assert bad.code == "name_not_utf8" and "b\\udce9.jpg" in bad.message
    assert any("rename it" in each.why and each.uri.isascii() for each in skipped)


def test_one_nuscenes_scene_without_samples_leaves_its_siblings(data_root, tmp_path):
    tables = tmp_path / "v1.0-mini"
    tables.mkdir()
    for name in ("scene", "sample", "sample_data"):
        rows = json.loads((data_root / "nuscenes" / "v1.0-mini" / f"{name}.json").read_text())
        if name == "sample":
            lost = rows[0]["scene_token"]
            rows = [row for row in rows if row["scene_token"] != lost]
        (tables / f"{name}.json").write_text(json.dumps(rows))
    logs = listed(tmp_path)
    assert sum(isinstance(log, BadLog) for log in logs) == 1 and len(logs) > 2


def test_drives_of_one_name_in_two_places_are_two_logs(tmp_path):
    for place in ("a", "b"):
        folder = write_plain_log(tmp_path / place / "day1", "run1")
        head = json.loads((folder / "log.json").read_text())
        del head["log_id"], head["dataset"]
        (folder / "log.json").write_text(json.dumps(head))
        (tmp_path / place / "list").mkdir()
        (tmp_path / place / "list" / "frames.csv").write_text("path\n0001.jpg\n")
    logs = listed(tmp_path)
    assert len({(log.source, log.log_id) for log in logs}) == len(logs) == 4


def test_stills_of_different_days_are_no_video(tmp_path):
    for name in ("1700000000000", "1707776000000"):
        (tmp_path / f"{name}.jpg").write_bytes(b"")
    assert [log.t_start_ns for log in listed(tmp_path)] == [0, 0]


def test_an_empty_folder_is_called_empty(tmp_path):
    with pytest.raises(FormatError, match="found an empty folder"):
        discover(str(tmp_path))


def test_a_folder_with_colons_is_no_chain_of_file_systems(tmp_path):
    write_plain_log(tmp_path / "day::1", "a")
    assert len(listed(tmp_path / "day::1")) == 1


def test_a_relative_path_is_found_from_everywhere(tmp_path, monkeypatch):
    write_plain_log(tmp_path / "fleet", "a")
    monkeypatch.chdir(tmp_path)
    (log,) = listed(Path("fleet"))
    assert log.uri == str(tmp_path / "fleet" / "a")


def test_a_folder_that_is_gone_is_missing_and_not_out_of_reach(tmp_path):
    with pytest.raises(DataError, match=r"missing_file: .*expected a folder, found none"):
        files.list_folder(str(tmp_path / "gone"))


def test_an_object_store_that_cannot_be_asked_is_one_line(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(DataError, match="unreachable: s3://nightminer-nobody/x: cannot be listed"):
        files.is_folder("s3://nightminer-nobody/x")
