"""Search, paging, pinned versions, pictures and sets over HTTP, without Ray."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import shutil
import threading
import time
import zipfile
from dataclasses import dataclass, replace
from types import SimpleNamespace

import httpx2 as httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from serve import queries, search_store
from serve.app import create_app
from serve.routes import frames, health
from serve.search_store import SearchStore
from serve.services import Services
from serve.settings import Limits
from system.logs.decoding import Picture
from system.records import scene_id
from system.store.commits import append_rows
from system.store.detections import DETECTIONS, detections_schema, open_detections
from system.store.filters import SceneFilter
from system.store.log_versions import drop_mined
from system.store.maintain import remove_orphans, tag_version
from system.store.runs import RunRecord, write_run
from system.store.schema import PICTURES, SCENES, pictures_schema
from system.store.tables import open_for_writing
from system.store.vector_index import VectorIndexConfig, refresh_vector_index
from tests.serving import DIM, MODEL, FakeEncoder, Server, add_scenes, finish_run, jpeg, make_server

SCENE, BARE = scene_id("fleet", "log0", 1, 4), scene_id("fleet", "log1", 4, 4)
TEXT = {"kind": "text", "text": "bus in fog"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Only read by the tests that share it."""
    return make_server(tmp_path_factory.mktemp("search"))


def ask(server: Server, method: str, path: str, **options) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(server.app)
        headers = server.token() | options.pop("headers", {})
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as session:
            return await session.request(method, path, **options)

    return asyncio.run(once())


