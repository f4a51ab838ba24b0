"""A store as the routes see it: pinned versions, rankings that pages are cut from, and what was read a moment ago."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serve.cursors import ForeignCursorError, Place, digest
from serve.models import Cursor
from system.errors import ConfigError, StoreError
from system.pipelines.explained import explained
from system.store.detections import has_detections
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.pictures import StoredPicture, read_pictures
from system.store.runs import RunRecord, read_runs, run_shown
from system.store.schema import SCENES
from system.store.search import COLUMNS
from system.store.snapshot import Parts, Ranked, Ranking, Snapshot, shared_session
from system.store.tables import read_models

Row = dict[str, Any]
T = TypeVar("T")
ROW_COLUMNS = (*COLUMNS, "min_ttc_s", "picture_batch")
DETAIL_COLUMNS = (*ROW_COLUMNS, "run_id", "log_uri", "reader", "physics_risk", "physics_source", "birds_eye")
# Runs and models change once a night; a second's delay is not seen, and a query is spared two tables.
_RUNS_AGE_S = 1.0
_SNAPSHOTS_KEPT, _RANKINGS_KEPT, _FACETS_KEPT, _PICTURES_KEPT = 8, 128, 256, 128
_BINS = 20


class StaleCursorError(Exception):
    """A cursor's version or model is not there any more."""


@dataclass(frozen=True)
class View:
    """What a request looks at: one version of the table, and one model's rows of it."""

    snapshot: Snapshot
    model: Row

    def filter(self, where: SceneFilter) -> SceneFilter:
        return where.model_copy(update={"model_id": self.model["model_id"]})


@dataclass(frozen=True)
class Page:
    """rows: of the page, explained. ranked: their places. weights: of the parts. next_cursor: None at the end."""

    rows: list[Row]
    ranked: list[Ranked]
    weights: Parts
    next_cursor: str | None
    total: int
    view: View


