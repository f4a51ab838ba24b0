"""Search among a million vectors: what the tuned index finds of the ten nearest, and how much sooner than exact search.

The store is made of perturbed embeddings of real pictures (`vector_rows.py` says how). Half of the queries are further
perturbations, which the store does not hold, half are sentences, put together from the prompts of the twenty tags.
Truth is exact search by numpy over all rows. Each filter is measured alone; the figure with filters is the least of
them. Exact and indexed searches are timed in turns, as `nearest_rows` would do them; filters that leave so few rows
that it does not ask the index are left out of the speed. build_seconds are of the vector index, with the measurement
that it is tuned by. With --folder the store and its index are kept, and gone on with after a kill. Prints one JSON
object as its last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.backbones.loading import load_tower
from system.backbones.runtime import Runtime
from system.miner.taxonomy import load_taxonomy
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.maintain import build_indices
from system.store.nearest import FETCHED_UP_TO, nearest_rows
from system.store.schema import SCENES
from system.store.vector_index import VectorIndexConfig, vector_index_of
from system.store.vector_recall import Nearest, exact_nearest
from tests.benchmarks.serving import print_figures
from tests.benchmarks.vector_rows import MODEL_ID, Seeds, add_scenes, make_store, real_seeds

_TOP = 10
_FRESH = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="keeps the store and the seeds; without it they are thrown away")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--timed", type=int, default=10, help="exact searches that are timed, a filter")
    parser.add_argument("--pictures", type=int, help="real pictures to begin from; all without it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        seeds = real_seeds(folder, arguments.pictures)
        location = make_store(folder / f"store-{arguments.rows}", arguments.rows, seeds)
        # A small one is indexed too, though it would not pay.
        config = VectorIndexConfig(from_rows=min(arguments.rows, VectorIndexConfig().from_rows))
        print_figures(measure(location, seeds, arguments.queries, arguments.timed, config))


def measure(
    location: StoreLocation, seeds: Seeds, num_queries: int, num_timed: int, config: VectorIndexConfig
) -> dict[str, Any]:
    """All figures, of a store that `make_store` made."""
    rows = location.dataset(SCENES).count_rows()
    if vector_index_of(location) is None:
        build_indices(location, config)
    index = vector_index_of(location)
    assert index is not None, "no index was built"
    _tell("index", index.as_json())
    rng = np.random.default_rng(7)
    queries_QE = np.concatenate([seeds.perturbed(num_queries // 2, rng)[0], _sentences(num_queries - num_queries // 2)])
    filters = {name: where.to_sql() for name, where in _filters(rows, seeds).items()}
    truths = exact_nearest(location.dataset(SCENES), queries_QE, list(filters.values()), _TOP)
    recalls = {name: _recall(location, queries_QE, truth) for name, truth in zip(filters, truths, strict=True)}
    _tell("recalls", recalls)
    timed_QE = rng.permutation(queries_QE)[:num_timed]
    timings = {name: _timings(location, timed_QE, sql) for name, sql in filters.items()}
    _tell("seconds", timings)
    speedups = {name: round(exact / indexed, 1) for name, (exact, indexed) in timings.items()}
    passing = {name: truth.share * rows for name, truth in zip(filters, truths, strict=True)}
    indexed = [name for name in filters if name != "none" and passing[name] > FETCHED_UP_TO]
    return {
        "rows": rows,
        "dim": int(queries_QE.shape[1]),
        "recall_at_10": recalls["none"],
        "recall_at_10_filtered": min(recall for name, recall in recalls.items() if name != "none"),
        "speedup_vs_exact": speedups["none"],
        "speedup_vs_exact_filtered": min(speedups[name] for name in indexed),
        "build_seconds": round(index.build_s + index.tune_s, 1),
        "index": index.as_json(),
        "recalls": recalls,
        "shares": {name: round(truth.share, 6) for name, truth in zip(filters, truths, strict=True)},
        "speedups": speedups,
        "milliseconds": {name: [round(1000 * s, 1) for s in both] for name, both in timings.items()},
        "first_query_ms": round(1000 * _seconds(lambda: _search(location, queries_QE[0], None)), 1),
        "fresh_found": _fresh_found(location, seeds, rows),
    }


def _filters(rows: int, seeds: Seeds) -> dict[str, SceneFilter]:
    """From all rows to fifty. Tags go with the look of a picture, the others do not."""
    common, rare = max(seeds.corpora, key=seeds.corpora.count), min(seeds.corpora, key=seeds.corpora.count)
    middle_ns = rows // 2 * 10**9
    return {
        "none": SceneFilter(),
        "one model": SceneFilter(model_id=MODEL_ID),
        "half by risk": SceneFilter(model_id=MODEL_ID, min_risk=0.5),
        "common tag": SceneFilter(model_id=MODEL_ID, tags=(common,)),
        "not the common tag": SceneFilter(model_id=MODEL_ID, without_tags=(common,)),
        "rare tag": SceneFilter(model_id=MODEL_ID, tags=(rare,)),
        "1 % by risk": SceneFilter(model_id=MODEL_ID, min_risk=0.99),
        "0.1 % by time": SceneFilter(model_id=MODEL_ID, from_ns=middle_ns, to_ns=middle_ns + rows // 1000 * 10**9),
        "one log": SceneFilter(model_id=MODEL_ID, log_ids=("log000003",)),
    }


def _sentences(count: int) -> NDArray[np.float32]:
    """Pairs of the tags' prompts in the space of the pictures, float32 [count, E]."""
    prompts = [prompt for tag in load_taxonomy(None).tags for prompt in tag.prompts]
    pairs = [f"{a}, {b}" for a in prompts for b in prompts if a != b]
    chosen = np.random.default_rng(3).choice(len(pairs), count, replace=len(pairs) < count)
    texts_QE: NDArray[np.float32] = load_tower("packaged", Runtime()).encode_texts([pairs[k] for k in chosen]).numpy()
    return texts_QE


