"""Connect to Ray and divide what the cluster has between reading and the model."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import ray
import ray.data

from system.errors import ConfigError
from system.pipelines.config import PoolConfig

_LOCAL_OBJECT_STORE_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class PoolSize:
    """actors x threads CPUs for the model (and gpus_per_actor GPUs each), the rest for reading and writing.

    max_actors: the pool grows up to so many as nodes come; None: it keeps its size. reading_cpus_per_gpu: as of
    PoolConfig; 0 without GPUs.
    """

    actors: int
    threads: int
    gpus_per_actor: float
    cluster_cpus: float
    max_actors: int | None = None
    reading_cpus_per_gpu: int = 0

    @property
    def most_cpus(self) -> float:
        """How many CPUs the cluster may be asked for.

        The largest pool, and for reading a quarter of all, or `reading_cpus_per_gpu` for each actor with a GPU. What is
        there already is used in every case. A pool that is neither given a bound nor GPUs has none.
        """
        if self.gpus_per_actor:
            return max(self.cluster_cpus, self.actors * (self.threads + self.reading_cpus_per_gpu))
        if self.max_actors is None:
            return math.inf
        return self.max_actors * self.threads + max(1, self.max_actors * self.threads // 3)

    def strategy(self) -> ray.data.ActorPoolStrategy:
        """As Ray Data takes it."""
        if self.max_actors is None:
            return ray.data.ActorPoolStrategy(size=self.actors, max_tasks_in_flight_per_actor=2)
        return ray.data.ActorPoolStrategy(
            min_size=self.actors, max_size=self.max_actors, max_tasks_in_flight_per_actor=2
        )


def connect_to_ray() -> None:
    """Join the cluster of RAY_ADDRESS (`ray job submit` sets it), or start one on this machine."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        return
    # Ray takes SIGTERM for itself; the job wants it to end its batch in hand. A service manager or `timeout` sends it
    # to all processes: those of Ray inherit a mask against it, so that they live until the job has used them. While Ray
    # starts, which takes seconds, SIGTERM ends the job at once; nothing is committed by then.
    on_sigterm = signal.getsignal(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with warnings.catch_warnings():
            # Lance and LanceDB warn of forks; these children run another program at once and never touch either.
            warnings.filterwarnings("ignore", message=".*fork", category=UserWarning)
            warnings.filterwarnings("ignore", message=".*fork", category=RuntimeWarning)
            _init()
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
        # One that came meanwhile is now the job's.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _init() -> None:
    if os.environ.get("RAY_ADDRESS"):
        # What workers print stays in their logs: the last line of a job's stdout is its figures.
        try:
            ray.init(address="auto", logging_level=logging.WARNING, log_to_driver=False)
        except (ConnectionError, RuntimeError) as error:
            if isinstance(error, ConnectionError) or "ersion mismatch" in str(error):
                raise ConfigError(f"RAY_ADDRESS {os.environ['RAY_ADDRESS']}: {_first_lines(error)}") from error
            raise
        return
    ray.init(
        address="local",
        # A machine with one CPU has to read beside the model too.
        num_cpus=max(2, os.cpu_count() or 1),
        include_dashboard=False,
        logging_level=logging.WARNING,
        log_to_driver=False,
        object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
    )


def _first_lines(error: Exception) -> str:
    """Of Ray's message: which versions differ, or what was not found."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())[:500]


def check_workers(workers: int, threads: int, use_gpu: bool, note: Callable[[str], None]) -> None:
    """Say so where training workers will have to wait, since Ray waits without a word.

    Raises:
        ConfigError: they would wait for ever, because this machine's own cluster does not grow.
    """
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    lacking = [f"{workers * threads} CPUs, it has {cpus}"] * (workers * threads > cpus)
    lacking += [f"{workers} GPUs, it has {gpus}"] * (use_gpu and workers > gpus)
    if not lacking:
        return
    told = f"{workers} workers of {threads} threads want " + " and ".join(lacking)
    if not os.environ.get("RAY_ADDRESS"):
        raise ConfigError(f"{told}: this machine; ask for fewer --workers or --worker-threads, or submit to a cluster")
    note(f"{told} (the cluster): they wait until there are more")


def tasks_at_once(threads: int, use_gpu: bool) -> int:
    """How many tasks of so many CPUs, and a GPU each or none, the cluster has room for now; at least one."""
    resources = ray.cluster_resources()
    room = int(resources.get("CPU", 1)) // threads
    return max(1, min(room, int(resources.get("GPU", 0))) if use_gpu else room)


def size_cluster_pool(config: PoolConfig, scenes: int | None = None) -> PoolSize:
    """A pool for the cluster that this process is connected to. Arguments and errors as of `size_pool`."""
    resources = ray.cluster_resources()
    return size_pool(config, resources.get("CPU", 0.0), resources.get("GPU", 0.0), scenes)


def size_pool(config: PoolConfig, cpus: float, gpus: float, scenes: int | None = None) -> PoolSize:
    """How many actors of how many threads.

    Args:
        cpus, gpus: what the cluster has now.
        scenes: of work, where known: no node is asked for that would have none.

    A pool that takes every CPU starves reading, and Ray Data then waits for ever without a word (measured). A
    quarter of the CPUs, at least one, is therefore left over.

    Raises:
        ConfigError: the user asked for a pool that leaves none, on nodes that are there; a cluster that has to grow for
            its GPUs brings CPUs along.
    """
    batches = max(1, math.ceil(scenes / config.forward_scenes)) if scenes is not None else sys.maxsize
    if config.gpu is True or (config.gpu is None and gpus >= 1):
        actors = config.actors or max(1, int(gpus))
        if actors > gpus:
            actors = max(1, int(gpus), min(actors, batches))
        threads = config.threads_per_actor or max(1, int((cpus - max(1.0, cpus / 2)) // actors))
        pool = PoolSize(actors, threads, 1.0, cpus, reading_cpus_per_gpu=config.reading_cpus_per_gpu)
        has_to_grow = actors > gpus and bool(os.environ.get("RAY_ADDRESS"))
        return pool if has_to_grow else _leave_room(pool)
    left_for_reading = max(1.0, cpus // 4)
    threads = config.threads_per_actor or (1 if cpus <= 8 else 2)
    actors = config.actors or max(1, int((cpus - left_for_reading) // threads))
    if config.max_actors is not None:
        actors = min(actors, config.max_actors, batches)
        return PoolSize(actors, threads, 0.0, cpus, max_actors=max(actors, min(config.max_actors, batches)))
    return _leave_room(PoolSize(actors, threads, 0.0, cpus))


def _leave_room(pool: PoolSize) -> PoolSize:
    """Raises ConfigError: the pool leaves no CPU for reading."""
    if pool.cluster_cpus and pool.actors * pool.threads >= pool.cluster_cpus:
        raise ConfigError(
            f"--actors {pool.actors} of --actor-threads {pool.threads} take all of the cluster's "
            f"{pool.cluster_cpus:.0f} CPUs, and reading would wait for ever; leave at least one"
        )
    return pool
