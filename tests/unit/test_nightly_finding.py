"""Which logs are new, late, copied or changed, and what is said of places that cannot be looked at."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from system.errors import DataError, FormatError
from system.logs import files
from system.logs.fingerprint import Fingerprint, log_fingerprint
from system.logs.registry import discover, list_logs
from system.pipelines.nightly.finding import Arrival, find_logs
from system.pipelines.nightly.judging import judge_logs
from system.records import LogRef
from tests.plain_logs import write_plain_log
from tests.unit.test_pixels_on_s3 import bucket  # noqa: F401 - a fixture

DAYS = [date(2026, 11, 23), date(2026, 11, 24)]
NIGHT, LAST = date(2026, 11, 26), date(2026, 11, 24)


def arrival(log: str = "a", uri: str = "/1/a", content: str = "x", day: date | None = None, start: int = 0) -> Arrival:
    ref = LogRef("plain", uri, log, "fleet", start, start + 9)
    return Arrival(ref, day, Fingerprint(f"files:{content}", 5))


def judge(arrivals, known=(), again: bool = True, now: int = 100, last: date | None = LAST):
    return judge_logs(arrivals, known, "m1", NIGHT, last, now, again)


def names(arrivals) -> list[str]:
    return [each.ref.uri for each in arrivals]


def test_what_was_seen_with_this_content_is_known_and_still_planned():
    first = judge([arrival()], now=1)
    assert names(first.new) == names(first.current) == ["/1/a"]
    again = judge([arrival()], first.versions)
    assert not again.new and not again.changed and not again.versions and names(again.current) == ["/1/a"]


def test_a_log_of_an_earlier_day_than_the_last_night_is_late():
    kinds = {}
    for day in (date(2026, 11, 23), LAST, NIGHT, None):
        kinds[day] = judge([arrival(day=day)]).versions[0].arrival
    assert kinds == {date(2026, 11, 23): "late", LAST: "new", NIGHT: "new", None: "new"}
    assert judge([arrival(day=date(2026, 1, 1))], last=None).versions[0].arrival == "new"


def test_another_content_at_the_same_place_is_mined_again_or_told():
    known = judge([arrival()], now=1).versions
    again = judge([arrival(content="y")], known)
    assert [(c.arrival.ref.uri, c.before.fingerprint) for c in again.changed] == [("/1/a", "files:x")]
    assert names(again.current) == ["/1/a"] and [v.arrival for v in again.versions] == ["reuploaded"]
    told = judge([arrival(content="y")], known, again=False)
    assert told.changed and not told.current and not told.versions  # and told again the next night


def test_a_copy_in_another_place_is_the_same_log_and_another_content_there_replaces_it():
    known = judge([arrival()], now=1).versions
    copy = judge([arrival(), arrival(uri="/2/a")], known, now=2)
    assert not copy.changed and len(copy.current) == 1
    newer = judge([arrival(), arrival(uri="/3/a", content="y")], known, now=3)
    assert names(newer.current) == ["/3/a"] and names(newer.superseded) == ["/1/a"]
    # Nothing flips back the night after, nor when that night died before it mined.
    after = judge([arrival(), arrival(uri="/3/a", content="y")], [*known, *newer.versions], now=4)
    assert not after.changed and names(after.current) == ["/3/a"]


def recording(day: int, content: str = "x", start: int = 0) -> Arrival:
    """A file that lies directly in the folder of its day."""
    ref = LogRef("mcap", f"/logs/2026-11-{day}/rig.mcap", "rig", f"2026-11-{day}", start, start + 9)
    return Arrival(ref, date(2026, 11, day), Fingerprint(f"files:{content}", 5))


def test_a_copy_in_another_days_folder_has_the_scenes_of_the_first():
    first = judge([recording(23)], now=1).versions
    copied = judge([recording(23), recording(24)], first, now=2)
    (current,) = copied.current
    assert (current.ref.source, current.ref.uri) == ("2026-11-23", "/logs/2026-11-24/rig.mcap") and not copied.changed
    after = judge([recording(24)], [*first, *copied.versions], now=3)  # the first is gone
    assert not after.new and [each.ref.source for each in after.current] == ["2026-11-23"]
    together = judge([recording(23), recording(24)])
    assert [each.ref.source for each in together.current] == ["2026-11-23"]
    # What was mined of both before stays as it is.
    apart = [*first, *judge([recording(24)]).versions]
    assert len(judge([recording(23), recording(24)], apart).current) == 2


def test_another_content_in_another_days_folder_is_another_log():
    first = judge([recording(23)], now=1).versions
    copied = judge([recording(23), recording(24)], first, now=2).versions
    other = judge([recording(23), recording(24, "y")], [*first, *copied], now=3)
    assert [each.ref.source for each in other.current] == ["2026-11-23", "2026-11-24"] and not other.changed


def test_parts_of_one_drive_are_no_contents_of_each_other():
    judged = judge([arrival(uri="/1/a"), arrival(uri="/2/a", content="y", start=10)])
    assert len(judged.current) == len(judged.new) == 2 and not judged.superseded


def test_fingerprints_of_two_kinds_are_not_compared_and_the_new_one_is_remembered():
    known = judge([arrival()], now=1).versions
    ref = arrival().ref
    judged = judge([Arrival(ref, None, Fingerprint("metadata:z", 0))], known)
    assert not judged.changed and not judged.new
    (version,) = judged.versions
    assert version.fingerprint == "metadata:z" and (version.night, version.seen_ns) == (known[0].night, 1)


def test_a_fingerprint_changes_with_any_file_and_with_nothing_else(tmp_path):
    folder = write_plain_log(tmp_path / "fleet", "a", seconds=2)
    (ref,) = [log for found in discover(str(folder))[0] for log in list_logs(found)]
    before = log_fingerprint(ref, False)
    assert before == log_fingerprint(ref, False) and before.size_bytes > 1000
    picture = next((folder / "images").iterdir())
    picture.write_bytes(picture.read_bytes() + b"\0")
    assert log_fingerprint(ref, False).differs_from(before.text)
    shutil.copytree(folder, tmp_path / "fleet2" / "a", copy_function=shutil.copy2)
    moved = LogRef(ref.reader, str(tmp_path / "fleet2" / "a"), ref.log_id, ref.source, ref.t_start_ns, ref.t_end_ns)
    assert log_fingerprint(moved, False) == log_fingerprint(ref, False)


def test_a_log_that_shares_its_files_is_told_by_its_own_metadata(tmp_path):
    folder = write_plain_log(tmp_path / "fleet", "a", seconds=2)
    (ref,) = [log for found in discover(str(folder))[0] for log in list_logs(found)]
    before = log_fingerprint(ref, True)
    (folder / "another_log.json").write_text("{}")
    assert log_fingerprint(ref, True) == before
    os.utime(folder / "ego.csv", (1, 1))
    assert log_fingerprint(ref, True) == before
    (folder / "ego.csv").write_text((folder / "ego.csv").read_text().replace("10.0", "11.0"))
    assert log_fingerprint(ref, True).differs_from(before.text)


def test_days_are_listed_in_order_and_one_of_rubbish_costs_itself(tmp_path):
    write_plain_log(tmp_path / "2026-11-23", "a", seconds=2)
    (tmp_path / "2026-11-24").mkdir()
    (tmp_path / "2026-11-24" / "notes.txt").write_text("hello")
    (tmp_path / "2026-11-25").mkdir()
    days = [*DAYS, date(2026, 11, 25), date(2026, 11, 26)]
    night = find_logs((f"{tmp_path}/{{date}}",), days, "auto")
    assert [(each.ref.log_id, each.day) for each in night.arrivals] == [("a", DAYS[0])]
    assert [(bad.code, Path(bad.uri).name) for bad in night.bad] == [("unknown_format", "2026-11-24")]
    assert [Path(place).name for place in night.empty] == ["2026-11-25", "2026-11-26"]


def test_a_month_in_one_place_is_listed_once(tmp_path):
    write_plain_log(tmp_path / "2026" / "11", "a", seconds=2)
    night = find_logs((f"{tmp_path}/{{date:%Y/%m}}",), DAYS, "auto")
    assert [each.day for each in night.arrivals] == [DAYS[-1]]


def test_folders_of_hours_below_a_day_are_searched(tmp_path):
    for hour in ("00", "07", "23"):
        write_plain_log(tmp_path / "2026" / "11" / "24" / hour, f"a{hour}", seconds=2)
    night = find_logs((f"{tmp_path}/{{date:%Y/%m/%d}}",), DAYS, "auto")
    assert [(each.ref.log_id, each.day) for each in night.arrivals] == [(f"a{h}", DAYS[1]) for h in ("00", "07", "23")]


def test_a_folder_that_is_not_there_is_an_error_and_no_quiet_night(tmp_path):
    with pytest.raises(DataError, match="expected the folder or bucket that holds the partitions"):
        find_logs((f"{tmp_path}/lgos/{{date}}",), DAYS, "auto")
    with pytest.raises(DataError, match="missing_path"):
        find_logs((f"{tmp_path}/lgos",), DAYS, "auto")
    (tmp_path / "logs").mkdir()
    with pytest.raises(FormatError, match="empty_folder"):
        find_logs((f"{tmp_path}/logs",), DAYS, "auto")


def test_on_an_object_store_a_log_is_told_by_its_etags(bucket, tmp_path):  # noqa: F811
    folder = write_plain_log(tmp_path / "fleet", "a", seconds=2)
    bucket.put(str(folder), "logs/2026-11-23/a", recursive=True)
    template, ego = ("s3://logs/{date}",), (folder / "ego.csv").read_bytes()
    (first,) = find_logs(template, DAYS, "auto").arrivals
    assert (first.ref.uri, first.day) == ("s3://logs/2026-11-23/a", DAYS[0])
    bucket.pipe_file("logs/2026-11-23/a/ego.csv", ego)  # the same again, at a later time
    (again,) = find_logs(template, DAYS, "auto").arrivals
    assert again.fingerprint == first.fingerprint
    bucket.pipe_file("logs/2026-11-23/a/ego.csv", ego.replace(b"10.0", b"11.0"))  # of the same size
    (changed,) = find_logs(template, DAYS, "auto").arrivals
    assert changed.fingerprint.differs_from(first.fingerprint.text)
    with pytest.raises(DataError, match="expected the folder or bucket"):
        find_logs(("s3://nobody-has-this/{date}",), DAYS, "auto")


class _Denies(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def denied(monkeypatch) -> Iterator[None]:
    """An S3 that lets nobody list anything."""
    import s3fs

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Denies)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nightminer")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    files._filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    server.shutdown()
    server.server_close()
    files._filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("template", ["s3://fleet/logs/{date}", "s3://fleet/{date}", "s3://fleet/logs"])
def test_a_place_that_may_not_be_listed_is_told_with_what_to_look_at(denied, template):
    with pytest.raises(DataError, match=r"Access Denied\. Look at the credentials") as refused:
        find_logs((template,), DAYS, "auto")
    assert refused.value.code == "unreachable"