def search(server: Server, **body) -> dict:
    answer = ask(server, "POST", "/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: dict) -> list[str]:
    return [hit["scene"]["scene_id"] for hit in answer["hits"]]


def all_pages(server: Server, **body) -> list[str]:
    found, cursor = [], None
    while True:
        answer = search(server, **body, cursor=cursor)
        found += ids(answer)
        cursor = answer["next_cursor"]
        if cursor is None:
            return found


def test_a_score_is_the_sum_of_its_parts_and_orders_the_results(server):
    weights = {"similarity": 0.5, "hardness": 0.3, "risk": 0.15, "rarity": 0.05}
    answer = search(server, query=TEXT, weights=weights, top=50)
    assert answer["total"] == 24 and len(answer["hits"]) == 24  # the six without pictures cannot be compared
    totals = [hit["score"]["total"] for hit in answer["hits"]]
    assert totals == sorted(totals, reverse=True)
    for hit in answer["hits"]:
        parts = {part["name"]: part for part in hit["score"]["parts"]}
        assert set(parts) == set(weights) and abs(sum(p["weight"] for p in parts.values()) - 1) < 1e-9
        assert abs(sum(part["contribution"] for part in parts.values()) - hit["score"]["total"]) < 1e-9
        assert parts["hardness"]["value"] == hit["scene"]["hardness"] and hit["score"]["why"].endswith(".")
        assert parts["risk"]["value"] == hit["scene"]["risk"]
    first = search(server, query=TEXT, top=1)["hits"][0]["score"]
    assert first["parts"] == [
        {"name": "similarity", "value": first["total"], "weight": 1.0, "contribution": first["total"]}
    ]


def test_weights_change_the_order(server):
    by = {name: all_pages(server, weights={"similarity": 0, name: 1}) for name in ("hardness", "risk", "rarity")}
    assert len({tuple(order) for order in by.values()}) == 3 and all(len(set(order)) == 30 for order in by.values())
    assert by["risk"][0] == scene_id("fleet", "log7", 29, 4)
    assert ids(ask(server, "GET", "/v1/hard?top=100").json()) == by["hardness"]


def test_filters_are_typed_and_all_must_hold(server):
    where = {"tags": ["night"], "min_risk": 0.1, "max_risk": 0.2, "sources": ["fleet"], "objects": ["pedestrian"]}
    hits = search(server, where=where, top=50)["hits"]
    assert hits and all("night" in hit["scene"]["tags"] and 0.1 <= hit["scene"]["risk"] <= 0.2 for hit in hits)
    assert search(server, where={"objects": ["bicycle"]})["hits"] == []
    assert search(server, where={"max_ttc_s": 2, "without_tags": ["night"]})["hits"] == []
    assert search(server, where={"cameras": ['it\'s a "camera"']}, top=1)["total"] == 24
    assert {hit["scene"]["log_id"] for hit in search(server, where={"logs": ["log2"]})["hits"]} == {"log2"}
    assert search(server, where={"from_ns": 3000, "to_ns": 5000})["total"] == 2
    assert search(server, where={"min_hardness": 0.8})["total"] == 4
    hard = ask(server, "GET", "/v1/hard?tag=night&min_risk=0.1&log=log3&log=log4").json()
    assert {hit["scene"]["log_id"] for hit in hard["hits"]} <= {"log3", "log4"}


def test_what_a_detector_found_is_a_filter(tmp_path):
    server = make_server(tmp_path)
    wanted = {"label": "person", "min_score": 0.5, "count": 2}
    body = {"where": {"detected": [wanted]}}
    refused = ask(server, "POST", "/v1/search", json=body)
    assert refused.status_code == 409 and str(tmp_path) not in refused.text
    assert ask(server, "GET", "/v1/overview").json()["detected_classes"] == []
    open_detections(server.location)
    hit = all_pages(server)[3]
    row = {"scene_id": hit, "detector_id": "d", "run_id": "r", "num_pictures": 1, "picture": [0, 0],
           "label": ["person", "person"], "score": [0.9, 0.6]}  # fmt: skip
    append_rows(server.location, DETECTIONS, pa.Table.from_pylist([row], schema=detections_schema()))
    assert ask(server, "GET", "/v1/overview").json()["detected_classes"] == ["person"]
    assert ids(search(server, **body)) == [hit]
    assert ids(search(server, where={"detected": [wanted | {"min_score": 0.7}]})) == []
    tags = ask(server, "GET", "/v1/tags?detected=person:0.5:2").json()
    assert tags["total"] == 1
    assert ask(server, "GET", "/v1/tags?detected=person:0.5:1000").json()["total"] == 0
    assert ask(server, "GET", "/v1/hard?detected=person:2").status_code == 422
    assert ask(server, "GET", "/v1/tags?detected=Person&detector=d").json()["total"] == 1
    for where, words in (
        ("detected=elk", "finds person"),
        ("detector=d", "expected beside it"),
        ("detected=person&detector=x", "knows, the newest first: d"),
    ):
        told = ask(server, "GET", f"/v1/hard?{where}")
        assert told.status_code == 409 and words in told.json()["detail"] and str(tmp_path) not in told.text


@pytest.mark.parametrize("text", ["' OR 1=1 --", "x') OR true --", "%", "a\x00b", "𝔘𝔫𝔦", "\\", "'; DROP TABLE scenes"])
def test_what_a_client_writes_is_a_value_and_never_sql(server, text):
    for where in ({"logs": [text]}, {"sources": [text]}, {"cameras": [text]}):
        assert search(server, where=where)["total"] == 0
    unknown = ask(server, "POST", "/v1/search", json={"where": {"tags": [text]}})
    assert unknown.status_code == 404 and "night, rain, pedestrian" in unknown.json()["detail"]
    assert search(server)["total"] == 30


def test_an_empty_range_passes_nothing_and_says_so(server):
    for where in ({"min_risk": 0.5, "max_risk": 0.1}, {"from_ns": 5, "to_ns": 1}, {"from_ns": 5, "to_ns": 5}):
        answer = search(server, where=where)
        assert answer["total"] == 0 and answer["hits"] == [] and "nothing passes" in answer["notes"][0]


def test_every_time_that_is_taken_can_be_asked_for(server):
    assert search(server, where={"from_ns": 1 - 2**63, "to_ns": 2**63 - 1})["total"] == 30
    for name in ("from_ns", "to_ns"):
        assert ask(server, "GET", f"/v1/hard?{name}={1 - 2**63}").status_code == 200
        assert ask(server, "GET", f"/v1/hard?{name}={-(2**63)}").status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {"query": {"kind": "text", "text": "x" * 501}},
        {"query": {"kind": "text", "text": "  "}},
        {"query": {"kind": "text", "text": ""}},
        {"query": {"kind": "sql", "text": "select"}},
        {"query": {"kind": "scene", "scene_id": "../../etc/passwd"}},
        {"query": {"kind": "image", "image_base64": "not base64!"}},
        {"where": {"sql": "1=1"}},
        {"where": {"tags": ["night"] * 51}},
        {"where": {"min_risk": 2}},
        {"where": {"from_ns": 2**63}},
        {"where": {"from_ns": -(2**63)}},
        {"where": {"to_ns": -(2**63)}},
        {"top": 101},
        {"top": 0},
        {"weights": {"similarity": -1}},
        {"as_of": "../x"},
        {"cursor": "v1"},
        {"unknown": 1},
        [],
    ],
)
def test_what_is_not_valid_is_refused_with_its_place(server, body):
    answer = ask(server, "POST", "/v1/search", json=body)
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] in ("not_valid", "empty_text") and "x" * 100 not in answer.text


