"""A log is erased: rows, versions, indices, pictures, sets, reports; and the proof finds what is left."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from system.errors import ConfigError, LeaseError, ReconcileError, StoreError
from system.pipelines.config import MineConfig
from system.pipelines.mine import describe_model
from system.store import forget
from system.store.byte_scan import PatternFinder
from system.store.commits import append_rows
from system.store.forget import ForgetReport, forget_log
from system.store.forget_plan import WORK_NAME, plan_forgetting
from system.store.ids import committed_ids
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.log_versions import drop_mined
from system.store.maintain import build_indices
from system.store.pictures import all_pictures
from system.store.runs import RunRecord, read_quarantine, read_runs, write_run
from system.store.schema import PICTURES, QUARANTINE, SCENES, pictures_schema, quarantine_schema
from system.store.sets import list_sets, save_set
from tests.cluster.jobs import call_job
from tests.serving import add_scenes, finish_run, jpeg, make_store

LOG = "log25"  # scenes 100 to 103; log2 and log5 are others'


@pytest.fixture
def location(tmp_path) -> StoreLocation:
    store = make_store(tmp_path / "store")
    build_indices(store)
    add_scenes(store, 12, first=100)
    report = {"repeated_logs": [f"fleet/{LOG} at /somewhere"], "figures": {"found": 42}}
    write_run(store, RunRecord("r1b", "m1", "finished", 3, 4, None, report))
    finish_run(store, "r2", 5)
    build_indices(store)
    rows = store.dataset(SCENES).to_table(columns=["scene_id", "log_id", "risk"])
    (tmp_path / "store" / "labels").mkdir()
    pq.write_table(rows, tmp_path / "store" / "labels" / "night.parquet", compression="zstd")
    store.write_text("reports/r2.html", f"<p>fleet/{LOG}</p>")
    store.write_text("reports/r1.html", "<p>fleet/log1</p>")
    return store


def of_log(location: StoreLocation) -> list[str]:
    return location.dataset(SCENES).to_table(columns=["scene_id"], filter=f"log_id = '{LOG}'")["scene_id"].to_pylist()


def save(location: StoreLocation, name: str, ids: list[str], search: dict | None = None) -> None:
    values = {
        "name": name,
        "created_by": "ana",
        "model_id": "m1",
        "version": 1,
        "scene_ids": tuple(ids),
        "search": search,
    }
    save_set(location, values)


def add_log(location: StoreLocation, log_id: str, source: str = "fleet", first: int = 0) -> list[str]:
    """LOG's scenes once more, of another log. first: of their ids, as a number."""
    rows = location.dataset(SCENES).to_table(filter=f"log_id = '{LOG}'")
    ids = [f"{first + k:032x}" for k in range(len(rows))]
    for name, values in (
        ("scene_id", ids),
        ("log_id", [log_id] * len(rows)),
        ("source", [source] * len(rows)),
        ("log_uri", [f"/logs/{source}/{log_id}.mcap"] * len(rows)),
    ):
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), [values])
    append_rows(location, SCENES, rows)
    return ids


def add_fault(location: StoreLocation, uri: str) -> None:
    """Of a whole log that could not be listed, so that nothing but its place is known."""
    row = {"quarantine_id": uri, "level": "log", "model_id": "m1", "run_id": "r1", "uri": uri, "stage": "list"}
    row |= {"code": "truncated", "message": f"{uri}: ends early"}
    append_rows(location, QUARANTINE, pa.Table.from_pylist([row], schema=quarantine_schema()))


def add_picture(location: StoreLocation, scene_id: str, content: bytes) -> None:
    row = {"picture_batch": "b", "scene_id": scene_id, "camera": "front", "t_ns": 1, "jpeg": content}
    append_rows(location, PICTURES, pa.Table.from_pylist([row], schema=pictures_schema()))


def erase(location: StoreLocation, log_id: str, source: str | None = None) -> ForgetReport:
    with Lease(location, "f") as lease:
        return forget_log(location, plan_forgetting(location, log_id, source), lease)


def everything(location: StoreLocation) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(Path(location.uri).rglob("*")) if path.is_file())


