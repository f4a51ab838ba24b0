"""Pages, pinned versions, and what changes under a server, without Ray."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from serve import search_store
from serve.search_store import SearchStore
from serve.settings import Limits
from system.records import scene_id
from system.store.commits import append_rows
from system.store.detections import DETECTIONS, detections_schema, open_detections
from system.store.filters import SceneFilter
from system.store.maintain import remove_orphans, tag_version
from system.store.runs import RunRecord, write_run
from system.store.schema import SCENES
from system.store.tables import open_for_writing
from system.store.vector_index import VectorIndexConfig, refresh_vector_index
from tests.serving import (
    DIM,
    MODEL,
    SCENE,
    TEXT,
    FakeEncoder,
    Server,
    add_scenes,
    all_pages,
    ask,
    finish_run,
    ids,
    jpeg,
    make_server,
    make_server_over,
    search,
)


@pytest.mark.parametrize("query", [None, TEXT, {"kind": "scene", "scene_id": SCENE}])
@pytest.mark.parametrize("weights", [{"similarity": 1}, {"similarity": 0.4, "hardness": 0.6}])
def test_pages_neither_repeat_nor_miss_while_rows_arrive(tmp_path, query, weights):
    server = make_server(tmp_path)
    asked = {"query": query, "weights": weights}
    whole = ids(search(server, **asked, top=100))
    first = search(server, **asked, top=7)
    found, cursor, arrived = ids(first), first["next_cursor"], 0
    while cursor:
        add_scenes(server.location, 3, first=100 + 3 * arrived)
        arrived += 1
        page = search(server, **asked, top=7, cursor=cursor)
        assert page["version"] == first["version"] and page["total"] == first["total"]
        found, cursor = found + ids(page), page["next_cursor"]
    assert found == whole and len(set(found)) == len(found) and arrived >= 3
    # The next question sees what has come, without a restart.
    assert search(server, weights=weights)["total"] == 30 + 3 * arrived


def test_a_page_is_the_same_from_a_server_that_has_just_started(tmp_path):
    server = make_server(tmp_path)
    first = search(server, query=TEXT, top=5)
    add_scenes(server.location, 5, first=200)
    again = make_server_over(server)
    page = {"query": TEXT, "top": 5, "cursor": first["next_cursor"]}
    assert ids(search(again, **page)) == ids(search(server, **page))


def test_versions_share_what_was_read_of_files_until_the_index_is_another(tmp_path):
    server = make_server(tmp_path)
    store = SearchStore(server.location)
    sessions = [store.view().snapshot.dataset.session()]
    add_scenes(server.location, 400, first=100)
    sessions += [store.view(as_of).snapshot.dataset.session() for as_of in (None, "run-r1")]
    assert all(session.is_same_as(sessions[0]) for session in sessions)
    assert refresh_vector_index(server.location, VectorIndexConfig(from_rows=256, queries=4)) is not None
    assert not store.view().snapshot.dataset.session().is_same_as(sessions[0])


def test_a_version_that_nobody_has_looked_into_may_be_removed_while_it_is_held(tmp_path):
    server = make_server(tmp_path)
    for k in range(15):  # so many files that what a version says of its index is read by itself
        add_scenes(server.location, 30, first=100 + 30 * k)
    refresh_vector_index(server.location, VectorIndexConfig(from_rows=256, queries=4))
    assert ask(server, "GET", "/readyz").status_code == 200
    add_scenes(server.location, 1, first=900)
    finish_run(server.location, "r9", 9)
    remove_orphans(server.location, older_than_days=0)
    for path in ("/v1/hard", "/readyz", "/v1/overview"):
        assert ask(server, "GET", path).status_code == 200, path


def test_a_store_that_is_made_anew_at_the_same_place_is_another(tmp_path):
    server = make_server(tmp_path)
    store = server.app.state.context.services.store
    before = search(server)
    shutil.rmtree(server.location.uri)
    open_for_writing(server.location, MODEL)
    add_scenes(server.location, 12)
    finish_run(server.location, "r1", started_ns=77)
    store._read = (-1e9, *store._read[1:])  # as a second later
    after = search(server, top=100)
    assert before["total"] == 30 and after["version"] == before["version"]
    assert after["total"] == len(after["hits"]) == 12


@dataclass
class WanderingEncoder(FakeEncoder):
    """Never says quite the same again, as a model in batches of another size; and far more so, that a test sees it."""

    noise: float = 1e-7

    async def encode_text(self, text: str) -> NDArray[np.float32]:
        vector = await super().encode_text(text)
        vector += self.noise * np.random.default_rng(self.asked).normal(size=len(vector)).astype(np.float32)
        return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("noise", [1e-7, 1.0])
def test_pages_of_a_query_are_of_the_first_ones_vector_whoever_answers(tmp_path, noise):
    server = replace(make_server(tmp_path), encoder=WanderingEncoder(noise=noise))
    picture = {"kind": "image", "image_base64": base64.b64encode(jpeg()).decode()}
    for query in (TEXT, picture):
        found, cursor, asked = [], None, server.encoder.asked
        for _ in range(4):
            page = search(make_server_over(server), query=query, top=6, cursor=cursor)
            found, cursor = found + ids(page), page["next_cursor"]
            query = {**query, "text": " bus  in fog "} if "text" in query else query
        assert cursor is None and len(set(found)) == len(found) == 24
        assert server.encoder.asked == asked + 1


def test_a_cursor_that_no_server_has_written_is_refused(server):
    cursor = search(server, query=TEXT, top=5)["next_cursor"]
    known, vector = cursor.split(".q")
    ones = base64.b64encode(np.full(DIM, 1e30, "<f4").tobytes()).decode().rstrip("=")
    for forged in (known + ".qA", known + ".qAAAAAA", known + ".q" + vector[:12], f"{known}.q{ones}", known + ".d7"):
        answer = ask(server, "POST", "/v1/search", json={"query": TEXT, "top": 5, "cursor": forged})
        assert answer.status_code in (409, 410) and answer.json()["code"] in ("foreign_cursor", "stale_cursor"), forged


def found_by(server: Server, scenes: list[str], detector: str = "d", run_id: str = "1") -> None:
    """A detector has seen a person in some scenes."""
    open_detections(server.location)
    rows = [
        {"scene_id": scene, "detector_id": detector, "run_id": run_id, "num_pictures": 1, "picture": [0],
         "label": ["person"], "score": [0.9]}
        for scene in scenes
    ]  # fmt: skip
    append_rows(server.location, DETECTIONS, pa.Table.from_pylist(rows, schema=detections_schema()))


def test_pages_of_what_a_detector_found_go_on_while_detectors_look(tmp_path):
    server = make_server(tmp_path)
    scenes = all_pages(server)
    found_by(server, scenes[:12])
    asked = {"where": {"detected": [{"label": "person"}]}, "top": 5}
    whole = ids(search(server, **asked | {"top": 50}))
    first = search(server, **asked)
    found_by(server, scenes[12:20])
    second = search(server, **asked, cursor=first["next_cursor"])
    found_by(server, scenes[20:], "new", "2")
    third = search(make_server_over(server), **asked, cursor=second["next_cursor"])
    assert ids(first) + ids(second) + ids(third) == whole and third["next_cursor"] is None
    assert third["total"] == 12 and search(server, **asked)["total"] == 10, "the newest detector, to who begins anew"
    by_url = f"/v1/hard?detected=person&top=5&cursor={search(server, **asked)['next_cursor']}"
    assert ask(server, "GET", by_url).json()["code"] == "foreign_cursor", "by other weights"
    dated = search(server, **asked, as_of="run-r1")
    assert dated["total"] == 10 and "those of now" in dated["notes"][0]
    finish_run(server.location, "r2", 2)
    remove_orphans(server.location, older_than_days=0)
    lost = ask(server, "POST", "/v1/search", json={**asked, "cursor": first["next_cursor"]})
    assert lost.status_code == 410 and lost.json()["code"] == "stale_cursor"


def test_a_cursor_of_another_question_or_a_lost_version_is_refused(tmp_path):
    server = make_server(tmp_path)
    add_scenes(server.location, 3, first=100)  # the newest version is not tagged
    cursor = search(server, query=TEXT, top=5)["next_cursor"]
    other = ask(server, "POST", "/v1/search", json={"query": TEXT, "where": {"tags": ["night"]}, "cursor": cursor})
    assert other.status_code == 409 and other.json()["code"] == "foreign_cursor"
    add_scenes(server.location, 3, first=200)
    search(server, query=TEXT, top=5, cursor=cursor)
    finish_run(server.location, "r2", 2)
    remove_orphans(server.location, older_than_days=0)
    again = make_server_over(server)
    for each in (again, server):  # the one has the version open still
        lost = ask(each, "POST", "/v1/search", json={"query": TEXT, "top": 5, "cursor": cursor})
        assert lost.status_code == 410 and lost.json()["code"] == "stale_cursor"


def test_yesterdays_answer_can_be_asked_for(tmp_path):
    server = make_server(tmp_path)
    before = ids(search(server, query=TEXT, top=50))
    add_scenes(server.location, 10, first=100)
    finish_run(server.location, "r2", 2)
    assert ids(search(server, query=TEXT, top=50, as_of="run-r1")) == before
    assert search(server, as_of="run-r2")["total"] == 40
    missing = ask(server, "POST", "/v1/search", json={"as_of": "run-r9"})
    assert missing.status_code == 404 and missing.json()["code"] == "unknown_version"
    runs = {run["run_id"]: run for run in ask(server, "GET", "/v1/runs").json()["runs"]}
    assert runs["r1"]["tag"] == "run-r1" and "secret" not in json.dumps(runs)
    assert ask(server, "GET", "/v1/overview?as_of=run-r1").json()["num_scenes"] == 30


def test_what_was_read_is_forgotten_with_its_tag_and_version(tmp_path):
    server = make_server(tmp_path)
    finish_run(server.location, "r2", 2)
    tag_version(server.location, "night-1")
    assert search(server, as_of="night-1")["total"] == 30
    add_scenes(server.location, 3, first=100)
    tag_version(server.location, "night-1")
    assert search(server, as_of="night-1")["total"] == 33, "it has moved"
    logs = {log["log_id"] for log in ask(server, "GET", "/v1/logs?as_of=run-r1").json()["logs"]}
    assert "log0" in logs
    server.location.dataset(SCENES).delete("log_id = 'log0'")
    server.location.dataset(SCENES).tags.delete("run-r1")
    gone = ask(server, "GET", "/v1/logs?as_of=run-r1")
    assert gone.status_code == 404 and gone.json()["code"] == "unknown_version"


def test_what_is_kept_is_known_by_short_names(tmp_path):
    server = make_server(tmp_path)
    store = server.app.state.context.services.store
    many = SceneFilter(scene_ids=tuple(f"{k:032x}" for k in range(1000)))
    assert store.count(store.view(), many) == 0 and store.logs(store.view(), many) == []
    assert len(store._facets._values) == 2 and all(len(key) < 100 for key in store._facets._values)


def test_a_run_tells_what_its_vector_index_finds_and_searches_use_it(tmp_path):
    server = make_server(tmp_path)
    add_scenes(server.location, 400, first=100)
    exact = ids(search(server, query=TEXT, top=10))
    index = refresh_vector_index(server.location, VectorIndexConfig(from_rows=256, queries=4))
    report = {"figures": {}, "vector_index": index.as_json()}
    write_run(server.location, RunRecord("r2", "m1", "finished", 2, 3, None, report))
    server.app.state.context.services.store._read = None  # as a second later
    told = ask(server, "GET", "/v1/runs").json()["runs"]
    assert told[0]["vector_index"]["kind"] == "IVF_SQ" and told[0]["vector_index"]["recall_at_10"] >= 0.95
    assert told[1]["vector_index"] is None
    found = search(server, query=TEXT, top=10)
    assert len(set(ids(found)) & set(exact)) >= 9
    assert found["total"] == 24 + 320, "scenes without pictures do not count"


def test_a_new_model_is_shown_when_its_run_has_finished(tmp_path):
    server = make_server(tmp_path)
    similar = {"kind": "scene", "scene_id": scene_id("fleet", "log6", 26, 4)}  # the new model will not have it
    cursor = search(server, query=TEXT, top=5)["next_cursor"]
    more_like = search(server, query=similar, top=5)["next_cursor"]
    open_for_writing(server.location, replace(MODEL, model_id="m2"))
    add_scenes(server.location, 4, model_id="m2")
    write_run(server.location, RunRecord("r2", "m2", "running", 2, None, None, {"figures": {}}))
    server.app.state.context.services.store._read = None  # as a second later
    assert search_store._RUNS_AGE_S <= 1 and search(server)["model_id"] == "m1"
    finish_run(server.location, "r2", 2, "m2")
    server.app.state.context.services.store._read = None
    assert search(server)["model_id"] == "m2" and search(server)["total"] == 4
    # A page that was begun goes on with the model that it began with.
    assert search(server, query=TEXT, top=5, cursor=cursor)["model_id"] == "m1"
    assert search(server, query=similar, top=5, cursor=more_like)["model_id"] == "m1"


def test_paging_ends_where_the_server_says_it_does(tmp_path):
    server = make_server(tmp_path, Limits(max_depth=10))
    assert len(all_pages(server, top=4)) == 10


def test_a_text_is_encoded_once_for_all_its_pages(tmp_path):
    server = make_server(tmp_path)
    all_pages(server, query=TEXT, top=5)
    assert server.encoder.asked == 1
    server.encoder.is_busy = True
    busy = ask(server, "POST", "/v1/search", json={"query": {"kind": "text", "text": "other"}})
    assert busy.status_code == 503 and busy.headers["retry-after"] == "1" and busy.json()["code"] == "encoder_busy"
