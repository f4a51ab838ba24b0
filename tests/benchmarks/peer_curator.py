"""NeMo Curator as a peer: stages of its own pipeline that decode, encode and write, on its Ray Data executor.

Its own reader of pictures needs DALI, and its own embedder downloads CLIP: these stages do the same with Pillow and
with the model of the others, and hand batches on as its `ImageBatch`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nemo_curator.backends.ray_data import RayDataExecutor
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.base import ProcessingStage
from nemo_curator.stages.resources import Resources
from nemo_curator.tasks import FileGroupTask, ImageBatch, ImageObject

from system.backbones.loading import load_tower
from system.backbones.runtime import choose_runtime
from tests.benchmarks.peer_pictures import BATCH, decoded


class Decode(ProcessingStage[FileGroupTask, ImageBatch]):
    """Paths to pixels of the model's size."""

    name, resources = "decode", Resources(cpus=0.5)

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size

    def process(self, task: FileGroupTask) -> ImageBatch:
        images = [ImageObject(image_path=path, image_data=decoded(Path(path), self._size)) for path in task.data]
        return ImageBatch(dataset_name=task.dataset_name, data=images)


class Encode(ProcessingStage[ImageBatch, ImageBatch]):
    """Pixels to vectors, by one worker that holds the model."""

    name, resources = "encode", Resources(cpus=1.0)

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def num_workers(self) -> int:
        return 1

    def setup(self, worker_metadata: Any = None) -> None:
        torch.set_num_threads(self._threads)
        self._tower = load_tower("packaged", choose_runtime(self._threads, False))

    def process(self, task: ImageBatch) -> ImageBatch:
        pixels = torch.from_numpy(np.stack([image.image_data for image in task.data]))
        for image, vector in zip(task.data, self._tower.encode_images(pixels).pooled_NE.numpy(), strict=True):
            image.embedding, image.image_data = vector, None
        return task


class Write(ProcessingStage[ImageBatch, ImageBatch]):
    """Vectors into a LanceDB table, by one worker."""

    name, resources = "write", Resources(cpus=0.5)

    def __init__(self, store: Path) -> None:
        self._store = store

    def num_workers(self) -> int:
        return 1

    def setup(self, worker_metadata: Any = None) -> None:
        import lancedb

        self._base, self._table = lancedb.connect(self._store), None

    def process(self, task: ImageBatch) -> ImageBatch:
        rows = [{"path": image.image_path, "vector": image.embedding} for image in task.data]
        if self._table is None:
            self._table = self._base.create_table("pictures", rows)
        else:
            self._table.add(rows)
        return ImageBatch(dataset_name=task.dataset_name, data=[])


def curate(pictures: list[Path], store: Path, threads: int) -> int:
    """Rows of the table that the pipeline leaves, which has answered a query."""
    import lancedb

    tower = load_tower("packaged", choose_runtime(threads, False))
    groups = [
        FileGroupTask(dataset_name="pictures", data=[str(path) for path in pictures[k : k + BATCH]])
        for k in range(0, len(pictures), BATCH)
    ]
    stages = [Decode(tower.input_size), Encode(threads), Write(store)]
    Pipeline(name="pictures", stages=stages).run(RayDataExecutor(), initial_tasks=groups)
    table = lancedb.connect(store).open_table("pictures")
    assert table.search(np.ones(tower.embedding_dim)).limit(1).to_list()
    return int(table.count_rows())
