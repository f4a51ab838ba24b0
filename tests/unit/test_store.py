"""The store without Ray: two phases, exactly once, pictures, ranking, search."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from botocore.exceptions import EndpointConnectionError
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from system.errors import ConfigError, LeaseError, SchemaError, StoreError
from system.records import scene_id
from system.store import lease as lease_module
from system.store.commits import append_rows, commit_appended, commit_updated, write_uncommitted
from system.store.filters import SceneFilter
from system.store.ids import IdSet, committed_ids
from system.store.lease import Holder, Lease, current_holder
from system.store.location import MARKER, StoreLocation
from system.store.maintain import build_indices, remove_orphans, tag_version
from system.store.pictures import read_pictures
from system.store.ranking import nearest_distance, num_unranked, read_signals, read_vectors, write_ranks
from system.store.runs import RunRecord, read_run, read_runs, write_run
from system.store.schema import PICTURES, SCENES, pictures_schema, scenes_schema
from system.store.search import SearchConfig, embedding_of, search_scenes
from system.store.tables import ModelRow, check_model, open_for_writing
from system.store.vector_index import VectorIndexConfig

DIM = 8
MODEL = ModelRow("m1", "packaged", "tower-1", None, DIM, ("night", "rain"), "{}")


def scene_rows(count: int, first: int = 0, batch: str = "b1", model_id: str = "m1") -> pa.Table:
    rng = np.random.default_rng(first)
    rows = []
    for k in range(first, first + count):
        embedding = rng.normal(size=DIM).astype(np.float32)
        rows.append(
            {
                "scene_id": scene_id("fleet", f"log{k // 4}", k, 4),
                "model_id": model_id,
                "run_id": "r1",
                "source": "fleet",
                "log_id": f"log{k // 4}",
                "log_uri": "somewhere",
                "reader": "plain",
                "t_start_ns": k * 1000,
                "t_end_ns": k * 1000 + 1000,
                "embedding": None if k % 5 == 4 else embedding / np.linalg.norm(embedding),
                "tags": ["night"] if k % 2 else ["rain", "it's"],
                "risk": k / 100 if k % 3 else None,
                "num_pictures": 0 if k % 5 == 4 else 3,
                "picture_batch": batch,
            }
        )
    return pa.Table.from_pylist(rows, schema=scenes_schema(DIM))


@pytest.fixture
def location(tmp_path) -> StoreLocation:
    place = StoreLocation.parse(str(tmp_path / "store"))
    open_for_writing(place, MODEL)
    return place


def test_uncommitted_fragments_are_no_rows_and_committed_ones_are(location):
    fragments = write_uncommitted(location, SCENES, scene_rows(10))
    assert len(committed_ids(location, "m1")) == 0
    commit_appended(location, SCENES, fragments)
    ids = committed_ids(location, "m1")
    assert len(ids) == 10
    assert scene_id("fleet", "log0", 0, 4) in ids
    assert scene_id("fleet", "log0", 99, 4) not in ids
    assert len(committed_ids(location, "another model")) == 0


def test_orphans_are_removed_and_committed_rows_stay(location):
    append_rows(location, SCENES, scene_rows(10))
    write_uncommitted(location, SCENES, scene_rows(10, first=50))
    assert remove_orphans(location, older_than_days=0) > 0
    assert len(committed_ids(location, "m1")) == 10
    assert location.dataset(SCENES).to_table().num_rows == 10


@given(st.sets(st.integers(0, 50_000), max_size=60), st.sets(st.integers(0, 50_000), max_size=60))
def test_id_set_is_a_set(first: set[int], later: set[int]):
    as_id = {k: scene_id("s", "l", k, 1) for k in first | later | {60_000}}
    as_id[60_001] = "00" * 16
    as_id[60_002] = "ab" * 15 + "00"
    ids = IdSet(as_id[k] for k in first)
    for k in later:
        ids.add(as_id[k])
    assert {k for k, text in as_id.items() if text in ids} == first | later
    assert len(ids) == len(first | later)


def test_a_column_of_ids_is_the_same_set_and_others_are_refused():
    shared = ["ab" * 8 + "00" * 8, "ab" * 8 + "ff" * 8]
    texts = [scene_id("s", "l", k, 1) for k in range(500)] + shared
    column = pa.array(["0" * 32, *texts, texts[0], shared[1]])
    ids = IdSet.of_batches([column[1:200], column[200:], column[:0]])
    assert len(ids) == len(texts) and all(text in ids for text in texts)
    assert "0" * 32 not in ids and "ab" * 8 + "01" * 8 not in ids
    for text in texts:
        ids.add(text)
    for k in range(9000):
        ids.add(scene_id("other", "l", k, 1))
    assert len(ids) == len(texts) + 9000 and all(text in ids for text in (*texts, scene_id("other", "l", 8999, 1)))
    for odd in (["ab"], ["g" * 32], [None, "a" * 32]):
        with pytest.raises(StoreError, match="is not 32 hexadecimal digits"):
            IdSet.of_batches([pa.array(odd, pa.string())])


def test_pictures_of_a_batch_that_no_scene_names_are_never_shown(location):
    rows = scene_rows(1)
    wanted = rows["scene_id"][0].as_py()

    def pictures(batch: str, jpeg: bytes) -> pa.Table:
        row = {
            "picture_batch": batch,
            "scene_id": wanted,
            "camera": "front",
            "t_ns": 1,
            "width": 2,
            "height": 1,
            "jpeg": jpeg,
        }
        return pa.Table.from_pylist([row], schema=pictures_schema())

    append_rows(location, PICTURES, pictures("killed", b"old"))
    append_rows(location, PICTURES, pictures("b1", b"new"))
    append_rows(location, SCENES, rows)
    found = read_pictures(location, {wanted: rows["picture_batch"][0].as_py()})
    assert [picture.jpeg for picture in found[wanted]] == [b"new"]


def test_ranks_are_rewritten_in_place(location):
    append_rows(location, SCENES, scene_rows(10))
    append_rows(location, SCENES, scene_rows(5, first=10))
    append_rows(location, SCENES, scene_rows(3, first=10, model_id="m2"))
    assert num_unranked(location, "m1") == 15
    dataset = location.dataset(SCENES)
    signals = read_signals(dataset, "m1")
    assert len(signals.risk) == 15 and np.isnan(signals.risk[0]) and np.isnan(signals.rarity).all()
    assert signals.risk[7] == pytest.approx(0.07)
    vectors = read_vectors(dataset, "m1")
    assert vectors.embedding_NE.shape == (12, DIM) and len(set(vectors.log.tolist())) == 4
    values = np.linspace(0, 1, 15)
    names = ("rarity", "risk_rank", "ambiguity_rank", "rarity_rank", "hardness")
    fragments, fields = write_ranks(dataset, signals.row_address, lambda rows: dict.fromkeys(names, values[rows]))
    assert num_unranked(location, "m1") == 15
    commit_updated(location, SCENES, fragments, fields, dataset.version)
    assert num_unranked(location, "m1") == 0
    assert num_unranked(location, "m2") == 3
    build_indices(location)
    hardest = search_scenes(location, None, SceneFilter(model_id="m1"), SearchConfig(top=3))
    assert [row["hardness"] for row in hardest] == pytest.approx([1.0, 13 / 14, 12 / 14])


def test_vector_search_finds_the_scene_itself_and_obeys_filters(location):
    append_rows(location, SCENES, scene_rows(40))
    build_indices(location)
    wanted = scene_id("fleet", "log1", 6, 4)
    query = embedding_of(location, wanted, "m1")
    assert search_scenes(location, query, SceneFilter(), SearchConfig(top=1))[0]["scene_id"] == wanted
    rows = search_scenes(
        location, query, SceneFilter(tags=("night",), min_risk=0.1, log_ids=("log4", "log5")), SearchConfig()
    )
    assert rows
    for row in rows:
        assert "night" in row["tags"]
        assert row["risk"] >= 0.1
        assert row["log_id"] in ("log4", "log5")


def test_the_same_search_with_a_vector_index_gives_the_same_best(location):
    append_rows(location, SCENES, scene_rows(600))
    query = embedding_of(location, scene_id("fleet", "log1", 6, 4), "m1")
    exact = [row["scene_id"] for row in search_scenes(location, query, SceneFilter(), SearchConfig(top=10))]
    build_indices(location, VectorIndexConfig(from_rows=100))
    found = [row["scene_id"] for row in search_scenes(location, query, SceneFilter(), SearchConfig(top=10))]
    assert len(set(exact) & set(found)) >= 9
    distances = nearest_distance(location, "m1", query[None], ["log1"], 3)
    assert 0 < distances[0] < 1


def test_a_users_string_is_a_literal_and_never_a_condition(location):
    append_rows(location, SCENES, scene_rows(10))
    for hostile in ("x') OR ('a' = 'a", "it's", "'; DROP TABLE scenes; --", "\\", "%"):
        rows = search_scenes(location, None, SceneFilter(log_ids=(hostile,)), SearchConfig())
        assert rows == []
    assert len(search_scenes(location, None, SceneFilter(tags=("it's",)), SearchConfig())) == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_risk": 2}, "min_risk"),
        ({"min_risk": 0.5, "max_risk": 0.1}, "above max_risk"),
        ({"from_ns": 5, "to_ns": 5}, "not before"),
        ({"tag": "night"}, "tag"),
    ],
)
def test_a_wrong_filter_is_refused_by_name(values, message):
    with pytest.raises(ConfigError, match=message):
        SceneFilter.parse(values, "options")


def test_unknown_tag_names_the_known_ones():
    with pytest.raises(ConfigError, match="unknown tag 'fgo'; this store knows: night, rain"):
        SceneFilter(tags=("fgo",)).check_tags(("night", "rain"))


def test_yesterdays_answer_can_be_asked_for_again(location):
    append_rows(location, SCENES, scene_rows(4))
    tag_version(location, "run-1")
    append_rows(location, SCENES, scene_rows(4, first=4))
    assert len(search_scenes(location, None, SceneFilter(), SearchConfig())) == 8
    assert len(search_scenes(location, None, SceneFilter(), SearchConfig(), "run-1")) == 4
    with pytest.raises(ConfigError, match="no table version tagged 'run-2'; it has run-1"):
        search_scenes(location, None, SceneFilter(), SearchConfig(), "run-2")


def test_a_second_writer_is_told_who_holds_the_lease(location):
    with Lease(location, "run-1") as lease:
        lease.check()
        assert current_holder(location).run_id == "run-1"
        with pytest.raises(LeaseError, match=f"run run-1 .process {os.getpid()} on"), Lease(location, "run-2"):
            pass
    assert current_holder(location) is None
    with Lease(location, "run-3"):
        pass


def test_a_dead_process_is_replaced_at_once_and_a_silent_host_after_its_time(location):
    def hold(**changes) -> None:
        lease = Lease(location, "old")
        lease.__enter__()
        lease._stop.set()
        lease._thread.join()
        text = json.loads(location.read_text("_lease/00000001.json"))
        location.write_text("_lease/00000001.json", json.dumps(text | changes))

    hold(pid=2**22 + 1)
    with Lease(location, "new"):
        pass
    (location_file := location.read_text("_lease/00000002.json"))
    assert '"released": true' in location_file


def test_a_writer_that_was_overtaken_commits_nothing(location):
    with Lease(location, "slow") as slow:
        text = json.loads(location.read_text("_lease/00000001.json"))
        location.write_text("_lease/00000001.json", json.dumps(text | {"beat_ns": 0}))
        with Lease(location, "fast") as fast:
            fast.check()
            with pytest.raises(LeaseError, match="the lease was lost"):
                slow.check()


@pytest.mark.parametrize("behind_s", [1000, -1000])
def test_a_holder_elsewhere_is_dead_when_it_was_watched_and_not_by_its_clock(location, monkeypatch, behind_s):
    monkeypatch.setattr(lease_module, "_POLL_S", 0.05)
    far = replace(Holder.this_process("far"), host="another-machine", beat_ns=time.time_ns() - behind_s * 10**9)
    text, beaten = json.dumps(asdict(far)), json.dumps(asdict(replace(far, beat_ns=far.beat_ns + 1)))
    location.write_text("_lease/00000001.json", text)
    beat = threading.Timer(0.15, lambda: location.write_text("_lease/00000001.json", beaten))
    beat.start()
    with pytest.raises(LeaseError, match=r"run far .* on another-machine"), Lease(location, "new", time_to_live_s=30):
        pass
    beat.join()
    started_s = time.monotonic()
    with Lease(location, "new", time_to_live_s=0.3):
        assert time.monotonic() - started_s >= 0.3


def test_a_lease_that_another_took_and_gave_back_while_a_holder_was_watched_is_free(location, monkeypatch):
    monkeypatch.setattr(lease_module, "_POLL_S", 0.05)
    far = replace(Holder.this_process("far"), host="another-machine", beat_ns=0)
    location.write_text("_lease/00000001.json", json.dumps(asdict(far)))
    released = json.dumps(asdict(replace(far, run_id="other", released=True)))
    taken = threading.Timer(0.1, lambda: location.write_text("_lease/00000002.json", released))
    taken.start()
    with Lease(location, "new", time_to_live_s=30) as lease:
        lease.check()
        assert location.read_text("_lease/00000003.json") is not None
    taken.join()


@pytest.fixture
def bucket(monkeypatch) -> StoreLocation:
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    return StoreLocation.parse("memory://bucket/store")


def test_a_lease_is_held_though_the_answer_to_its_put_was_lost(bucket, monkeypatch):
    put = MemoryFileSystem.pipe_file

    def put_twice(fs: MemoryFileSystem, path: str, value: bytes, mode: str = "overwrite") -> None:
        put(fs, path, value, mode)
        if mode == "create":
            raise FileExistsError(path)  # what a client's second try is told

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", put_twice)
    with Lease(bucket, "r1") as lease:
        lease.check()
        assert current_holder(bucket).run_id == "r1"
    monkeypatch.setattr(lease_module, "_newest_generation", lambda _: 0)
    with pytest.raises(LeaseError, match="another job took the lease"), Lease(bucket, "r2"):
        pass


def test_a_heartbeat_goes_on_after_a_connection_was_cut(bucket, monkeypatch):
    cut, told, beats, ls = threading.Event(), threading.Event(), threading.Event(), MemoryFileSystem.ls

    def cut_ls(*args: Any, **options: Any) -> Any:
        if cut.is_set():
            told.set()
            raise EndpointConnectionError(endpoint_url="https://bucket")
        return ls(*args, **options)

    monkeypatch.setattr(MemoryFileSystem, "ls", cut_ls)
    with Lease(bucket, "r1", heartbeat_s=0.02, on_beat=lambda is_alive: is_alive and beats.set()) as lease:
        cut.set()
        with pytest.raises(StoreError, match="cannot list its lease"):
            lease.check()
        told.clear()
        assert told.wait(5), "the thread has not died of the first cut"
        cut.clear()
        beats.clear()
        assert beats.wait(5)
        lease.check()


def test_a_newer_schema_another_tower_and_foreign_tables_are_refused_untouched(location):
    append_rows(location, SCENES, scene_rows(3))
    other = ModelRow("m2", "clip", "tower-2", None, DIM, ("night",), "{}")
    with pytest.raises(SchemaError, match="holds embeddings of the tower 'packaged'"):
        check_model(location, other)
    marker = json.loads(location.read_text(MARKER))
    location.write_text(MARKER, json.dumps(marker | {"schema_version": 99}))
    with pytest.raises(SchemaError, match="schema version 99"):
        check_model(location, MODEL)
    location.write_text(MARKER, "{")
    with pytest.raises(StoreError, match="is damaged"):
        check_model(location, MODEL)
    location.write_text(MARKER, json.dumps(marker))
    with pytest.raises(SchemaError, match="does not have the columns"):
        open_for_writing(location, ModelRow("m3", "packaged", "tower-1", None, DIM + 1, (), "{}"))
    assert len(committed_ids(location, "m1")) == 3


def test_the_record_of_a_run_is_replaced_and_not_repeated(location):
    write_run(location, RunRecord("r1", "m1", "running", 1, None, None, {"figures": {}}))
    write_run(location, RunRecord("r1", "m1", "finished", 1, 2, 7, {"figures": {"found": 3}}))
    assert [run.status for run in read_runs(location)] == ["finished"]
    assert read_run(location, "latest").report["figures"]["found"] == 3
    with pytest.raises(ConfigError, match="no run 'r9'; the newest are: r1"):
        read_run(location, "r9")


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    place = StoreLocation.parse(str(tmp_path / "file"))
    with pytest.raises(StoreError, match="expected a folder"):
        open_for_writing(place, MODEL)
    with pytest.raises(ConfigError, match="empty"):
        StoreLocation.parse(" ")
    with pytest.raises(ConfigError, match="no file system"):
        StoreLocation.parse("nosuch://x")
