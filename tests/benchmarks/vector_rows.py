"""A store of any number of scenes whose embeddings are those of real pictures, perturbed, with their clusters kept.

The seeds are what the packaged tower makes of real driving pictures: 384 numbers, norm 1, as mining stores them. A row
begins at a seed, goes up to half the way to a random mix of its six nearest seeds, and takes noise in all directions
of 0.3 times the distance to the nearest seed. So a row stays among the neighbours of its picture, a few pictures have
many rows (as a fleet's usual roads do), and within a cluster rows lie in a cloud of many dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file

from system.backbones.loading import load_tower
from system.backbones.preprocess import resize_for_tower
from system.backbones.runtime import Runtime
from system.records import scene_id
from system.store.commits import append_rows
from system.store.location import StoreLocation
from system.store.schema import SCENES, scenes_schema
from system.store.tables import ModelRow, open_for_writing
from tests.benchmarks.real_corpus import data_root, real_pictures

DIM, MODEL_ID = 384, "m1"
ROWS_PER_LOG = 50
_NEIGHBOURS, _TOWARDS, _NOISE, _LEAST_GAP = 6, 0.5, 0.3, 0.05
_BATCH, _PICTURES = 25_000, 16


@dataclass(frozen=True, eq=False)
class Seeds:
    """embedding_SE: float32, norm 1. corpora: S names, from which corpus each picture is. The rest follows from these.

    near_SK: nearest seeds. gap_S: distance to the nearest, at least 0.05, for some pictures are alike.
    share_S: how often each is used.
    """

    embedding_SE: NDArray[np.float32]
    corpora: list[str]
    near_SK: NDArray[np.intp]
    gap_S: NDArray[np.float32]
    share_S: NDArray[np.float64]

    @classmethod
    def of(cls, embedding_SE: NDArray[np.float32], corpora: list[str]) -> Seeds:
        distance_SS = np.sqrt(np.maximum(2 - 2 * embedding_SE @ embedding_SE.T, 0))
        np.fill_diagonal(distance_SS, np.inf)
        near_SK = np.argsort(distance_SS, axis=1)[:, :_NEIGHBOURS]
        # The k-th most used picture has a share of 1 / sqrt(k).
        share_S = 1 / np.sqrt(1 + np.random.default_rng(0).permutation(len(embedding_SE)))
        return cls(embedding_SE, corpora, near_SK, np.maximum(distance_SS.min(1), _LEAST_GAP), share_S / share_S.sum())

    def perturbed(self, count: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """float32 [count, E] of norm 1, and of which seed each is."""
        chosen = rng.choice(len(self.share_S), count, p=self.share_S)
        weights_NK = rng.exponential(size=(count, _NEIGHBOURS))
        weights_NK *= _TOWARDS * rng.random((count, 1)) / weights_NK.sum(1, keepdims=True)
        rows_NE = (1 - weights_NK.sum(1, keepdims=True)) * self.embedding_SE[chosen]
        for k in range(_NEIGHBOURS):
            rows_NE += weights_NK[:, k : k + 1] * self.embedding_SE[self.near_SK[chosen, k]]
        noise_NE = rng.standard_normal((count, DIM), dtype=np.float32)
        rows_NE += noise_NE * (_NOISE / np.sqrt(DIM) * self.gap_S[chosen, None])
        return (rows_NE / np.linalg.norm(rows_NE, axis=1, keepdims=True)).astype(np.float32), chosen


def real_seeds(cache: Path, most: int | None = None) -> Seeds:
    """Embed `most` real pictures, or all, evenly spread; kept in a file for the next call."""
    pictures = real_pictures()
    pictures = pictures[:: max(1, len(pictures) // most) if most else 1][:most]
    path = cache / f"seeds-{len(pictures)}.safetensors"
    if not path.is_file():
        tower = load_tower("packaged", Runtime())
        parts = []
        for k in range(0, len(pictures), _PICTURES):
            opened = [Image.open(picture).convert("RGB") for picture in pictures[k : k + _PICTURES]]
            images = [resize_for_tower(np.asarray(rgb), tower.input_size) for rgb in opened]
            parts.append(tower.encode_images(torch.from_numpy(np.stack(images))).pooled_NE.numpy())
        cache.mkdir(parents=True, exist_ok=True)
        save_file({"pooled": np.concatenate(parts)}, path)
    return Seeds.of(load_file(path)["pooled"], ["_".join(p.relative_to(data_root()).parts[:2]) for p in pictures])


def make_store(folder: Path, rows: int, seeds: Seeds) -> StoreLocation:
    """A store of so many scenes, in batches; one that was begun is gone on with."""
    location = StoreLocation.parse(str(folder))
    tags = tuple(dict.fromkeys(seeds.corpora))
    open_for_writing(location, ModelRow(MODEL_ID, "packaged", "made up", None, DIM, tags, "{}"))
    for first in range(location.dataset(SCENES).count_rows(), rows, _BATCH):
        append_rows(location, SCENES, _scenes(first, min(_BATCH, rows - first), seeds))
    return location


def add_scenes(location: StoreLocation, first: int, count: int, seeds: Seeds) -> None:
    """As rows that arrive while the store is searched."""
    append_rows(location, SCENES, _scenes(first, count, seeds))


def _scenes(first: int, count: int, seeds: Seeds) -> pa.Table:
    """A log is no cluster, for each of its scenes is drawn alone. Tags are corpora, hence clusters."""
    rng = np.random.default_rng([1, first])
    embedding_NE, chosen = seeds.perturbed(count, rng)
    numbers = np.arange(first, first + count)
    logs = [f"log{n // ROWS_PER_LOG:06d}" for n in numbers.tolist()]
    schema = scenes_schema(DIM)
    columns: dict[str, pa.Array] = {
        "scene_id": pa.array([scene_id("made", log, n, 4) for log, n in zip(logs, numbers.tolist(), strict=True)]),
        "model_id": pa.array([MODEL_ID] * count),
        "run_id": pa.array(["r1"] * count),
        "source": pa.array(["made"] * count),
        "log_id": pa.array(logs),
        "log_uri": pa.array(["none"] * count),
        "reader": pa.array(["plain"] * count),
        "t_start_ns": pa.array(numbers * 10**9),
        "t_end_ns": pa.array((numbers + 4) * 10**9),
        "cameras": pa.array([["front"]] * count),
        "num_pictures": pa.array([1] * count, pa.int32()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embedding_NE.reshape(-1)), DIM),
        "tags": pa.array([[seeds.corpora[k]] for k in chosen.tolist()]),
        "risk": pa.array(rng.random(count, dtype=np.float32)),
        "hardness": pa.array(rng.random(count, dtype=np.float32)),
        "min_ttc_s": pa.array(rng.exponential(4.0, count).astype(np.float32)),
    }
    filled = [columns.get(field.name, pa.nulls(count, field.type)) for field in schema]
    return pa.table(filled, schema=schema)