def test_nothing_of_a_log_is_left_and_all_else_is(location):
    gone = of_log(location)
    others = sorted(location.dataset(SCENES).to_table(columns=["scene_id"])["scene_id"].to_pylist())
    others = [scene_id for scene_id in others if scene_id not in gone]
    save(location, "both", [gone[0], others[0]], {"query": {"kind": "scene", "scene_id": gone[1]}})
    save(location, "its own", gone)
    save(location, "others", others[:2], {"where": {"logs": ["log1"]}})
    jpegs = list(all_pictures(location, gone))
    kept = sorted(all_pictures(location, others))
    assert len(gone) == 4 and len(jpegs) == 8

    with Lease(location, "f") as lease:
        report = forget_log(location, plan_forgetting(location, LOG), lease)

    assert report.raw_before > 4 and report.bytes_found_after == 0 and report.bytes_freed > 0
    assert report.rows["scenes"] == 4 and report.rows["thumbnails"] == 8
    assert report.tags_removed == ["run-r2"] and location.dataset(SCENES).tags.list().keys() == {"run-r1"}
    left = everything(location)
    assert LOG.encode() not in left and not any(scene_id.encode() in left for scene_id in gone)
    assert not any(jpeg[-60:-2] in left for jpeg in jpegs)
    assert sorted(location.dataset(SCENES).to_table(columns=["scene_id"])["scene_id"].to_pylist()) == others
    assert sorted(all_pictures(location, None)) == kept
    assert location.dataset(SCENES).checkout_version("run-r1").count_rows() == 30
    assert {saved.name: (len(saved.scene_ids), saved.search is None) for saved in list_sets(location)} == {
        "both": (1, True), "others": (2, False),
    }  # fmt: skip
    assert (report.sets_changed, report.sets_removed, report.runs_changed) == (1, 1, 1)
    assert report.reports_removed == ["reports/r2.html"] and location.read_text("reports/r1.html") is not None
    changed = next(run for run in read_runs(location) if run.run_id == "r1b")
    assert changed.report == {"repeated_logs": ["(forgotten)"], "figures": {"found": 42}}
    labels = pq.read_table(f"{location.uri}/labels/night.parquet")
    assert len(labels) == len(others) and LOG not in labels["log_id"].to_pylist()
    assert location.read_text(WORK_NAME) is None
    assert {index.field_names[0] for index in location.dataset(SCENES).describe_indices()} >= {"scene_id", "log_id"}
    with pytest.raises(ConfigError, match=f"knows no log '{LOG}'"):
        plan_forgetting(location, LOG)


@pytest.mark.parametrize("step", ["_remove_tags", "_change_records", "_remove_reports", "_erase_rows", "build_indices"])
def test_a_call_that_was_killed_is_gone_on_with(location, monkeypatch, step):
    gone = of_log(location)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    work = plan_forgetting(location, LOG)
    with Lease(location, "f") as lease:
        with monkeypatch.context() as patched:
            patched.setattr(forget, step, killed)
            with pytest.raises(KeyboardInterrupt):
                forget_log(location, work, lease)
        with pytest.raises(StoreError, match="was begun and not finished"):
            plan_forgetting(location, "log1")
        again = plan_forgetting(location, LOG)
        assert again == work and set(again.scene_ids) == set(gone)
        assert forget_log(location, again, lease).bytes_found_after == 0
    assert len(committed_ids(location, "m1")) == 38


def test_the_proof_finds_what_is_left(location, monkeypatch):
    with Lease(location, "f") as lease:
        work = plan_forgetting(location, LOG)
        location.write_text("reports/r3.html", f"<p>{work.scene_ids[0]}</p>")
        with monkeypatch.context() as patched:
            patched.setattr(forget, "_remove_reports", lambda *_: None)
            with pytest.raises(ReconcileError, match=r"bytes of the log are left, in .*r3\.html"):
                forget_log(location, work, lease)
        with pytest.raises(StoreError, match="was begun and not finished"):
            plan_forgetting(location, LOG, "other")
        again = plan_forgetting(location, LOG)
        assert again == work and forget_log(location, again, lease).bytes_found_after == 0
    assert location.read_text(WORK_NAME) is None