class SearchStore:
    """Reads only. Methods block, and may be called from several threads."""

    def __init__(self, location: StoreLocation, max_depth: int = 1000) -> None:
        self.location, self._max_depth = location, max_depth
        self._read: tuple[float, list[RunRecord], list[Row]] | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Know nothing of any version."""
        # Of the versions that have one vector index, which each of them would read anew without it.
        self._session = shared_session()
        self._snapshots = _Recent[Snapshot](_SNAPSHOTS_KEPT)
        self._rankings = _Recent[Ranking](_RANKINGS_KEPT)
        self._facets = _Recent[Any](_FACETS_KEPT)
        self._pictures = _Recent[list[StoredPicture]](_PICTURES_KEPT)
        self._newest: Snapshot | None = None
        self._index_ids = ""

    def view(self, as_of: str | None = None) -> View:
        """The newest version and model, or those of an earlier run.

        Raises:
            ConfigError: no version has this tag, or it was removed. StoreError: the store is empty or cannot be read.
        """
        model = self._model(as_of)  # before the rest: it sees whether this is still the same store
        if as_of is None:
            return View(self._newest_snapshot(), model)
        return View(self._held(Snapshot.tagged(self.location, as_of, self._session)), model)  # a tag may have moved

    def tower(self) -> str:
        """Name of the tower whose space the embeddings are in."""
        return str(self._model()["tower"])

    def tag_names(self) -> tuple[str, ...]:
        """Every tag that a scene may carry."""
        names = [name for model in self._runs_and_models()[1] for name in model["tag_names"]]
        return tuple(dict.fromkeys(names))

    def tag_of(self, version: int) -> str | None:
        """A tag of a version of the table; None where it has none."""
        tags = self.location.tags(SCENES)
        return max((name for name in tags if tags[name] == version), default=None)

    def runs(self) -> tuple[list[RunRecord], frozenset[str]]:
        """All runs, newest first, and the tags of the table's versions."""
        return self._runs_and_models()[0], frozenset(self.location.tags(SCENES))

    def begin(self, asked: str, cursor: Cursor | None = None, as_of: str | None = None) -> tuple[View, Place]:
        """What a page looks at and where it begins: at the cursor, or at the beginning.

        Args:
            asked: digest of the question.
        Raises:
            ForeignCursorError, StaleCursorError. ConfigError, StoreError: as `view`.
        """
        if cursor is None:
            view = self.view(as_of)
            return view, Place(view.snapshot.version, digest(view.model["model_id"]), 0, asked)
        place = Place.parse(cursor)
        if place.asked != asked:
            raise ForeignCursorError
        view = self._resume(place)
        if place.query_E is not None and place.query_E.shape != (view.snapshot.embedding_dim,):
            raise ForeignCursorError
        return view, place

    def search(
        self,
        view: View,
        place: Place,
        query_E: NDArray[np.float32] | None,
        where: SceneFilter,
        weights: Parts,
        top: int,
    ) -> Page:
        """A page of results.

        Args:
            view, place: as of `begin`; the place knows all that tells this question from others.
        Raises:
            ConfigError: an unknown tag of scenes, or a query of another width.
        """
        where.check_tags(self.tag_names())
        where, first = view.filter(where), place.first
        depth = self._max_depth
        ranking = self._rankings.get(place.key(), lambda: view.snapshot.rank(query_E, where, weights, depth))
        chosen = ranking.part(first, first + top)
        ids = [scene.scene_id for scene in chosen]
        rows = view.snapshot.rows(ids, view.model["model_id"], ROW_COLUMNS)
        if len(rows) != len(chosen):
            told = f"{len(chosen) - len(rows)} of {len(chosen)} scenes are ranked but have no row"
            raise StoreError(f"{self.location.uri}: version {view.snapshot.version}: {told}")
        end = first + len(chosen)
        return Page(
            rows=[explained(row, view.model["tag_names"]) | {"picture_batch": row["picture_batch"]} for row in rows],
            ranked=chosen,
            weights=ranking.weights,
            next_cursor=replace(place, first=end).text() if end < len(ranking) else None,
            total=self.count(view, where.model_copy(update={"with_embedding": query_E is not None})),
            view=view,
        )

    def count(self, view: View, where: SceneFilter) -> int:
        """Scenes that pass."""
        return self._facet(view, "count", where, lambda: view.snapshot.count(view.filter(where)))

    def scene(self, scene_id: str, as_of: str | None = None) -> tuple[Row, View]:
        """All columns of a scene but its vector, and `has_embedding`.

        Raises:
            ConfigError: there is none.
        """
        view = self.view(as_of)
        rows = view.snapshot.rows([scene_id], view.model["model_id"], DETAIL_COLUMNS)
        if not rows:
            raise ConfigError(f"no scene {scene_id!r}")
        found = view.filter(SceneFilter(scene_ids=(scene_id,), with_embedding=True))
        return rows[0] | {"has_embedding": view.snapshot.count(found) > 0}, view

    def embedding(self, scene_id: str, view: View) -> NDArray[np.float32] | None:
        """float32 [E], or None where the scene has no pictures. Raises ConfigError: no such scene."""
        return view.snapshot.embedding(scene_id, view.model["model_id"])

    def pictures(self, row: Row) -> list[StoredPicture]:
        """Small pictures of a scene as of its row, in order of time and camera."""
        scene_id, batch = row["scene_id"], row["picture_batch"]
        return self._pictures.get(
            f"{scene_id}.{batch}", lambda: read_pictures(self.location, {scene_id: batch})[scene_id]
        )

    def column_counts(self, view: View, where: SceneFilter) -> dict[str, int]:
        """Scenes a tag among those that pass."""

        def read() -> dict[str, int]:
            tags = view.snapshot.columns(["tags"], view.filter(where))["tags"]
            counts = pc.value_counts(pc.list_flatten(tags)).to_pylist()
            return {pair["values"]: pair["counts"] for pair in counts}

        return self._facet(view, "tags", where, read)

    def logs(self, view: View, where: SceneFilter) -> list[Row]:
        """{source, log_id, count, from_ns, to_ns, max_risk} a log, in order of their names."""

        def read() -> list[Row]:
            table = view.snapshot.columns(["source", "log_id", "t_start_ns", "t_end_ns", "risk"], view.filter(where))
            parts: Any = [("log_id", "count"), ("t_start_ns", "min"), ("t_end_ns", "max"), ("risk", "max")]
            grouped = table.group_by(["source", "log_id"]).aggregate(parts)
            renamed = {"log_id_count": "count", "t_start_ns_min": "from_ns", "t_end_ns_max": "to_ns"}
            rows = grouped.rename_columns(renamed | {"risk_max": "max_risk"}).to_pylist()
            return sorted(rows, key=lambda row: (row["source"], row["log_id"]))

        return self._facet(view, "logs", where, read)

    def timeline(self, view: View, source: str, log_id: str) -> list[Row]:
        """{scene_id, t_start_ns, t_end_ns, risk, hardness, tags} of a log's scenes, in order of time."""
        where = view.filter(SceneFilter(sources=(source,), log_ids=(log_id,)))
        names = ["scene_id", "t_start_ns", "t_end_ns", "risk", "hardness", "tags"]
        return sorted(view.snapshot.columns(names, where).to_pylist(), key=lambda row: row["t_start_ns"])

    def risk_histogram(self, view: View) -> tuple[list[int], int]:
        """Scenes in 20 equal bins of [0, 1], and how many have no risk."""

        def read() -> tuple[list[int], int]:
            risk = view.snapshot.columns(["risk"], view.filter(SceneFilter()))["risk"].to_numpy()
            known = risk[~np.isnan(risk)]
            bins = np.bincount(np.clip((known * _BINS).astype(int), 0, _BINS - 1), minlength=_BINS)
            return bins.tolist(), int(len(risk) - len(known))

        return self._facet(view, "histogram", SceneFilter(), read)

    def cameras(self, view: View) -> list[str]:
        """Names of all cameras."""

        def read() -> list[str]:
            column = view.snapshot.columns(["cameras"], view.filter(SceneFilter()))["cameras"]
            return sorted(filter(None, pc.unique(pc.list_flatten(column)).to_pylist()))

        return self._facet(view, "cameras", SceneFilter(), read)

    def table(self, view: View, scene_ids: Sequence[str], names: Sequence[str]) -> pa.Table:
        """Rows of some scenes, for export; in the table's order."""
        return view.snapshot.columns(names, view.filter(SceneFilter(scene_ids=tuple(scene_ids))))

    def _newest_snapshot(self) -> Snapshot:
        held = self._newest
        if held is None or not held.is_newest():
            # Another thread may do the same; both end with the newest.
            fresh = Snapshot.newest(self.location, self._session)
            ids = fresh.index_ids()
            if held is not None and ids != self._index_ids:
                self._session = shared_session()  # the old one would keep the old index in memory
                fresh = Snapshot.newest(self.location, self._session)
                ids = fresh.index_ids()
            self._index_ids, self._newest, held = ids, fresh, fresh
        return held

    def _model(self, as_of: str | None = None) -> Row:
        runs, models = self._runs_and_models()
        run = run_shown(runs, as_of)
        if run is None:
            raise StoreError(f"{self.location.uri}: no run has mined into this store yet")
        return next(model for model in models if model["model_id"] == run.model_id)

    def _runs_and_models(self) -> tuple[list[RunRecord], list[Row]]:
        now_s, held = time.monotonic(), self._read
        if held is None or now_s - held[0] > _RUNS_AGE_S:
            runs = read_runs(self.location)
            if held is not None and _first(runs) != _first(held[1]):
                self._begin_anew()  # another store lies here now, whose versions have the same numbers
            self._read = held = (now_s, runs, read_models(self.location))
        return held[1], held[2]

    def _resume(self, place: Place) -> View:
        model = next((m for m in self._runs_and_models()[1] if digest(m["model_id"]) == place.model_key), None)
        if model is None:
            raise StaleCursorError
        try:
            opened = Snapshot.at(self.location, place.version, self._session)
        except ConfigError as error:
            self.location.dataset(SCENES)  # a store that cannot be read at all is another matter
            raise StaleCursorError from error
        if place.detections is not None and not has_detections(self.location, place.detections):
            raise StaleCursorError
        return View(self._held(opened), model)

    def _held(self, opened: Snapshot) -> Snapshot:
        """The one of the same version that has read already, or this one. That it could be opened says it is there."""
        newest = self._newest
        if newest is not None and newest.version == opened.version:
            return newest
        return self._snapshots.get(str(opened.version), lambda: opened)

    def _facet(self, view: View, name: str, where: SceneFilter, read: Callable[[], T]) -> T:
        # A filter may name 200,000 scenes: its digest is kept.
        key = digest(name, view.snapshot.version, view.model["model_id"], where.to_sql(), size=16)
        answer: T = self._facets.get(key, read)
        return answer


def _first(runs: Sequence[RunRecord]) -> tuple[str, int] | None:
    """What tells a store from another one."""
    return min(((run.run_id, run.started_ns) for run in runs), key=lambda run: run[1], default=None)


class _Recent(Generic[T]):
    """The answers asked for last. Two threads may both make one that is missing."""

    def __init__(self, kept: int) -> None:
        self._kept, self._lock = kept, threading.Lock()
        self._values: OrderedDict[str, T] = OrderedDict()

    def get(self, key: str, make: Callable[[], T]) -> T:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._kept:
                self._values.popitem(last=False)
        return value