def test_a_misspelt_parameter_is_refused_and_not_ignored(server):
    for path in ("/v1/hard?tags=night", "/v1/runs?x", "/v1/tags?tag=night&min_rsik=1", f"/v1/scenes/{SCENE}?kind=a"):
        answer = ask(server, "GET", path)
        assert answer.status_code == 422 and answer.json()["code"] == "unknown_parameter", path


def test_bodies_that_are_no_json_are_refused(server):
    for content in (b"{", b"\xff", b"[" * 100_000, b'{"query": {"kind": "text", "text": "\\ud800"}}'):
        answer = ask(server, "POST", "/v1/search", content=content, headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500, content[:20]


def test_a_truth_value_is_no_number(server):
    for body in ({"where": {"min_hardness": True}}, {"top": True}, {"weights": {"similarity": True, "hardness": 1}}):
        answer = ask(server, "POST", "/v1/search", json=body)
        assert answer.status_code == 422 and "expected no true or false" in answer.text, body


def test_pictures_are_a_query_when_they_are_whole(server):
    found = search(server, query={"kind": "image", "image_base64": base64.b64encode(jpeg()).decode()}, top=3)
    assert len(found["hits"]) == 3
    for data, status, code in (
        (jpeg()[:200], 422, "truncated_image"),
        (b"%PDF-1.4", 415, "not_an_image"),
    ):
        query = {"kind": "image", "image_base64": base64.b64encode(data).decode()}
        answer = ask(server, "POST", "/v1/search", json={"query": query})
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_no_more_pictures_are_decoded_at_a_time_than_a_server_has_room_for(server, monkeypatch):
    at_once: list[int] = []
    running = 0
    lock = threading.Lock()

    def decode(*_, **__) -> Picture:
        nonlocal running
        with lock:
            running += 1
            at_once.append(running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return Picture(np.zeros((4, 4, 3), np.uint8), 4, 4)

    monkeypatch.setattr(queries, "decode_picture", decode)
    monkeypatch.setattr(frames, "scene_frames", lambda _: [SimpleNamespace(camera="front")])
    monkeypatch.setattr(frames, "read_original", lambda *_: decode().rgb_HWC)
    body = {"query": {"kind": "image", "image_base64": base64.b64encode(jpeg()).decode()}}

    async def together() -> list[int]:
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=server.token()) as session:
            searches = [session.post("/v1/search", json=body) for _ in range(3)]
            originals = [session.get(f"/v1/scenes/{SCENE}/frames/front/0?kind=original") for _ in range(3)]
            return [answer.status_code for answer in await asyncio.gather(*searches, *originals)]

    assert asyncio.run(together()) == [200] * 6 and len(at_once) == 6 and max(at_once) <= 2


def test_more_like_this_leaves_itself_out(server):
    similar = ask(server, "GET", f"/v1/scenes/{SCENE}/similar?top=50").json()
    assert len(similar["hits"]) == 23 and SCENE not in ids(similar)
    assert ids(search(server, query={"kind": "scene", "scene_id": SCENE}, top=50)) == ids(similar)
    assert ask(server, "GET", f"/v1/scenes/{BARE}/similar").json()["code"] == "scene_without_pictures"
    assert ask(server, "GET", f"/v1/scenes/{'f' * 32}/similar").status_code == 404


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


def test_a_tag_that_cannot_be_read_makes_a_store_unavailable_and_saves_nothing(tmp_path):
    server = make_server(tmp_path)
    scene_ids = ids(search(server, top=2))
    tag = next((tmp_path / "store" / "scenes.lance").rglob("tags/*.json"))
    tag.write_text("{")
    for path in ("/v1/runs", "/v1/hard?as_of=run-r1"):
        assert ask(server, "GET", path).json()["code"] == "store_unavailable", path
    saved = ask(server, "POST", "/v1/sets", json={"name": "a", "scene_ids": scene_ids})
    assert saved.status_code == 503 and ask(server, "GET", "/v1/sets").json()["sets"] == []


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/v1/hard", f"/v1/scenes/{SCENE}", "/"])
def test_head_says_what_get_would_without_its_body(server, path):
    head, got = ask(server, "HEAD", path), ask(server, "GET", path)
    assert head.status_code == got.status_code == 200 and head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]


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


