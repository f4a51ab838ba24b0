"""Compute what a tower knows of every scene of some logs, on Ray Data, where the cache lacks it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa

from system.backbones.loading import describe_tower
from system.errors import DataError
from system.logs.pixels import PictureLimits
from system.logs.windows import WindowConfig
from system.miner.kinematics import KinematicConfig
from system.miner.risk import RiskConfig
from system.pipelines.config import MineConfig, PoolConfig, ThumbnailConfig
from system.pipelines.feature_cache import FeatureCache
from system.pipelines.plan import Chunk, plan_mining
from system.pipelines.ray_environment import set_ray_environment
from system.report.console import ConsoleProgress
from system.store.ids import IdSet

_DONE_SCHEMA = pa.schema(
    [
        pa.field("scene_id", pa.string()),
        pa.field("num_pictures", pa.int32()),
        pa.field("problem", pa.string()),
    ]
)


@dataclass
class CachedLogs:
    """scene_ids: all of the logs. computed, already: scenes. images: read now.

    faults: scenes and logs that could not be read, and why.
    """

    scene_ids: IdSet = field(default_factory=IdSet)
    computed: int = 0
    already: int = 0
    images: int = 0
    faults: list[str] = field(default_factory=list)


def cache_features(
    logs: tuple[str, ...],
    windows: WindowConfig,
    tower: str,
    cache: FeatureCache,
    progress: ConsoleProgress,
    pool: PoolConfig | None = None,
) -> CachedLogs:
    """Fill the cache with every scene of some logs.

    Raises:
        ConfigError, FormatError: as `plan_mining`. DataError: the cache cannot be written.
    """
    held = cache.scenes()
    done = CachedLogs()
    for damaged in held.damaged:
        progress.note(damaged)
    plan = plan_mining(MineConfig(logs=logs, store="unused", windows=windows), IdSet(held.where), IdSet())
    done.scene_ids, done.already = plan.scene_ids, plan.already
    done.faults += [f"{bad.uri}: {bad.code}: {bad.message}" for bad in plan.unlisted]
    progress.expect(plan.todo)
    if not plan.chunks:
        return done
    progress.phase("starting Ray and the tower")
    for row in _stream(plan.chunks, windows, tower, cache, pool or PoolConfig()):
        if row["problem"] is not None and row["scene_id"] is None:
            raise DataError("cache_not_written", row["problem"])
        if row["problem"] is None:
            done.computed += 1
            done.images += row["num_pictures"]
        else:
            done.faults.append(row["problem"])
        progress.advanced(int(row["problem"] is None), int(row["problem"] is not None), row["num_pictures"])
    return done


@dataclass(frozen=True)
class LiftSettings:
    """What an actor has to know to build the tower."""

    tower: str
    cache: FeatureCache
    threads: int
    use_gpu: bool


class LiftActor:
    """Loads the tower once; each call keeps the features of some rows of READ_SCHEMA."""

    def __init__(self, settings: LiftSettings) -> None:
        import torch

        from system.backbones.loading import load_tower
        from system.backbones.runtime import choose_runtime

        runtime = choose_runtime(settings.threads, settings.use_gpu)
        torch.set_num_threads(runtime.threads)
        self._tower, self._cache = load_tower(settings.tower, runtime), settings.cache
        self._device = torch.device(runtime.device)

    def __call__(self, rows: pa.Table) -> pa.Table:
        columns = rows.select(["scene_id", "is_bad", "faults", "num_pictures", "log_uri"]).to_pylist()
        answers = [self._bad(row) for row in columns if row["is_bad"]]
        good = [k for k, row in enumerate(columns) if not row["is_bad"]]
        try:
            answers += self._lift(rows.take(good)) if good else []
        except DataError as error:
            if error.code != "cache_not_written":
                raise
            # Exceptions lose their type on the way to the driver; a row does not.
            answers = [{"scene_id": None, "num_pictures": 0, "problem": error.message}]
        return pa.Table.from_pylist(answers, schema=_DONE_SCHEMA)

    def _lift(self, rows: pa.Table) -> list[dict[str, Any]]:
        """Where the tower refuses the batch, each scene is asked alone to find the one."""
        from system.miner.lift import lift_scenes
        from system.pipelines.forward import scene_batch

        ids, pictures = rows["scene_id"].to_pylist(), rows["num_pictures"].to_pylist()
        try:
            lifted = lift_scenes(self._tower, scene_batch(rows, self._tower.input_size), self._device)
        except DataError as error:
            if len(rows) == 1:
                return [{"scene_id": ids[0], "num_pictures": 0, "problem": f"{rows['log_uri'][0]}: {error}"}]
            return [answer for k in range(len(rows)) for answer in self._lift(rows.slice(k, 1))]
        self._cache.write(ids, lifted)
        return [{"scene_id": i, "num_pictures": n, "problem": None} for i, n in zip(ids, pictures, strict=True)]

    @staticmethod
    def _bad(row: dict[str, Any]) -> dict[str, Any]:
        first = row["faults"][0]
        return {
            "scene_id": row["scene_id"],
            "num_pictures": 0,
            "problem": f"scene {row['scene_id']} of {row['log_uri']}: {first['code']}: {first['message']}",
        }


def _stream(
    chunks: Sequence[Chunk], windows: WindowConfig, tower: str, cache: FeatureCache, config: PoolConfig
) -> Iterator[dict[str, Any]]:
    set_ray_environment()
    import ray

    from system.pipelines.reading import ReadSettings
    from system.pipelines.resources import connect_to_ray, size_cluster_pool
    from system.pipelines.stream import quiet_stream, read_scenes

    connect_to_ray()
    pool = size_cluster_pool(config)
    read = ReadSettings(
        input_size=describe_tower(tower).input_size,
        windows=windows,
        limits=PictureLimits(),
        thumbnails=ThumbnailConfig(max_pictures=0),
        risk=RiskConfig(),
        kinematics=KinematicConfig(),
    )
    quiet_stream()
    done = cast(Any, read_scenes(chunks, read)).map_batches(
        LiftActor,
        fn_constructor_kwargs={"settings": LiftSettings(tower, cache, pool.threads, pool.gpus_per_actor > 0)},
        batch_size=config.forward_scenes,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=2),
        num_cpus=pool.threads,
        num_gpus=pool.gpus_per_actor,
    )
    for batch in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()
