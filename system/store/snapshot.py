"""The scenes of a store at one version, which never changes while it is looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from system.errors import ConfigError, StoreError
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.nearest import index_ids, nearest_rows
from system.store.schema import SCENES

Parts = dict[str, float]
# Lance keeps what it has read of each version's files; a gigabyte of it, where nothing is said.
_METADATA_BYTES = 256 << 20


@dataclass(frozen=True)
class Ranked:
    """A scene's place. score: the weighted mean of `values`; a value is None where it is unknown, and counts as 0."""

    scene_id: str
    score: float
    values: dict[str, float | None]


@dataclass(frozen=True, eq=False)
class Ranking:
    """N scenes, best first. weights: by name, their sum is 1. scores: [N]. values: by name, [N], NaN where unknown."""

    weights: Parts
    scene_ids: list[str]
    scores: NDArray[np.float64]
    values: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.scene_ids)

    def part(self, first: int, end: int) -> list[Ranked]:
        """The scenes at places first to end - 1."""
        return [
            Ranked(
                self.scene_ids[k], float(self.scores[k]), {name: _known(self.values[name][k]) for name in self.weights}
            )
            for k in range(first, min(end, len(self)))
        ]


def shared_session() -> lance.Session:
    """For versions of one store, so that each reads only what is new."""
    return lance.Session(metadata_cache_size_bytes=_METADATA_BYTES)


class Snapshot:
    """One version of the table `scenes`. Safe to share between threads."""

    def __init__(self, location: StoreLocation, dataset: lance.LanceDataset) -> None:
        self.location, self.dataset, self.version = location, dataset, int(dataset.version)

    @classmethod
    def newest(cls, location: StoreLocation, session: lance.Session | None = None) -> Snapshot:
        """As of now.

        Args:
            session: of `shared_session`.
        """
        return cls(location, location.dataset(SCENES, session=session))

    @classmethod
    def at(cls, location: StoreLocation, version: int, session: lance.Session | None = None) -> Snapshot:
        """
        Raises:
            ConfigError: the version is not there any more, or never was.
        """
        uri, options = location.table_uri(SCENES), location.storage_options()
        try:
            return cls(location, lance.dataset(uri, version=version, storage_options=options, session=session))
        except (ValueError, OSError) as error:
            raise ConfigError(f"the store's scenes have no version {version}; it was removed") from error

    @classmethod
    def kept(cls, location: StoreLocation, version: int) -> Snapshot:
        """As of a version, or of now where that was removed."""
        try:
            return cls.at(location, version)
        except ConfigError:
            return cls.newest(location)

    @classmethod
    def tagged(cls, location: StoreLocation, tag: str, session: lance.Session | None = None) -> Snapshot:
        """As after an earlier run.

        Raises:
            ConfigError: no version has this tag. StoreError: tags cannot be read.
        """
        known = location.tags(SCENES, session)
        if tag not in known:
            raise ConfigError(f"no table version is tagged {tag!r}; /v1/runs lists those that are")
        return cls.at(location, known[tag], session)

    @property
    def embedding_dim(self) -> int:
        return int(self.dataset.schema.field("embedding").type.list_size)

    def is_newest(self) -> bool:
        """Whether nothing was committed since.

        Raises:
            StoreError: the store cannot be read.
        """
        with self._reading():
            return bool(self.dataset.latest_version == self.version)

    def index_ids(self) -> str:
        """Of the vector index. Raises StoreError: the store cannot be read."""
        with self._reading():
            return index_ids(self.dataset)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            raise StoreError(f"{self.location.uri}: version {self.version} cannot be read: {error}") from error

    def count(self, where: SceneFilter) -> int:
        """Scenes that pass."""
        with self._reading():
            return int(self.dataset.count_rows(filter=where.to_sql()))

    def columns(self, names: Sequence[str], where: SceneFilter) -> pa.Table:
        """Some columns of the scenes that pass, in the table's order.

        Raises:
            StoreError: a data file of this version cannot be read.
        """
        with self._reading():
            return self.dataset.to_table(columns=list(names), filter=where.to_sql())

    def rows(self, scene_ids: Sequence[str], model_id: str, names: Sequence[str]) -> list[dict[str, Any]]:
        """Rows in the order of the ids; one that is not there is left out."""
        if not scene_ids:
            return []
        where = SceneFilter(scene_ids=tuple(scene_ids), model_id=model_id)
        found = {
            row["scene_id"]: row for row in self.columns(list(dict.fromkeys(["scene_id", *names])), where).to_pylist()
        }
        return [found[scene_id] for scene_id in scene_ids if scene_id in found]

    def embedding(self, scene_id: str, model_id: str) -> NDArray[np.float32] | None:
        """float32 [E]; None where the scene has no pictures.

        Raises:
            ConfigError: no such scene.
        """
        rows = self.rows([scene_id], model_id, ["embedding"])
        if not rows:
            raise ConfigError(f"no scene {scene_id!r}")
        value = rows[0]["embedding"]
        return None if value is None else np.array(value, np.float32)

    def rank(self, query_E: NDArray[np.float32] | None, where: SceneFilter, weights: Parts, depth: int) -> Ranking:
        """The `depth` best scenes that pass, best first; ties in the order of their ids.

        A query that is answered by an index, or mixed with other parts, looks at the `depth` most similar scenes, and
        orders these: the same depth gives the same order on every page.

        Args:
            query_E: a vector, or None to order by what the table knows.
            weights: of "similarity" (cosine) and of the columns hardness, risk and rarity_rank (as "rarity").
        Raises:
            ConfigError: the query's width is not the store's.
        """
        wanted = {name: weight for name, weight in weights.items() if weight > 0}
        if query_E is None:
            wanted.pop("similarity", None)
        if not wanted:
            wanted = {"hardness" if query_E is None else "similarity": 1.0}
        total = sum(wanted.values())
        shares = {name: weight / total for name, weight in wanted.items()}
        columns = {"hardness": "hardness", "risk": "risk", "rarity": "rarity_rank"}
        names = ["scene_id", *(columns[name] for name in shares if name in columns)]
        if query_E is None:
            table = self.columns(names, where)
        else:
            if query_E.shape != (self.embedding_dim,):
                raise ConfigError(f"the query has shape {query_E.shape}, the store's embeddings {self.embedding_dim}")
            with self._reading():
                table = nearest_rows(self.dataset, query_E, where.to_sql(), depth, names)
        values = {
            name: 1.0 - _numbers(table["_distance"]) if name == "similarity" else _numbers(table[columns[name]])
            for name in shares
        }
        score = sum((shares[name] * np.nan_to_num(values[name]) for name in shares), np.zeros(len(table)))
        order = _best(score, table["scene_id"], depth)
        ids = table["scene_id"].take(pa.array(order)).to_pylist()
        return Ranking(shares, ids, score[order], {name: values[name][order] for name in shares})


def _best(score: NDArray[np.float64], scene_ids: pa.ChunkedArray, depth: int) -> NDArray[np.intp]:
    """Places of the highest scores, highest first. Only those that can be among them are sorted."""
    places = np.arange(len(score))
    if len(score) > depth:
        least = np.partition(score, len(score) - depth)[len(score) - depth]
        places = np.flatnonzero(score >= least)
    ids = np.array(scene_ids.take(pa.array(places)).to_pylist(), dtype=object)
    return places[np.lexsort((ids, -score[places]))][:depth]


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return column.to_numpy().astype(np.float64)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
