"""Exports, each read back by other people's readers where there is one."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import tarfile
import warnings
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from system.errors import ConfigError, DataError
from system.export.formats import FORMATS
from system.export.projection import project_boxes, state_at
from system.export.run import ExportConfig, export_scenes
from system.export.webdataset import WebDatasetWriter
from system.logs.nuscenes import NuScenesReader
from system.logs.registry import discover, list_logs, read_log
from system.pipelines.select_scenes import SceneQuery, read_scene_set, select_scenes
from system.records import EgoTrack, Frame, Track
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.log_versions import LogVersion, write_log_versions
from system.store.runs import RunRecord, write_run
from system.store.schema import SCENES
from system.store.sets import save_set
from tests.cluster.jobs import call_job
from tests.mined_store import RUN_ID, mine_without_model
from tests.nuscenes_logs import CAMERAS, SIZE, VERSION, write_nuscenes_root
from tests.plain_logs import write_plain_log


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_nuscenes_root(tmp_path_factory.mktemp("nuscenes"))


@pytest.fixture(scope="module")
def store(root, tmp_path_factory) -> StoreLocation:
    """Two scenes of 20 samples at 2 Hz, cut into windows of 4 s: two each and a rest of 2 s."""
    return mine_without_model(root, tmp_path_factory.mktemp("store") / "s")


@pytest.fixture(scope="module")
def ids(store) -> list[str]:
    found = select_scenes(store.uri, SceneQuery())
    assert len(found) == 6
    return found


def summary(out: Path) -> dict:
    return json.loads((out / "export.json").read_text())


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_adds_up_and_says_where_it_comes_from(name, store, ids, tmp_path):
    report = export_scenes(store, ids, name, str(tmp_path / "out"), query={"tag": "night"})
    assert (report.asked, report.written, report.faulty) == (len(ids), len(ids), 0)
    told = summary(tmp_path / "out")
    assert told["query"] == {"tag": "night"}
    assert told["store"] == store.uri
    assert told["table_version"] == report.table_version > 0
    assert told["model"]["tower"] == "packaged"
    assert told["runs"] == [RUN_ID]
    source = f"nuscenes-{VERSION}"
    assert told["sources"] == {source: {"scenes": len(ids), "licence": "nuScenes terms of use, CC BY-NC-SA 4.0"}}
    assert told["report"]["written"] == len(ids)
    assert (tmp_path / "out" / "faults.jsonl").read_text() == ""
    assert not list(tmp_path.glob(".*")), "no draft is left"


def test_coco_boxes_lie_where_nuscenes_devkit_projects_them(store, ids, root, tmp_path):
    from faster_coco_eval import COCO
    from nuscenes.nuscenes import NuScenes
    from nuscenes.utils.geometry_utils import BoxVisibility

    export_scenes(store, ids, "coco", str(tmp_path / "out"))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "out" / "annotations.json"))
    assert len(coco.imgs) == 2 * 20 * len(CAMERAS)
    nuscenes = NuScenes(VERSION, str(root), verbose=False)
    judged = 0
    for image in coco.imgs.values():
        with Image.open(tmp_path / "out" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == SIZE
        assert image["scene"]["tags"] == ["night"]
        assert image["scene"]["risk_source"] == "tracks"
        name = str(Path(image["source_uri"]).relative_to(root))
        data = next(row for row in nuscenes.sample_data if row["filename"] == name)
        ours = {a["track_id"]: a["bbox"] for a in coco.imgToAnns[image["id"]]}
        _, boxes, k = nuscenes.get_sample_data(data["token"], box_vis_level=BoxVisibility.ANY)
        for box in boxes:
            corners = k @ box.corners()
            pixels = np.clip(corners[:2] / corners[2], 0, np.array(SIZE)[:, None])
            (x, y), (x1, y1) = pixels.min(1), pixels.max(1)
            instance = nuscenes.get("sample_annotation", box.token)["instance_token"]
            assert ours[instance] == pytest.approx([x, y, x1 - x, y1 - y], abs=0.02)
            judged += 1
    assert judged > 30
    licence = coco.dataset["licenses"][coco.imgs[1]["license"] - 1]
    assert licence["name"] == "nuScenes terms of use, CC BY-NC-SA 4.0"
    names = {c["id"]: c["name"] for c in coco.dataset["categories"]}
    assert {names[a["category_id"]] for a in coco.anns.values()} == {"vehicle", "pedestrian"}
    assert {a["source_category"] for a in coco.anns.values()} == {"vehicle.car", "human.pedestrian.adult"}


def test_a_reduced_nuscenes_root_loads_in_the_devkit_and_its_chains_are_whole(store, ids, root, tmp_path):
    from nuscenes.nuscenes import NuScenes

    # The first and the last window of a scene: what lies between is left out.
    location = select_scenes(store.uri, SceneQuery(where=SceneFilter(log_ids=("scene-0000",))))
    rows = {r["scene_id"]: r for r in store.dataset("scenes").to_table().to_pylist()}
    ordered = sorted(location, key=lambda scene_id: rows[scene_id]["t_start_ns"])
    export_scenes(store, [ordered[0], ordered[-1]], "nuscenes", str(tmp_path / "out"))
    reduced = NuScenes(VERSION, str(tmp_path / "out"), verbose=False)
    original = NuScenes(VERSION, str(root), verbose=False)
    assert [scene["name"] for scene in reduced.scene] == ["scene-0000"]
    scene = reduced.scene[0]
    token, seen = scene["first_sample_token"], []
    while token:
        seen.append(token)
        sample = reduced.get("sample", token)
        assert sample["timestamp"] == original.get("sample", token)["timestamp"]
        assert set(sample["data"]) == {*CAMERAS, "LIDAR_TOP"}
        assert len(sample["anns"]) == 2
        for camera in CAMERAS:
            path, boxes, _ = reduced.get_sample_data(sample["data"][camera])
            Image.open(path).verify()
            theirs = original.get_sample_data(sample["data"][camera])[1]
            assert [b.token for b in boxes] == [b.token for b in theirs]
        token = sample["next"]
    assert len(seen) == scene["nbr_samples"] == len(reduced.sample)
    for instance in reduced.instance:
        assert instance["nbr_annotations"] == len(seen)
        assert not np.isnan(reduced.box_velocity(instance["first_annotation_token"])).any()
    # And our own reader takes it for a log like the one it was.
    refs = list(NuScenesReader().list_logs(str(tmp_path / "out")))
    assert len(read_log(refs[0]).frames) == len(seen) * len(CAMERAS)


def test_sample_tokens_are_those_of_the_data_set_each_once(store, ids, root, tmp_path):
    from nuscenes.nuscenes import NuScenes

    export_scenes(store, ids, "nuscenes-tokens", str(tmp_path / "out"))
    tokens = json.loads((tmp_path / "out" / "sample_tokens.json").read_text())
    nuscenes = NuScenes(VERSION, str(root), verbose=False)
    assert sorted(tokens) == sorted(row["token"] for row in nuscenes.sample)
    lines = [json.loads(line) for line in (tmp_path / "out" / "scenes.jsonl").read_text().splitlines()]
    assert sorted(token for line in lines for token in line["sample_tokens"]) == sorted(tokens)


def test_an_mcap_clip_is_read_by_mcap_and_by_our_own_reader_as_a_log(store, ids, tmp_path):
    from mcap.reader import make_reader
    from mcap_protobuf.decoder import DecoderFactory

    export_scenes(store, ids, "mcap", str(tmp_path / "out"))
    rows = {r["scene_id"]: r for r in store.dataset("scenes").to_table().to_pylist()}
    found, _ = discover(str(tmp_path / "out"))
    logs = {ref.log_id: read_log(ref) for ref in list_logs(found[0])}
    assert set(logs) == set(ids)
    for scene_id, log in logs.items():
        row = rows[scene_id]
        assert sorted({frame.camera for frame in log.frames}) == sorted(CAMERAS)
        assert len(log.frames) == row["num_pictures"]
        assert all(frame.is_calibrated and (frame.width, frame.height) == SIZE for frame in log.frames)
        assert row["t_start_ns"] <= log.ref.t_start_ns <= log.ref.t_end_ns < row["t_end_ns"]
        assert log.ego is not None and log.ego.states[:, 4] == pytest.approx(5.0, abs=0.1)
    # The camera sits where it sat.
    front = next(frame for frame in logs[ids[0]].frames if frame.camera == "CAM_FRONT")
    assert np.array(front.ego_from_camera).reshape(4, 4)[:3, 3] == pytest.approx([1.5, 0.0, 1.5])
    assert np.array(front.ego_from_camera).reshape(4, 4)[:3, 2] == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)
    with (tmp_path / "out" / f"{ids[0]}.mcap").open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        tracks = [m.decoded_message for m in reader.iter_decoded_messages(topics=["/tracks"])]
        assert {entity.metadata[0].value for update in tracks for entity in update.entities} == {
            "vehicle.car",
            "human.pedestrian.adult",
        }
        assert tracks[0].entities[0].cubes[0].size.x == pytest.approx(4.5)
        risk = [json.loads(m.data) for _, _, m in reader.iter_messages(topics=["/risk"])]
        assert risk[-1]["risk_so_far"] == pytest.approx(rows[ids[0]]["physics_risk"], abs=1e-6)
        assert [r["risk_so_far"] for r in risk] == sorted(r["risk_so_far"] for r in risk)
        provenance = next(m for m in reader.iter_metadata() if m.name == "nightminer").metadata["provenance"]
        assert json.loads(provenance)["store"] == store.uri


def test_parquet_holds_scenes_pictures_and_tracks_that_join(store, ids, root, tmp_path):
    report = export_scenes(store, ids, "parquet", str(tmp_path / "out"))
    scenes = pq.read_table(tmp_path / "out" / "scenes.parquet").to_pylist()
    pictures = pq.read_table(tmp_path / "out" / "pictures.parquet").to_pylist()
    tracks = pq.read_table(tmp_path / "out" / "tracks.parquet").to_pylist()
    assert sorted(row["scene_id"] for row in scenes) == sorted(ids)
    assert dict(scenes[0]["tag_probabilities"])["night"] == 0.75
    assert len(scenes[0]["embedding"]) == 8
    assert len(pictures) == report.pictures == 2 * 20 * len(CAMERAS)
    assert all(row["image"]["bytes"] == Path(row["uri"]).read_bytes() for row in pictures), "not a bit is lost"
    assert {row["kind"] for row in tracks} == {"vehicle", "pedestrian", "ego"}
    assert len([row for row in tracks if row["kind"] != "ego"]) == report.boxes == 2 * 2 * 20


def test_webdataset_shards_are_read_by_webdataset(store, ids, tmp_path, monkeypatch):
    import webdataset

    # Several shards, as a large export has.
    monkeypatch.setitem(FORMATS, "webdataset", lambda folder, told: WebDatasetWriter(folder, told, 100_000))
    report = export_scenes(store, ids, "webdataset", str(tmp_path / "out"))
    shards = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    assert len(shards) > 1
    with warnings.catch_warnings():
        # Its reader leaves closing of shards to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
        gc.collect()
    assert len(samples) == report.pictures == 2 * 20 * len(CAMERAS)
    assert len({sample["__key__"] for sample in samples}) == len(samples)
    assert {sample["json"]["scene_id"] for sample in samples} == set(ids)
    assert all(sample["jpg"].shape == (SIZE[1], SIZE[0], 3) for sample in samples)
    assert sum(len(sample["json"]["boxes"]) for sample in samples) == report.boxes > 0


def test_a_fiftyone_folder_follows_the_rules_of_its_importer(store, ids, tmp_path):
    """FiftyOne itself needs a database server; these are what `LegacyFiftyOneDatasetImporter` of 1.22 reads."""
    report = export_scenes(store, ids, "fiftyone", str(tmp_path / "out"))
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert "version" not in metadata, "by which FiftyOneDatasetImporter knows the form"
    assert metadata["media_type"] == "image"
    samples = json.loads((tmp_path / "out" / "samples.json").read_text())["samples"]
    assert len(samples) == report.pictures
    boxes = 0
    for sample in samples:
        Image.open(tmp_path / "out" / sample["filepath"]).verify()
        assert sample["tags"] == ["night"]
        assert sample["scene_tags"]["_cls"] == "Classifications"
        assert sample["scene_tags"]["classifications"][0]["confidence"] == 0.75
        assert sample["road_users"]["_cls"] == "Detections"
        for box in sample["road_users"]["detections"]:
            x, y, w, h = box["bounding_box"]
            assert min(x, y) >= 0 and min(w, h) > 0 and max(x + w, y + h) <= 1 + 1e-9
            boxes += 1
    assert boxes == report.boxes > 0


def test_a_place_that_is_taken_is_refused_and_only_an_export_is_replaced(store, ids, tmp_path):
    out = tmp_path / "out"
    export_scenes(store, ids[:1], "parquet", str(out))
    with pytest.raises(ConfigError, match="holds something already"):
        export_scenes(store, ids, "coco", str(out))
    assert (out / "scenes.parquet").is_file()
    export_scenes(store, ids, "coco", str(out), ExportConfig(overwrite=True))
    assert (out / "annotations.json").is_file() and not (out / "scenes.parquet").exists()
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="replaces exports alone"):
        export_scenes(store, ids, "coco", str(home), ExportConfig(overwrite=True))
    assert (home / "thesis.tex").is_file()


def test_a_failed_replacement_leaves_the_older_export_and_no_draft(store, ids, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export_scenes(store, ids[:1], "parquet", str(out))
    monkeypatch.setattr("system.export.coco.CocoWriter.close", lambda self: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(ConfigError, match="cannot be written"):
        export_scenes(store, ids, "coco", str(out), ExportConfig(overwrite=True))
    assert summary(out)["format"] == "parquet"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_name": "cocoa"}, "'cocoa' is unknown; expected one of: coco"),
        ({"scene_ids": []}, "no scene to export"),
        ({"scene_ids": ["0" * 32]}, "1 of 1 scenes are not in this store.*'0000"),
        ({"out": "/proc/nowhere/out"}, "--out /proc/nowhere/out: cannot be written"),
        ({"out": " "}, "--out is empty"),
        ({"config": ExportConfig(version_tag="run-x")}, "no table version tagged 'run-x'; it has run-r1"),
        ({"config": ExportConfig(model_id="m9")}, "no model 'm9'; it holds rows of m1"),
    ],
)
def test_a_users_mistake_is_named(change, message, store, ids, tmp_path):
    given = {"scene_ids": ids, "format_name": "coco", "out": str(tmp_path / "out")} | change
    with pytest.raises(ConfigError, match=message):
        export_scenes(store, **given)
    assert not (tmp_path / "out").exists()


def test_pictures_that_moved_are_named_one_by_one_and_what_is_left_is_written(tmp_path):
    write_plain_log(tmp_path / "logs" / "fleet", "drive-1")
    write_plain_log(tmp_path / "logs" / "fleet", "drive-2", seed=1)
    store = mine_without_model(tmp_path / "logs", tmp_path / "store")
    ids = select_scenes(store.uri, SceneQuery())
    images = tmp_path / "logs" / "fleet" / "drive-1" / "images"
    gone = images / "CAM_FRONT_0000.jpg"
    gone.unlink()
    (images / "CAM_BACK_0001.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    report = export_scenes(store, ids, "coco", str(tmp_path / "out"))
    assert (report.asked, report.written, report.incomplete, report.missing_pictures) == (len(ids), len(ids), 1, 2)
    faults = [json.loads(line) for line in (tmp_path / "out" / "faults.jsonl").read_text().splitlines()]
    told = next(fault for fault in faults if fault["uri"] == str(gone))
    assert told["code"] == "missing_file" and "expected a picture, found no file" in told["message"]
    # A whole log moved: its scenes are faulty, and too many of them end the export.
    (tmp_path / "logs" / "fleet" / "drive-2").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"too_many_faulty: \d of \d scenes.*missing_file"):
        export_scenes(store, ids, "coco", str(tmp_path / "second"))
    assert not (tmp_path / "second").exists()
    half = export_scenes(store, ids, "coco", str(tmp_path / "second"), ExportConfig(max_faulty_share=0.5))
    assert half.asked == half.written + half.faulty and half.faulty == half.asked // 2


def test_cameras_whose_names_are_written_alike_keep_their_pictures(tmp_path):
    write_plain_log(tmp_path / "logs" / "fleet", "drive", seconds=2, cameras=("前", "後", "_", "CAM_FRONT"))
    store = mine_without_model(tmp_path / "logs", tmp_path / "store")
    ids = select_scenes(store.uri, SceneQuery())
    for name in ("coco", "fiftyone"):
        report = export_scenes(store, ids, name, str(tmp_path / name))
        assert report.pictures == len(list((tmp_path / name / "data").rglob("*.jpg"))) == 16
    images = json.loads((tmp_path / "coco" / "annotations.json").read_text())["images"]
    assert len({image["file_name"] for image in images}) == 16 and all(i["file_name"].isascii() for i in images)
    export_scenes(store, ids, "webdataset", str(tmp_path / "shards"))
    with tarfile.open(tmp_path / "shards" / "shard-000000.tar") as shard:
        members = shard.getnames()
    assert len(members) == len(set(members)) == 32 and f"{ids[0]}-CAM_FRONT_" in " ".join(members)


def test_scenes_of_other_logs_have_no_nuscenes_tokens(tmp_path):
    write_plain_log(tmp_path / "logs" / "fleet", "drive-1")
    store = mine_without_model(tmp_path / "logs", tmp_path / "store")
    ids = select_scenes(store.uri, SceneQuery())
    for name in ("nuscenes", "nuscenes-tokens"):
        with pytest.raises(DataError, match="was read as 'plain'; expected nuScenes tables"):
            export_scenes(store, ids, name, str(tmp_path / name))
        assert not (tmp_path / name).exists()


def test_scenes_without_pictures_are_written_where_the_format_can(tmp_path):
    write_plain_log(tmp_path / "logs" / "fleet", "drive-1", cameras=())
    store = mine_without_model(tmp_path / "logs", tmp_path / "store")
    ids = select_scenes(store.uri, SceneQuery())
    assert export_scenes(store, ids, "mcap", str(tmp_path / "mcap")).written == len(ids)
    assert export_scenes(store, ids, "parquet", str(tmp_path / "parquet")).written == len(ids)
    with pytest.raises(DataError, match=r"no_pictures.*never had pictures"):
        export_scenes(store, ids, "coco", str(tmp_path / "coco"))
    # Beside scenes with pictures they are left out and listed, and are no reason to fail.
    write_plain_log(tmp_path / "mixed" / "fleet", "drive-1", cameras=())
    write_plain_log(tmp_path / "mixed" / "fleet", "drive-2")
    mixed = mine_without_model(tmp_path / "mixed", tmp_path / "mixed_store")
    report = export_scenes(mixed, select_scenes(mixed.uri, SceneQuery()), "coco", str(tmp_path / "coco"))
    assert report.written == report.faulty == report.pictureless == report.asked // 2


def test_a_scene_asked_for_twice_is_written_once_and_rows_of_later_runs_are_not_seen(store, ids, tmp_path):
    config = ExportConfig(version_tag=f"run-{RUN_ID}")
    assert export_scenes(store, [*ids, *ids], "nuscenes-tokens", str(tmp_path / "out"), config).asked == len(ids)
    assert summary(tmp_path / "out")["version_tag"] == f"run-{RUN_ID}"


def test_rows_of_an_earlier_version_are_not_paired_with_a_later_upload(tmp_path):
    folder = write_plain_log(tmp_path / "logs" / "fleet", "drive-1")
    write_plain_log(tmp_path / "logs" / "fleet", "drive-2")
    store = mine_without_model(tmp_path / "logs", tmp_path / "store")
    asked, config = select_scenes(store.uri, SceneQuery()), ExportConfig(version_tag=f"run-{RUN_ID}")
    row = store.dataset(SCENES).to_table(filter="log_id = 'drive-1'").to_pylist()[0]
    seen = LogVersion("m1", row["source"], "drive-1", row["log_uri"], "", "2026-11-26", "new", 0, 9, 5, "files:x", 5)
    write_log_versions(store, [seen])
    assert export_scenes(store, asked, "coco", str(tmp_path / "seen"), config).written == len(asked)

    write_log_versions(store, [replace(seen, arrival="reuploaded", fingerprint="files:y")])
    with pytest.raises(DataError, match=r"too_many_faulty.*log_replaced.*run r1 mined"):
        export_scenes(store, asked, "parquet", str(tmp_path / "old"), config)
    loose = config.model_copy(update={"max_faulty_share": 0.5})
    report = export_scenes(store, asked, "parquet", str(tmp_path / "old"), loose)
    faults = [json.loads(line) for line in (tmp_path / "old" / "faults.jsonl").read_text().splitlines()]
    assert report.faulty == report.faults["log_replaced"] == report.asked // 2
    assert {(fault["code"], fault["uri"]) for fault in faults} == {("log_replaced", str(folder))}

    # What was mined after the upload is of its content.
    store.dataset(SCENES).update({"run_id": "'r2'"}, where="log_id = 'drive-1'")
    write_run(store, RunRecord("r2", "m1", "finished", 6, 7, None, {}))
    assert export_scenes(store, asked, "coco", str(tmp_path / "new")).written == len(asked)


def test_memory_holds_one_scene_however_many_are_written(store, ids, tmp_path, monkeypatch):
    seen: list[weakref.ref] = []

    class Watcher(WebDatasetWriter):
        def add(self, scene):
            gc.collect()
            # The run may still hold the scene before this one.
            assert sum(earlier() is not None for earlier in seen) <= 1
            seen.append(weakref.ref(scene))
            return super().add(scene)

    monkeypatch.setitem(FORMATS, "webdataset", Watcher)
    assert export_scenes(store, ids, "webdataset", str(tmp_path / "out")).written == len(seen) == len(ids)


def test_a_set_is_read_as_lines_as_json_and_as_a_search_prints_it(ids, tmp_path):
    file = tmp_path / "set"
    for text in (
        "\n".join(ids) + "\n",
        json.dumps(ids),
        json.dumps({"scene_ids": ids}),
        json.dumps({"results": [{"scene_id": scene_id, "score": 1} for scene_id in ids]}),
    ):
        file.write_text(text)
        assert read_scene_set(str(file)) == ids
    for text, message in (
        ("", "found none"),
        ("scene-0061", "number 1 is 'scene-0061', expected 32 hexadecimal digits"),
        ("[1", "expected a JSON list"),
        ('{"ids": []}', "expected a JSON list"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_scene_set(str(file))
    with pytest.raises(ConfigError, match="expected a text file of scene ids"):
        read_scene_set(str(tmp_path / "none"))


def test_a_set_saved_in_the_store_is_named_by_its_id(store, ids, tmp_path):
    values = {"name": "wet nights", "created_by": "ana", "model_id": "m1", "version": 1, "scene_ids": tuple(ids[:2])}
    saved = save_set(store, values)
    assert select_scenes(store.uri, SceneQuery(scene_set=saved.set_id)) == ids[:2]
    with pytest.raises(
        ConfigError, match=rf"--set {'0' * 16}: expected a file, or a set.*{saved.set_id} \(wet nights\)"
    ):
        select_scenes(store.uri, SceneQuery(scene_set="0" * 16))


def test_a_set_beside_a_search_is_refused(store, ids, tmp_path):
    query = SceneQuery(scene_set=str(tmp_path / "set"), where=SceneFilter(tags=("night",)))
    with pytest.raises(ConfigError, match="leave out the options of a search"):
        select_scenes(store.uri, query)
    assert select_scenes(store.uri, SceneQuery(where=SceneFilter(tags=("rain",)))) == []
    assert len(select_scenes(store.uri, SceneQuery(top=1))) == 1


def test_a_box_beside_the_camera_reaches_the_edge_of_the_picture_and_one_behind_is_not_there():
    looks_ahead = np.eye(4)
    looks_ahead[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    k = (100.0, 0.0, 160.0, 0.0, 100.0, 90.0, 0.0, 0.0, 1.0)
    frame = Frame("front", 0, "x.jpg", intrinsics=k, ego_from_camera=tuple(looks_ahead.ravel()))
    ego = EgoTrack(np.array([0]), np.zeros((1, 5)), (4.0, 2.0, 1.5), 0.0)

    def boxes_at(x: float, y: float) -> list:
        states = np.array([[x, y, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0, 0.0]])
        return project_boxes(frame, 320, 180, ego, (Track("t", "car", np.array([0]), states),))

    (beside,) = boxes_at(1.0, 3.0)
    assert beside.bbox_xywh[0] == 0.0, "cut at the left edge"
    assert beside.bbox_xywh[2] == pytest.approx(160 - 100 * 2 / 3, abs=0.01), "to its far corner, 3 m ahead, 2 m left"
    assert beside.shown < 0.1
    assert boxes_at(-10.0, 0.0) == []
    assert boxes_at(10.0, 50.0) == []


def test_a_track_between_two_samples_turns_the_short_way_and_ends_where_it_is_not_known():
    t_ns = np.array([0, 1_000_000_000])
    states = np.zeros((2, 9))
    states[:, 0], states[:, 3] = (0.0, 10.0), (3.1, -3.1)
    velocity = np.array([[10.0, 0.0], [10.0, 0.0]])
    middle = state_at(t_ns, states, velocity, 500_000_000)
    assert middle[0] == pytest.approx(5.0)
    assert abs(np.cos(middle[3]) + 1) < 1e-6, "through half a turn, not through 0"
    assert state_at(t_ns, states, velocity, 1_050_000_000)[0] == pytest.approx(10.5)
    assert state_at(t_ns, states, velocity, 1_500_000_000) is None


def test_an_object_store_gets_the_summary_last_and_an_older_export_goes_first(store, ids, monkeypatch):
    written = []
    put_file = MemoryFileSystem.put_file

    def remembered(self, source, target, *args, **kwargs):
        written.append(target)
        return put_file(self, source, target, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "put_file", remembered)
    out = "memory://bucket/set"
    export_scenes(store, ids, "parquet", out)
    assert written[-1].endswith("/bucket/set/export.json")
    with pytest.raises(ConfigError, match="holds something already"):
        export_scenes(store, ids, "nuscenes-tokens", out)
    export_scenes(store, ids, "nuscenes-tokens", out, ExportConfig(overwrite=True))
    names = {Path(name).name for name in MemoryFileSystem().ls("/bucket/set", detail=False)}
    assert names == {"export.json", "faults.jsonl", "sample_tokens.json", "scenes.jsonl"}


def test_the_job_parses_calls_and_returns_what_its_shell_needs(store, ids, tmp_path):
    chosen = tmp_path / "set.txt"
    chosen.write_text("\n".join(ids[:2]))
    given = ["--store", store.uri, "--out", tmp_path / "out"]
    done = call_job("export_scenes", *given, "--format", "coco", "--set", chosen)
    assert (done.code, done.figures["asked"], done.figures["written"]) == (0, 2, 2), done.stderr
    assert summary(tmp_path / "out")["query"] == {"scene_set": str(chosen)}
    again = call_job("export_scenes", *given, "--format", "coco", "--tag", "night")
    assert again.code == 2 and "--overwrite an export" in again.stderr
    done = call_job("export_scenes", *given, "--format", "coco", "--tag", "night", "--overwrite")
    assert (done.code, done.figures["written"]) == (0, len(ids))
    for options, told in (
        (["--format", "yolo"], "'yolo' is unknown"),
        (["--format", "coco", "--tag", "fgo"], "unknown tag 'fgo'"),
        (["--format", "coco", "--min-risk", "1"], "no scene to export"),
    ):
        done = call_job("export_scenes", "--store", store.uri, "--out", tmp_path / "other", *options)
        assert done.code == 2 and told in done.stderr, done.stderr
    assert not (tmp_path / "other").exists()