def make_server_over(server: Server) -> Server:
    """Another process over the same store."""
    settings = server.app.state.context.settings
    app = create_app(Services(SearchStore(server.location), server.encoder, server.detector), settings)
    return replace(server, app=app)


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


def test_a_scene_tells_all_that_is_known_and_no_path(server):
    answer = ask(server, "GET", f"/v1/scenes/{SCENE}")
    told = answer.json()
    assert "secret" not in answer.text
    assert told["agents"][0]["category"] == "human.pedestrian.adult" and told["birds_eye"]["agents"][0]["is_worst"]
    assert told["has_embedding"] and told["max_braking_mps2"] == 4.0 and len(told["frames"]) == 2
    bare = ask(server, "GET", f"/v1/scenes/{BARE}").json()
    assert bare["frames"] == [] and bare["scene"]["cover"] is None and not bare["has_embedding"]
    timeline = ask(server, "GET", f"/v1/scenes/{SCENE}/timeline").json()
    assert [moment["t_start_ns"] for moment in timeline["moments"]] == [0, 1000, 2000, 3000]
    assert ask(server, "GET", "/v1/scenes/not-an-id").status_code == 422


def test_the_catalogue_counts_what_passes(server):
    tags = {tag["name"]: tag["count"] for tag in ask(server, "GET", "/v1/tags").json()["tags"]}
    assert tags == {"night": 15, "rain": 15, "pedestrian": 15}
    narrowed = ask(server, "GET", "/v1/tags?tag=night&log=log1").json()
    assert narrowed["total"] == 2 and {t["name"]: t["count"] for t in narrowed["tags"]}["rain"] == 0
    logs = ask(server, "GET", "/v1/logs").json()
    assert len(logs["logs"]) == 8 and logs["logs"][0]["count"] == 4 and not logs["is_cut"]
    overview = ask(server, "GET", "/v1/overview").json()
    assert overview["num_scenes"] == 30 and sum(overview["risk_histogram"]) + overview["num_without_risk"] == 30