def _recall(location: StoreLocation, queries_QE: NDArray[np.float32], truth: Nearest) -> float:
    """Mean share of the ten nearest that pass, or of as many as there are, that a search finds."""
    dataset, shares = location.dataset(SCENES), []
    for query_E, nearest in zip(queries_QE, truth.rows_QK, strict=True):
        found = nearest_rows(dataset, query_E, truth.sql, _TOP, ["_rowid"])["_rowid"].to_numpy()
        shares.append(np.isin(nearest, found).mean())
    return round(float(np.mean(shares)), 4)


def _timings(location: StoreLocation, queries_QE: NDArray[np.float32], sql: str | None) -> tuple[float, float]:
    """Median seconds of a search by a server that has begun: exact, and by the index, in turns."""
    dataset = location.dataset(SCENES)

    def timed_s(query_E: NDArray[np.float32], is_exact: bool) -> float:
        return _seconds(lambda: nearest_rows(dataset, query_E, sql, _TOP, ["scene_id"], is_exact))

    exact, indexed = [], []
    for k, query_E in enumerate(queries_QE):
        exact.append(timed_s(query_E, True))
        indexed += [timed_s(queries_QE[(k + n) % len(queries_QE)], False) for n in range(3)]
    return statistics.median(exact), statistics.median(indexed)


def _search(location: StoreLocation, query_E: NDArray[np.float32], sql: str | None) -> list[str]:
    """By a process that has not looked at the store yet."""
    found: list[str] = nearest_rows(location.dataset(SCENES), query_E, sql, _TOP, ["scene_id"])["scene_id"].to_pylist()
    return found


def _fresh_found(location: StoreLocation, seeds: Seeds, rows: int) -> float:
    """Share of scenes, added since the index was built, that a search with their own vectors finds first."""
    version = location.dataset(SCENES).version
    add_scenes(location, rows, _FRESH, seeds)
    dataset = location.dataset(SCENES)
    fresh = dataset.take(list(range(rows, rows + _FRESH, _FRESH // 20)), columns=["scene_id", "embedding"]).to_pylist()
    hits = [_search(location, np.array(row["embedding"], np.float32), None)[0] == row["scene_id"] for row in fresh]
    old = dataset.checkout_version(version)
    old.restore()
    return float(np.mean(hits))


def _tell(what: str, figures: dict[str, Any]) -> None:
    """A run of an hour is worth something when it is cut off."""
    print(what, json.dumps(figures), file=sys.stderr, flush=True)


def _seconds(call: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
