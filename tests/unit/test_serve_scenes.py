"""Scenes, pictures, the catalogue and sets over HTTP, without Ray."""

from __future__ import annotations

import csv
import io
import json
import zipfile

import httpx2 as httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from serve.routes import health
from serve.settings import Limits
from system.records import scene_id
from system.store.commits import append_rows
from system.store.log_versions import drop_mined
from system.store.schema import PICTURES, SCENES, pictures_schema
from tests.serving import (
    BARE,
    SCENE,
    TEXT,
    Server,
    add_scenes,
    ask,
    ids,
    jpeg,
    make_server,
    make_server_over,
    search,
)


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