def test_pictures_are_made_anew_cached_and_sent_in_part(server):
    frames = ask(server, "GET", f"/v1/scenes/{SCENE}/frames").json()["frames"]
    assert [frame["camera"] for frame in frames] == ["front", 'it\'s a "camera"']
    for frame in frames:
        picture = ask(server, "GET", frame["url"])
        assert picture.headers["content-type"] == "image/jpeg" and b"serial 4711" not in picture.content
        assert Image.open(io.BytesIO(picture.content)).size == (32, 24)
    url, whole = frames[0]["url"], ask(server, "GET", frames[0]["url"])
    assert whole.headers["cache-control"] == "private, no-cache"
    held = ask(server, "GET", url, headers={"If-None-Match": f'"other", W/{whole.headers["etag"]}'})
    assert held.status_code == 304 and held.content == b""
    size = len(whole.content)
    for asked, start, end in (
        ("0-9", 0, 9),
        ("10-", 10, size - 1),
        ("-5", size - 5, size - 1),
        ("0-99999", 0, size - 1),
    ):
        part = ask(server, "GET", url, headers={"Range": f"bytes={asked}"})
        assert part.status_code == 206 and part.content == whole.content[start : end + 1]
        assert part.headers["content-range"] == f"bytes {start}-{end}/{size}"
    beyond = ask(server, "GET", url, headers={"Range": f"bytes={size}-"})
    assert beyond.status_code == 416 and beyond.headers["content-range"] == f"bytes */{size}"
    for ignored in ("bytes=5-2", "bytes=0-1,4-5", "lines=1-2", "bytes=-", f"bytes={'9' * 5000}-"):
        assert ask(server, "GET", url, headers={"Range": ignored}).status_code == 200
    old = ask(server, "GET", url, headers={"Range": "bytes=0-1", "If-Range": '"old"'})
    assert old.status_code == 200
    assert ask(server, "GET", f"/v1/scenes/{SCENE}/frames/front/7").json()["code"] == "no_picture"
    assert ask(server, "GET", f"/v1/scenes/{SCENE}/frames/..%2F..%2Fetc/0").status_code == 404
    assert ask(server, "GET", f"/v1/scenes/{SCENE}/cover").content == whole.content


def test_an_earlier_version_keeps_its_pictures_when_its_log_is_mined_again(tmp_path):
    server = make_server(tmp_path, scenes=4)
    rows = server.location.dataset(SCENES).to_table()
    saved = ask(server, "POST", "/v1/sets", json={"name": "a", "scene_ids": [SCENE]}).json()
    assert saved["as_of"] == "run-r1"
    cover, export = f"/v1/scenes/{SCENE}/cover", f"/v1/sets/{saved['set_id']}/export?format=coco"

    def exported(server: Server) -> list[bytes]:
        with zipfile.ZipFile(io.BytesIO(ask(server, "GET", export).content)) as archive:
            return [
                archive.read(image["file_name"]) for image in json.loads(archive.read("annotations.json"))["images"]
            ]

    before, taken = ask(server, "GET", cover).content, exported(server)
    assert taken == [jpeg(1), jpeg(1)]
    drop_mined(server.location, "m1", "fleet", "log0", 0, 10**9)
    again = make_server_over(server)  # has no picture in memory
    assert ask(again, "GET", f"{cover}?as_of=run-r1").content == before and exported(again) == taken
    assert len(ask(again, "GET", f"/v1/scenes/{SCENE}?as_of=run-r1").json()["frames"]) == 2

    picture = {"picture_batch": "new", "scene_id": SCENE, "camera": "front", "t_ns": 9, "jpeg": jpeg(99)}
    append_rows(server.location, PICTURES, pa.Table.from_pylist([picture], schema=pictures_schema()))
    k = rows.schema.get_field_index("picture_batch")
    new = rows.set_column(k, rows.schema.field(k), pa.array(["new"] * len(rows)))
    append_rows(server.location, SCENES, new)
    again = make_server_over(server)
    assert ask(again, "GET", cover).content not in (before, b"")
    assert ask(again, "GET", f"{cover}?as_of=run-r1").content == before and exported(again) == taken
    assert ask(again, "GET", f"/v1/sets/{saved['set_id']}").json()["as_of"] == "run-r1"
    newest = ask(server, "POST", "/v1/sets", json={"name": "b", "scene_ids": [SCENE]}).json()
    assert newest["as_of"] is None, "its version has no tag"

    server.location.dataset(PICTURES).delete("picture_batch != 'new'")
    lost = ask(again, "GET", export)
    assert lost.status_code == 409 and lost.json()["code"] == "cannot_export"
    assert f"{SCENE} was mined with 2 pictures; the store holds none" in lost.json()["detail"]


