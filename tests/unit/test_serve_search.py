"""Questions, filters and scores over HTTP, without Ray."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from types import SimpleNamespace

import httpx2 as httpx
import numpy as np
import pyarrow as pa
import pytest

from serve import queries
from serve.routes import frames
from system.logs.decoding import Picture
from system.records import scene_id
from system.store.commits import append_rows
from system.store.detections import DETECTIONS, detections_schema, open_detections
from tests.serving import (
    BARE,
    SCENE,
    TEXT,
    all_pages,
    ask,
    ids,
    jpeg,
    make_server,
    search,
)


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