def test_pictures_of_an_upload_before_and_of_a_killed_driver_go_too(location):
    old = of_log(location)
    gone = list(all_pictures(location, old))
    gone.append(jpeg(999))
    new = add_log(location, "new", first=1)
    drop_mined(location, "m1", "fleet", LOG, 0, 10**9)
    finish_run(location, "r3", 7)  # its files hold the rows that were dropped
    rows = location.dataset(SCENES).to_table(filter="log_id = 'new'")
    location.dataset(SCENES).delete("log_id = 'new'")
    as_log = rows.set_column(rows.schema.get_field_index("log_id"), rows.schema.field("log_id"), [[LOG] * len(new)])
    append_rows(location, SCENES, as_log)
    add_picture(location, new[0], jpeg(500))
    add_picture(location, "f" * 32, gone[-1])
    report = erase(location, LOG)
    assert report.bytes_found_after == 0 and set(report.tags_removed) == {"run-r2", "run-r3"}
    left = everything(location)
    assert not any(name.encode() in left for name in (*old, *new))
    assert not any(content[-60:-2] in left for content in (*gone, jpeg(500)))
    assert location.dataset(PICTURES).count_rows() == 60, "two of each other scene that has any"


def test_faults_and_runs_that_name_a_logs_file_go_and_those_of_others_stay(location):
    add_log(location, "drive-0007")
    for name in ("drive-0007", "drive-0007b", "drive-0008"):
        add_fault(location, f"/logs/fleet/{name}.mcap")
    repeated = {"repeated_logs": ["/logs/fleet/drive-0007.mcap", "/logs/fleet/drive-0007.tar.gz", "drive-0007.5"]}
    write_run(location, RunRecord("r4", "m1", "finished", 8, 9, None, repeated))
    report = erase(location, "drive-0007")
    assert report.bytes_found_after == 0 and report.rows["quarantine"] == 1
    assert {row["uri"] for row in read_quarantine(location)} == {
        "/logs/fleet/drive-0007b.mcap", "/logs/fleet/drive-0008.mcap",
    }  # fmt: skip
    told = next(run for run in read_runs(location) if run.run_id == "r4").report["repeated_logs"]
    assert told == ["(forgotten)", "(forgotten)", "drive-0007.5"]


def test_a_model_remembers_how_it_mined_and_not_which_logs():
    config = MineConfig(logs=("/logs/drive-0007.mcap",), store="/store", report="/logs/report.html")
    told = json.loads(describe_model(config).config)
    assert "windows" in told and not {"logs", "store", "report"} & set(told)


def test_another_sources_log_of_the_same_id_keeps_all_its_own(location):
    kept, gone = (add_log(location, "drive-0007", source, k) for source, k in (("kept", 100), ("gone", 200)))
    rows = location.dataset(SCENES).to_table(columns=["scene_id", "source", "log_id"], filter="log_id = 'drive-0007'")
    pq.write_table(rows, f"{location.uri}/labels/of_both.parquet")
    location.write_text("reports/kept.html", "<p>kept/drive-0007</p>")
    location.write_text("reports/gone.html", "<p>gone/drive-0007</p>")
    for source in ("kept", "gone"):
        add_fault(location, f"/logs/{source}/drive-0007.mcap")
    report = erase(location, "drive-0007", "gone")
    assert report.bytes_found_after == 0 and report.reports_removed == ["reports/gone.html"]
    labels = pq.read_table(f"{location.uri}/labels/of_both.parquet")
    assert sorted(labels["scene_id"].to_pylist()) == kept and set(labels["source"].to_pylist()) == {"kept"}
    assert [row["uri"] for row in read_quarantine(location)] == ["/logs/kept/drive-0007.mcap"]
    left = everything(location)
    assert not any(scene_id.encode() in left for scene_id in gone)


def test_a_source_has_to_be_named_where_two_have_such_a_log(location):
    table = location.dataset(SCENES)
    rows = table.to_table(filter=f"log_id = '{LOG}'")
    other = rows.set_column(rows.schema.get_field_index("source"), "source", [["other"] * len(rows)])
    ids = [[f"{k:032x}" for k in range(len(rows))]]
    table.insert(other.set_column(0, "scene_id", ids).cast(rows.schema))
    with pytest.raises(ConfigError, match="of several sources: fleet, other; name a --source"):
        plan_forgetting(location, LOG)
    with Lease(location, "f") as lease:
        forget_log(location, plan_forgetting(location, LOG, "other"), lease)
    assert len(of_log(location)) == 4