def test_a_camera_that_is_called_by_a_path_has_pictures(tmp_path):
    server = make_server(tmp_path, scenes=4)
    row = {"picture_batch": "b0", "scene_id": SCENE, "camera": "a/b", "t_ns": 9, "width": 32, "height": 24,
           "jpeg": jpeg()}  # fmt: skip
    append_rows(server.location, PICTURES, pa.Table.from_pylist([row], schema=pictures_schema()))
    frames = ask(server, "GET", f"/v1/scenes/{SCENE}/frames").json()["frames"]
    url = next(frame["url"] for frame in frames if frame["camera"] == "a/b")
    assert url.endswith("/a%2Fb/0?kind=thumbnail") and ask(server, "GET", url).status_code == 200
    assert json.loads(server.audit.read_text().splitlines()[-1])["route"].endswith("/frames/{camera}/{k}")
    assert ask(server, "GET", f"{url}&kinds=x").json()["code"] == "unknown_parameter"


def test_a_log_that_is_gone_is_told_without_its_path(server):
    listed = ask(server, "GET", f"/v1/scenes/{SCENE}/frames?kind=original")
    assert listed.json()["frames"] == [] and listed.json()["notes"]
    picture = ask(server, "GET", f"/v1/scenes/{SCENE}/frames/front/0?kind=original")
    assert picture.status_code == 409 and "secret" not in listed.text + picture.text


def test_a_set_is_saved_listed_taken_away_and_removed(tmp_path):
    server = make_server(tmp_path)
    chosen = [scene_id("fleet", "log1", 5, 4), SCENE, BARE, SCENE]
    body = {"name": "wet nights", "note": "for Monday", "scene_ids": chosen, "search": {"query": TEXT}}
    saved = ask(server, "POST", "/v1/sets", json=body)
    assert saved.status_code == 201 and saved.json()["scene_ids"] == chosen[:3]
    assert saved.json()["search"]["query"]["text"] == "bus in fog" and saved.json()["created_by"] == "ana"
    url = f"/v1/sets/{saved.json()['set_id']}"
    assert ask(server, "GET", url).json()["scene_ids"] == chosen[:3]
    assert [one["name"] for one in ask(server, "GET", "/v1/sets").json()["sets"]] == ["wet nights"]
    add_scenes(server.location, 5, first=300)

    def export(kind: str) -> httpx.Response:
        answer = ask(server, "GET", f"{url}/export?format={kind}")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-disposition"].startswith("attachment; ")
        assert b"secret" not in answer.content
        return answer

    table = pq.read_table(io.BytesIO(export("parquet").content))
    assert table["scene_id"].to_pylist() == chosen[:3] and table["tags"].to_pylist()[1] == ["night", "pedestrian"]
    rows = list(csv.DictReader(io.StringIO(export("csv").text)))
    assert [row["scene_id"] for row in rows] == chosen[:3] and rows[1]["tags"] == "night;pedestrian"
    assert rows[0]["description"] == "'=1+1 a drive"  # no spreadsheet runs it
    with zipfile.ZipFile(io.BytesIO(export("coco").content)) as archive:
        coco = json.loads(archive.read("annotations.json"))
        assert len(coco["images"]) == 4 and coco["annotations"] == []
        names = {category["id"]: category["name"] for category in coco["categories"]}
        for image in coco["images"]:
            assert Image.open(io.BytesIO(archive.read(image["file_name"]))).size == (image["width"], image["height"])
            assert [names[k] for k in image["category_ids"]] == image["tags"]
    with zipfile.ZipFile(io.BytesIO(export("fiftyone").content)) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("labels.csv").decode())))
        assert len(rows) == 4 and all(f"data/{row['filepath']}" in archive.namelist() for row in rows)
        assert all("/" not in row["filepath"] and row["tags"].split(",") for row in rows)
    none = ask(server, "GET", f"{url}/export?format=nuscenes")
    assert none.status_code == 409 and "nuScenes" in none.json()["detail"]
    assert ask(server, "GET", f"{url}/export?format=pickle").status_code == 422
    other = server.token("read", "export", name="bo")
    assert ask(server, "DELETE", url, headers=other).status_code == 403
    assert ask(server, "DELETE", url).status_code == 204 and ask(server, "GET", url).status_code == 404
    assert ask(server, "DELETE", url).status_code == 404


