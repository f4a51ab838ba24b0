"""The vector index: built where it pays, measured, remembered with the table's version, right while rows arrive."""

from __future__ import annotations

import json

import lance
import numpy as np
import pyarrow as pa
import pytest

from system.records import scene_id
from system.store.commits import append_rows
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.maintain import build_indices, tag_version
from system.store.nearest import SETTINGS_KEY, Tuning, VectorIndex, nearest_rows, read_vector_index
from system.store.schema import SCENES, scenes_schema
from system.store.search import SearchConfig, search_scenes
from system.store.tables import ModelRow, open_for_writing
from system.store.vector_index import VectorIndexConfig, refresh_vector_index, vector_index_of
from system.store.vector_recall import exact_nearest

DIM, CLUSTERS = 16, 24
SMALL = VectorIndexConfig(from_rows=1000, queries=8)
CENTRES = np.random.default_rng(5).normal(size=(CLUSTERS, DIM))


def add(location: StoreLocation, count: int, first: int = 0) -> None:
    """Scenes around a few centres, one in ten without pictures. Tags are the clusters; risk knows nothing of them."""
    rng = np.random.default_rng(first)
    numbers = np.arange(first, first + count)
    cluster = rng.integers(CLUSTERS, size=count)
    vectors = CENTRES[cluster] + 0.4 * rng.normal(size=(count, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    blind = numbers % 10 == 9
    columns = {
        "scene_id": pa.array([scene_id("fleet", "log", k, 4) for k in numbers.tolist()]),
        "t_start_ns": pa.array(numbers * 1000),
        "t_end_ns": pa.array(numbers * 1000 + 1000),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM, mask=pa.array(blind)),
        "num_pictures": pa.array(np.where(blind, 0, 1), pa.int32()),
        "tags": pa.array([[f"c{c}"] for c in cluster.tolist()]),
        "risk": pa.array(rng.random(count, dtype=np.float32)),
    }
    texts = dict.fromkeys(("model_id", "run_id", "source", "log_id", "log_uri", "reader"), pa.array(["m1"] * count))
    schema = scenes_schema(DIM)
    filled = [(columns | texts).get(field.name, pa.nulls(count, field.type)) for field in schema]
    append_rows(location, SCENES, pa.table(filled, schema=schema))


@pytest.fixture
def location(tmp_path) -> StoreLocation:
    place = StoreLocation.parse(str(tmp_path / "store"))
    open_for_writing(place, ModelRow("m1", "packaged", "tower-1", None, DIM, (), "{}"))
    return place


@pytest.fixture
def indexed(location) -> StoreLocation:
    add(location, 3000)
    build_indices(location, SMALL)
    return location


def queries(count: int = 12) -> np.ndarray:
    vectors = CENTRES[:count] + 0.4 * np.random.default_rng(99).normal(size=(count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def recall(location: StoreLocation, where: SceneFilter) -> float:
    dataset = location.dataset(SCENES)
    truth = exact_nearest(dataset, queries(), [where.to_sql()], 10)[0]
    hits = [
        np.isin(nearest, nearest_rows(dataset, query, truth.sql, 10, ["_rowid"])["_rowid"].to_numpy()).mean()
        for query, nearest in zip(queries(), truth.rows_QK, strict=True)
    ]
    return float(np.mean(hits))


def test_below_the_row_count_nothing_is_built_and_search_is_exact(location):
    add(location, 500)
    assert refresh_vector_index(location, SMALL) is None
    assert vector_index_of(location) is None
    assert not location.dataset(SCENES).describe_indices()
    assert recall(location, SceneFilter()) == 1.0


def test_the_index_finds_what_was_promised_with_and_without_a_filter(indexed):
    index = vector_index_of(indexed)
    assert index.kind == "IVF_SQ" and index.rows == index.trained_rows == 3000
    assert index.as_json()["recall_at_10"] >= 0.95
    assert index.as_json()["recall_at_10_filtered"] >= 0.95
    for where in (
        SceneFilter(),
        SceneFilter(min_risk=0.5),
        SceneFilter(min_risk=0.3, without_tags=("c0",)),
        SceneFilter(min_risk=0.98),
        SceneFilter(tags=("c3",)),
        SceneFilter(without_tags=("c1", "c2", "c4", "c5")),
        SceneFilter(from_ns=0, to_ns=20_000),
    ):
        assert recall(indexed, where) >= 0.95, where


def test_scenes_without_pictures_are_never_neighbours(indexed):
    rows = nearest_rows(indexed.dataset(SCENES), queries()[0], None, 3000, ["num_pictures"])
    assert len(rows) == 2700
    assert set(rows["num_pictures"].to_pylist()) == {1}
    assert indexed.dataset(SCENES).count_rows(SceneFilter(with_embedding=True).to_sql()) == 2700


def test_distances_are_those_of_the_full_vectors(indexed):
    dataset = indexed.dataset(SCENES)
    by_index = nearest_rows(dataset, queries()[0], None, 10, ["scene_id"])
    exactly = nearest_rows(dataset, queries()[0], None, 10, ["scene_id"], is_exact=True)
    assert by_index["scene_id"].to_pylist()[:3] == exactly["scene_id"].to_pylist()[:3]
    np.testing.assert_allclose(by_index["_distance"].to_numpy()[:3], exactly["_distance"].to_numpy()[:3], atol=1e-5)


def test_few_rows_that_pass_are_compared_without_the_index_and_as_it_would(indexed, monkeypatch):
    dataset = indexed.dataset(SCENES)
    few = SceneFilter(from_ns=0, to_ns=100_000).to_sql()
    monkeypatch.setattr("system.store.nearest.FETCHED_UP_TO", 0)
    by_scan = nearest_rows(dataset, queries()[0], few, 12, ["scene_id"], is_exact=True)
    monkeypatch.undo()
    monkeypatch.setattr(lance.LanceDataset, "describe_indices", lambda _: pytest.fail("asks for the index"))
    fetched = nearest_rows(dataset, queries()[0], few, 12, ["scene_id"], is_exact=True)
    assert fetched["scene_id"].to_pylist() == by_scan["scene_id"].to_pylist()
    np.testing.assert_allclose(fetched["_distance"].to_numpy(), by_scan["_distance"].to_numpy(), atol=1e-6)
    nowhere = SceneFilter(sources=("nowhere",)).to_sql()
    assert nearest_rows(dataset, queries()[0], nowhere, 12, ["scene_id"], is_exact=True).num_rows == 0


def test_rows_that_arrive_are_found_at_once_and_indexed_when_they_are_many(indexed):
    before = vector_index_of(indexed)
    add(indexed, 20, first=3000)
    assert recall(indexed, SceneFilter(from_ns=3_000_000)) == 1.0
    assert refresh_vector_index(indexed, SMALL) == before, "so few are no burden"
    add(indexed, 500, first=3020)
    assert recall(indexed, SceneFilter(from_ns=3_000_000)) >= 0.95
    grown = refresh_vector_index(indexed, SMALL)
    assert grown.rows == 3520 and grown.trained_rows == 3000
    assert grown.index_id != before.index_id
    assert recall(indexed, SceneFilter()) >= 0.95
    add(indexed, 3000, first=3520)
    trained_anew = refresh_vector_index(indexed, SMALL)
    assert trained_anew.trained_rows == 6520 and trained_anew.partitions > before.partitions
    of_vectors = [d for d in indexed.dataset(SCENES).describe_indices() if d.field_names == ["embedding"]]
    assert len(of_vectors) == 1, "the old index is dropped"
    assert recall(indexed, SceneFilter(min_risk=0.9)) >= 0.95


def test_compaction_does_not_ask_for_another_measurement(location):
    for first in range(0, 1500, 100):
        add(location, 100, first)
    before = refresh_vector_index(location, SMALL)
    location.dataset(SCENES).optimize.compact_files()
    assert vector_index_of(location) is None, "until it is refreshed, search is exact"
    after = refresh_vector_index(location, SMALL)
    assert after.tunings == before.tunings and after.tune_s == before.tune_s
    assert vector_index_of(location) == after


def test_an_index_whose_measurement_is_not_recorded_is_not_trusted(indexed):
    indexed.dataset(SCENES).update_config({SETTINGS_KEY: None})
    assert vector_index_of(indexed) is None
    assert recall(indexed, SceneFilter()) == 1.0
    indexed.dataset(SCENES).update_config({SETTINGS_KEY: json.dumps({"kind": "of a later Nightminer"})})
    assert vector_index_of(indexed) is None
    assert refresh_vector_index(indexed, SMALL) == vector_index_of(indexed)


def test_another_target_is_measured_again_and_not_built_again(indexed):
    before = vector_index_of(indexed)
    after = refresh_vector_index(indexed, SMALL.model_copy(update={"target_recall": 0.99}))
    assert after.target_recall == 0.99 and after.index_id == before.index_id
    assert refresh_vector_index(indexed, SMALL.model_copy(update={"target_recall": 0.99})) == after


def test_a_tagged_version_is_searched_by_the_index_that_it_had(indexed):
    old = vector_index_of(indexed)
    tag_version(indexed, "run-1")
    add(indexed, 4000, first=3000)
    refresh_vector_index(indexed, SMALL)
    dataset = indexed.dataset(SCENES)
    assert read_vector_index(dataset.checkout_version("run-1")) == old
    rows = search_scenes(indexed, queries()[0], SceneFilter(), SearchConfig(top=10), "run-1")
    assert max(row["t_start_ns"] for row in rows) < 3_000_000


def test_an_index_of_another_kind_is_replaced(location):
    add(location, 1500)
    location.dataset(SCENES).create_index("embedding", "IVF_FLAT", metric="cosine", num_partitions=2)
    assert vector_index_of(location) is None
    assert refresh_vector_index(location, SMALL).kind == "IVF_SQ"
    assert [d.index_type for d in location.dataset(SCENES).describe_indices()] == ["IVF_SQ"]


def test_the_next_harder_measurement_is_used_and_beyond_them_every_partition():
    tunings = (Tuning(10, 1.0, 2, 2, 0.99), Tuning(10, 0.1, 8, 2, 0.97), Tuning(1000, 1.0, 16, 1, 0.96))
    index = VectorIndex("IVF_SQ", "a", 9, 9, 100, 0.95, tunings, 1.0, 2.0)
    assert index.tuning(10, 1.0) == tunings[0]
    assert index.tuning(3, 0.5) == tunings[1]
    assert index.tuning(11, 1.0) == tunings[2]
    assert index.tuning(10, 0.05).probes == 100
    assert index.tuning(1000, 0.9).probes == 100
    assert (index.tuning(5000, 1.0).probes, index.tuning(5000, 1.0).refine) == (100, 1)
    assert VectorIndex.from_json(json.loads(json.dumps(index.as_json()))) == index


def test_the_benchmark_measures_a_small_store(data_root, tmp_path):
    from tests.benchmarks.vector_rows import make_store, real_seeds
    from tests.benchmarks.vector_search import measure

    seeds = real_seeds(tmp_path, 24)
    figures = measure(
        make_store(tmp_path / "store", 3000, seeds), seeds, 8, 1, VectorIndexConfig(from_rows=1, queries=8)
    )
    assert figures["recall_at_10"] >= 0.9 and figures["recall_at_10_filtered"] >= 0.9
    assert figures["fresh_found"] == 1.0
    assert figures["rows"] == 3000 and figures["dim"] == 384
