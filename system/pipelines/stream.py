"""The stream from chunks of scene windows to written batches: read, forward, write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data

from system.pipelines.config import PoolConfig
from system.pipelines.crashes import CrashLedger
from system.pipelines.forward import ForwardActor, ForwardSettings
from system.pipelines.plan import Chunk
from system.pipelines.reading import ReadSettings, read_chunk
from system.pipelines.resources import PoolSize
from system.pipelines.writing import WriteSettings, write_scenes

# Reading and writing share the CPUs that the pool leaves, whole or one.
_READ_CPUS, _WRITE_CPUS = 0.5, 0.25


def stream_batches(
    chunks: Sequence[Chunk],
    read: ReadSettings,
    forward: ForwardSettings,
    write: WriteSettings,
    pool: PoolSize,
    config: PoolConfig,
) -> Iterator[dict[str, Any]]:
    """Yield one mapping (WRITTEN_SCHEMA) for each batch that a worker has written and nobody has committed.

    Order is not kept. Pixels and vectors stay in the workers and the object store.
    """
    quiet_stream()
    # Reading would else ask for nodes without end; where those without a GPU run out, for nodes with one.
    limits = ray.data.ExecutionResources(cpu=pool.most_cpus)
    ray.data.DataContext.get_current().execution_options.resource_limits = limits
    scenes = read_scenes(chunks, read)
    mined = scenes.map_batches(
        ForwardActor,
        fn_constructor_kwargs={"settings": forward},
        batch_size=config.forward_scenes,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=pool.strategy(),
        num_cpus=pool.threads,
        num_gpus=pool.gpus_per_actor,
    )
    written = mined.map_batches(
        write_scenes,
        fn_kwargs={"settings": write},
        batch_size=config.write_scenes,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=_WRITE_CPUS,
    )
    for batch in written.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


def quiet_stream() -> None:
    """No bars of Ray's own, and no order, which would make workers wait for each other."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False


def read_scenes(chunks: Sequence[Chunk], read: ReadSettings) -> Any:
    """The dataset of rows of READ_SCHEMA, one chunk a task."""
    # Ray's own annotations refuse Arrow functions and actors' methods.
    ledger = cast(Any, CrashLedger).remote()
    dataset: Any = ray.data.from_items(
        [{"chunk": chunk.to_json()} for chunk in chunks], override_num_blocks=len(chunks)
    )
    return dataset.map_batches(
        _read,
        fn_kwargs={"settings": read, "ledger": ledger},
        batch_size=1,
        batch_format="numpy",
        num_cpus=_READ_CPUS,  # a task whose worker dies is tried for ever; the ledger ends what never succeeds
    )


def _read(batch: dict[str, np.ndarray], settings: ReadSettings, ledger: ray.actor.ActorHandle) -> pa.Table:
    return read_chunk(Chunk.from_json(batch["chunk"][0]), settings, ledger)