def test_a_damaged_set_is_removed_by_an_admin(tmp_path):
    server = make_server(tmp_path, Limits(max_saved_sets=1), scenes=4)
    (tmp_path / "store" / "sets").mkdir()
    (tmp_path / "store" / "sets" / f"{'f' * 16}.json").write_bytes(b"\xff")
    body, url = {"name": "a", "scene_ids": [SCENE]}, f"/v1/sets/{'f' * 16}"
    assert ask(server, "GET", "/v1/sets").json()["sets"] == []
    assert ask(server, "POST", "/v1/sets", json=body).json()["code"] == "too_many_sets"
    assert ask(server, "DELETE", url, headers=server.token("read", "export", name="bo")).status_code == 403
    assert ask(server, "DELETE", url).status_code == 204
    assert ask(server, "POST", "/v1/sets", json=body).status_code == 201


def test_tables_that_are_gone_are_told_without_their_path(tmp_path, caplog):
    server = make_server(tmp_path, scenes=4)
    version = server.location.dataset(SCENES).update({"reader": "'nuscenes'"})
    assert version["num_rows_updated"] == 4
    url = f"/v1/sets/{ask(server, 'POST', '/v1/sets', json={'name': 'a', 'scene_ids': [SCENE]}).json()['set_id']}"
    told = ask(server, "GET", f"{url}/export?format=nuscenes")
    assert told.status_code == 409 and "nuScenes' tables" in told.json()["detail"]
    assert "secret" not in told.text and "/secret/path/of/the/server" in caplog.text


def test_a_set_holds_scenes_that_are_there(tmp_path):
    server = make_server(tmp_path, Limits(max_saved_sets=1))
    unknown = ask(server, "POST", "/v1/sets", json={"name": "a", "scene_ids": [SCENE, "f" * 32]})
    assert unknown.status_code == 404 and "1 of 2" in unknown.json()["detail"]
    assert ask(server, "POST", "/v1/sets", json={"name": "a\nb", "scene_ids": [SCENE]}).status_code == 422
    assert ask(server, "POST", "/v1/sets", json={"name": "a", "scene_ids": [SCENE]}).status_code == 201
    full = ask(server, "POST", "/v1/sets", json={"name": "b", "scene_ids": [SCENE]})
    assert full.status_code == 409 and full.json()["code"] == "too_many_sets"
    assert ask(server, "GET", "/v1/sets/..%2f..%2fnightminer").status_code in (404, 422)


def test_a_store_that_vanishes_is_told_and_not_ready(tmp_path, monkeypatch):
    monkeypatch.setattr(health, "_KEPT_S", 0)
    server = make_server(tmp_path)
    search(server)
    folder = tmp_path / "store"
    folder.rename(tmp_path / "elsewhere")
    server.app.state.context.services.store._read = None
    told = ask(server, "GET", "/v1/runs")
    assert told.status_code == 503 and told.headers["retry-after"] and str(tmp_path) not in told.text
    assert ask(server, "GET", "/readyz").status_code == 503
    (tmp_path / "elsewhere").rename(folder)
    assert ask(server, "GET", "/readyz").status_code == 200


def test_the_page_is_mounted_only_where_it_is(server, tmp_path, monkeypatch):
    monkeypatch.setattr("serve.app.WEB", tmp_path)
    assert ask(make_server_over(server), "GET", "/").status_code == 404
    (tmp_path / "index.html").write_text("<title>page</title>")
    with_page = make_server_over(server)
    page = ask(with_page, "GET", "/")
    assert page.status_code == 200 and "page" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert ask(with_page, "GET", "/../app.py").status_code == 404 and ask(with_page, "GET", "/v1/me").status_code == 200