def test_the_job_asks_first_and_tells_what_it_did(location):
    told = call_job("maintain_store", "--store", location.uri, "--forget", LOG)
    assert told.code == 0 and told.figures["scenes"] == 4 and told.figures["erased"] is False
    assert len(of_log(location)) == 4
    done = call_job("maintain_store", "--store", location.uri, "--forget", LOG, "--yes")
    assert done.code == 0, done.stderr
    assert done.figures["bytes_found_after"] == 0 and done.figures["erased"] is True
    assert json.dumps(done.figures)
    for wrong, code, message in (
        (["--forget", "nobody"], 2, "knows no log 'nobody'"),
        (["--yes"], 2, "go with --forget"),
        (["--keep-days", "-1"], 2, "keep_days"),
    ):
        found = call_job("maintain_store", "--store", location.uri, *wrong)
        assert found.code == code and message in found.stderr and "Traceback" not in found.stderr
    nowhere = call_job("maintain_store", "--store", f"{location.uri}-not")
    assert nowhere.code == 4 and "no Nightminer store is here" in nowhere.stderr


def test_a_short_id_takes_nothing_of_others_along(location):
    rows = location.dataset(SCENES).to_table(filter=f"log_id = '{LOG}'")
    short = rows.set_column(rows.schema.get_field_index("log_id"), "log_id", [["1"] * len(rows)])
    ids = [[f"{k:032x}" for k in range(len(rows))]]
    location.dataset(SCENES).insert(short.set_column(0, "scene_id", ids).cast(rows.schema))
    location.write_text("reports/r3.html", "<p>fleet/1</p>")
    location.write_text("reports/r4.html", "<p>fleet/12, 0.1, 1.5, run-1</p>")
    with Lease(location, "f") as lease:
        report = forget_log(location, plan_forgetting(location, "1"), lease)
    assert report.reports_removed == ["reports/r3.html"] and report.runs_changed == 0
    assert location.marker() is not None and len(of_log(location)) == 4


def test_nobody_may_write_meanwhile(location):
    with Lease(location, "miner"):
        found = call_job("maintain_store", "--store", location.uri, "--forget", LOG, "--yes")
    assert found.code == 4 and "miner" in found.stderr
    assert issubclass(LeaseError, StoreError) and len(of_log(location)) == 4


def test_patterns_are_found_at_every_offset_and_over_the_ends_of_chunks():
    patterns = [b"0123456789abcdef", b"picture bytes", b"01234567ZZZ"]
    finder = PatternFinder(patterns)
    for offset in range(20):
        assert finder.found_in(b"x" * offset + b"..picture bytes...") == {b"picture bytes"}
        assert finder.found_in(b"y" * offset + b"0123456789abcdef") == {patterns[0]}
    assert finder.found_in(b"0123456789abcde picture byte") == set()
    assert finder.found_in(b"") == set() and finder.found_in(b"012") == set()
    with pytest.raises(ValueError, match="less than 8 bytes"):
        PatternFinder([b"short"])


def test_all_pictures_are_those_of_no_row_too(location):
    assert len(list(all_pictures(location, None))) == location.dataset(PICTURES).count_rows()
    assert list(all_pictures(location, [])) == []


def test_a_log_that_still_lies_at_its_source_is_not_erased_unasked(location, tmp_path):
    source, away = tmp_path / "drive.mcap", "s4://nowhere/drive.mcap"
    source.write_bytes(b"drive")
    ids = of_log(location)
    scenes = location.dataset(SCENES)
    scenes.update({"log_uri": f"'{source}'"}, where=f"scene_id = '{ids[0]}'")
    scenes.update({"log_uri": f"'{away}'"}, where=f"scene_id = '{ids[1]}'")
    command = ("maintain_store", "--store", location.uri, "--forget", LOG)
    told = call_job(*command)
    assert (told.figures["sources_left"], told.figures["sources_unknown"]) == ([str(source)], [away])
    refused = call_job(*command, "--yes")
    assert refused.code == 2 and f"still lies at {source}: delete it there first" in refused.stderr
    assert len(of_log(location)) == 4
    kept = call_job(*command, "--yes", "--keep-source", "--no-prove")
    assert kept.code == 0 and kept.figures["sources_left"] == [str(source)] and not of_log(location)


def test_a_log_that_was_deleted_at_its_source_is_erased_though_another_place_does_not_answer(location):
    scenes, away = location.dataset(SCENES), "s4://nowhere/drive.mcap"
    scenes.update({"log_uri": f"'{away}'"}, where=f"log_id = '{LOG}'")
    done = call_job("maintain_store", "--store", location.uri, "--forget", LOG, "--yes", "--no-prove")
    assert done.code == 0 and not of_log(location)
    assert (done.figures["sources_left"], done.figures["sources_unknown"]) == ([], [away])
