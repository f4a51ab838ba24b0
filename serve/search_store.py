"""A store as the routes see it: pinned versions, rankings that pages are cut from, and what was read a moment ago."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serve.models import Cursor
from system.errors import ConfigError, StoreError
from system.pipelines.explained import explained
from system.pipelines.nightly.records import NIGHT_OF
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.pictures import StoredPicture, read_pictures
from system.store.runs import RunRecord, read_runs
from system.store.schema import SCENES
from system.store.search import COLUMNS
from system.store.snapshot import Parts, Ranked, Ranking, Snapshot
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


class ForeignCursorError(Exception):
    """A cursor of another question."""


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
        self._snapshots = _Recent[Snapshot](_SNAPSHOTS_KEPT)
        self._rankings = _Recent[Ranking](_RANKINGS_KEPT)
        self._facets = _Recent[Any](_FACETS_KEPT)
        self._pictures = _Recent[list[StoredPicture]](_PICTURES_KEPT)
        self._newest: Snapshot | None = None
        self._read: tuple[float, list[RunRecord], list[Row]] | None = None

    def view(self, as_of: str | None = None) -> View:
        """The newest version and model, or those of an earlier run.

        Raises:
            ConfigError: no version has this tag. StoreError: the store is empty or cannot be read.
        """
        if as_of is None:
            return View(self._newest_snapshot(), self._newest_model())
        snapshot = self._snapshots.get(as_of, lambda: Snapshot.tagged(self.location, as_of))
        runs, models = self._runs_and_models()
        # The newest run of a night speaks for it.
        tags = ((run.model_id, f"run-{run.run_id}", f"night-{run.report.get(NIGHT_OF)}") for run in runs)
        of_run = [model_id for model_id, *names in tags if as_of in names][:1]
        model = next((m for m in models if m["model_id"] in of_run), None)
        return View(snapshot, model or self._newest_model())

    def tower(self) -> str:
        """Name of the tower whose space the embeddings are in."""
        return str(self._newest_model()["tower"])

    def tag_names(self) -> tuple[str, ...]:
        """Every tag that a scene may carry."""
        names = [name for model in self._runs_and_models()[1] for name in model["tag_names"]]
        return tuple(dict.fromkeys(names))

    def runs(self) -> tuple[list[RunRecord], frozenset[str]]:
        """All runs, newest first, and the tags of the table's versions."""
        return self._runs_and_models()[0], frozenset(self.location.dataset(SCENES).tags.list())

    def search(
        self,
        query_E: NDArray[np.float32] | None,
        where: SceneFilter,
        weights: Parts,
        top: int,
        cursor: Cursor | None = None,
        as_of: str | None = None,
    ) -> Page:
        """A page of results.

        Raises:
            ForeignCursorError, StaleCursorError. ConfigError: an unknown tag of scenes or of a version.
        """
        where.check_tags(self.tag_names())
        asked = _digest(None if query_E is None else query_E.tobytes(), where.to_sql(), sorted(weights.items()), as_of)
        if cursor is None:
            view, first = self.view(as_of), 0
        else:
            view, first = self._resume(cursor, asked)
        where = view.filter(where)
        key = f"{view.snapshot.version}.{view.model['model_id']}.{asked}"
        depth = self._max_depth
        ranking = self._rankings.get(key, lambda: view.snapshot.rank(query_E, where, weights, depth))
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
            next_cursor=_cursor(view, end, asked) if end < len(ranking) else None,
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

    def pictures(self, row: Row, model_id: str) -> list[StoredPicture]:
        """Small pictures of a scene, in order of time and camera."""
        key = f"{row['scene_id']}.{row['picture_batch']}"
        read = lambda: read_pictures(self.location, [row["scene_id"]], model_id).get(row["scene_id"], [])  # noqa: E731
        return self._pictures.get(key, read)

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
            self._newest = held = Snapshot.newest(self.location)
        return held

    def _newest_model(self) -> Row:
        """Of the newest run that ended well: a new model's rows are shown when they are all there."""
        runs, models = self._runs_and_models()
        if not runs:
            raise StoreError(f"{self.location.uri}: no run has mined into this store yet")
        chosen = next((run for run in runs if run.status == "finished"), runs[0])
        return next(model for model in models if model["model_id"] == chosen.model_id)

    def _runs_and_models(self) -> tuple[list[RunRecord], list[Row]]:
        now_s, held = time.monotonic(), self._read
        if held is None or now_s - held[0] > _RUNS_AGE_S:
            self._read = held = (now_s, read_runs(self.location), read_models(self.location))
        return held[1], held[2]

    def _resume(self, cursor: str, asked: str) -> tuple[View, int]:
        version, model_key, first, digest = cursor.removeprefix("v").split(".")
        if digest != asked:
            raise ForeignCursorError
        model = next((m for m in self._runs_and_models()[1] if _digest(m["model_id"]) == model_key), None)
        if model is None:
            raise StaleCursorError
        try:
            held = self._newest
            if held is None or held.version != int(version):
                held = self._snapshots.get(f"v{version}", lambda: Snapshot(self.location, int(version)))
        except ConfigError as error:
            raise StaleCursorError from error
        return View(held, model), int(first)

    def _facet(self, view: View, name: str, where: SceneFilter, read: Callable[[], T]) -> T:
        key = f"{name}.{view.snapshot.version}.{view.model['model_id']}.{where.to_sql()}"
        answer: T = self._facets.get(key, read)
        return answer


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


def _cursor(view: View, place: int, asked: str) -> str:
    return f"v{view.snapshot.version}.{_digest(view.model['model_id'])}.{place}.{asked}"


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()
