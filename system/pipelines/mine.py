"""Mine a fleet's logs into the store, exactly once."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from functools import partial
from typing import Any, Protocol

from system.backbones.loading import describe_tower
from system.errors import ConfigError, StoreError
from system.miner.identity import read_saved, untrained_model_id
from system.miner.miner_config import SceneMinerConfig
from system.miner.taxonomy import load_taxonomy
from system.pipelines import metrics
from system.pipelines.committing import SceneCommitter
from system.pipelines.config import MineConfig, MiningOptions
from system.pipelines.plan import Listing, MiningPlan, plan_mining
from system.pipelines.quarantine import QuarantineWriter
from system.pipelines.ray_environment import set_ray_environment
from system.pipelines.result import MiningResult
from system.pipelines.run_report import write_report
from system.pipelines.ticking import with_ticks
from system.report.log_lines import LOGGER, bind_log_ids
from system.store.ids import IdSet, committed_ids, lasting_outages, quarantined_ids
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.maintain import MaintainConfig, remove_orphans, tag_version
from system.store.runs import RunRecord, git_commit, new_run_id, run_day, write_run
from system.store.tables import ModelRow, check_model, open_for_writing
from system.store.vector_index import vector_index_of

# What killed runs left is removed by a later one; versions that a search may still be reading are left alone.
_KEEP_DAYS = MaintainConfig().keep_days
# How often a run that waits for a batch asks whether it is to end.
_TICK_S = 5.0
# A run that is to end takes along what a batch in hand has cost, unless nothing has come for so long.
_PATIENCE_S = 120.0


class Progress(Protocol):
    """Told what happens, so that a terminal or a log can show it."""

    def planned(self, plan: MiningPlan) -> None: ...

    def phase(self, name: str) -> None: ...

    def advanced(self, committed: int, quarantined: int, images: int) -> None: ...


def describe_model(config: MineConfig) -> ModelRow:
    """The model that a configuration asks for, without loading it.

    Raises:
        ConfigError: unknown tower or taxonomy, or a taxonomy that is not the model's. ModelError: the model's folder
            does not fit the tower.
    """
    tower = describe_tower(config.tower)
    if config.model is None:
        taxonomy = load_taxonomy(config.taxonomy)
        model_id, tag_names = untrained_model_id(tower.tower_id, SceneMinerConfig(), taxonomy), taxonomy.names
    else:
        saved = read_saved(config.model, tower.tower_id)
        if config.taxonomy is not None and load_taxonomy(config.taxonomy) != saved.described.taxonomy:
            raise ConfigError(f"{config.taxonomy}: model {config.model} was trained for another taxonomy; leave it out")
        model_id, tag_names = saved.model_id, saved.described.tag_names
    return ModelRow(
        model_id=model_id,
        tower=config.tower,
        tower_id=tower.tower_id,
        model_path=config.model,
        embedding_dim=tower.embedding_dim,
        tag_names=tag_names,
        # How, and not of which logs: those may have to be forgotten.
        config=config.model_dump_json(include=set(MiningOptions.model_fields)),
    )


def plan_only(config: MineConfig, listing: Listing | None = None) -> MiningPlan:
    """What `mine_fleet` would do. Writes nothing; raises as it."""
    location, model = StoreLocation.parse(config.store), describe_model(config)
    check_model(location, model)
    settled = committed_ids(location, model.model_id), quarantined_ids(location, model.model_id)
    outages = lasting_outages(location, model.model_id, run_day(new_run_id()))
    return plan_mining(config, *settled, listing, outages)


def mine_fleet(
    config: MineConfig,
    progress: Progress,
    should_stop: Callable[[], bool] = lambda: False,
    listing: Listing | None = None,
    remarks: Mapping[str, Any] | None = None,
    keep_days: float | None = _KEEP_DAYS,
    run_id: str | None = None,
) -> MiningResult:
    """Mine every scene that the store does not hold for this model, rank the store and write the report.

    Args:
        should_stop: asked after every batch, and every few seconds while none comes; once true, the run ends as
            stopped after the next batch, or once none has come for two minutes. What was written is committed.
        listing: the logs, where the caller has listed them already; it may be empty.
        remarks: stand in the run's record from its start on, so that a killed run has them too.
        keep_days: untagged versions, and files that none names, are removed once they are older; None: nothing is, for
            the caller maintains the store.
        run_id: of `new_run_id`, where the caller has begun the run's record already.
    Raises:
        ConfigError, FormatError: a path or value of the user's.
        LeaseError: another job writes to this store. SchemaError: the store was made by another tower or schema.
        StoreError: the store cannot be written; what was committed stays.
    Returns:
        The counts. `problem` says where they do not add up, or that too many scenes were bad.
    """
    location, model = StoreLocation.parse(config.store), describe_model(config)
    check_model(location, model)
    run_id = run_id or new_run_id()
    bind_log_ids(run_id=run_id)
    LOGGER.info("run %s writes to %s", run_id, location.uri)
    with Lease(location, run_id, on_beat=partial(metrics.lease_renewed, run_id)) as lease:
        open_for_writing(location, model)
        run = _Run(config, location, model, run_id, lease, progress, should_stop, listing, remarks or {}, keep_days)
        try:
            run.mine()
            run.finish()
        except BaseException as error:
            run.record_failure(error)
            raise
    return run.result


def rank_new(location: StoreLocation, model_id: str, config: MiningOptions, lease: Lease) -> None:
    """Rank all scenes of a model where some are unranked. Ray is imported, and started, only then.

    Raises:
        StoreError: the store cannot be written. LeaseError: the lease was lost.
    """
    from system.store.ranking import num_unranked

    if not num_unranked(location, model_id):
        return
    set_ray_environment()
    from system.pipelines.ranking import rank_store
    from system.pipelines.resources import connect_to_ray

    connect_to_ray()
    rank_store(location, model_id, config.hardness, config.neighbours, lease)


class _Run:
    """One run, with the lease held."""

    def __init__(
        self,
        config: MineConfig,
        location: StoreLocation,
        model: ModelRow,
        run_id: str,
        lease: Lease,
        progress: Progress,
        should_stop: Callable[[], bool],
        listing: Listing | None,
        remarks: Mapping[str, Any],
        keep_days: float | None,
    ) -> None:
        self._config, self._location, self._model = config, location, model
        self._listing, self._remarks, self._keep_days = listing, remarks, keep_days
        self._lease, self._progress, self._should_stop = lease, progress, should_stop
        self._started_s, self._started_ns = time.perf_counter(), time.time_ns()
        self.result = MiningResult(run_id=run_id, model_id=model.model_id)
        self._committed: IdSet = committed_ids(location, model.model_id)
        self._held_before = len(self._committed)
        self._quarantine = QuarantineWriter(location, model.model_id, run_id)
        self._plan = MiningPlan()

    def mine(self) -> None:
        """Plan, then read, infer, write and commit what is missing."""
        result, started_s = self.result, time.perf_counter()
        self._progress.phase("listing logs")
        quarantined = quarantined_ids(self._location, self._model.model_id)
        outages = lasting_outages(self._location, self._model.model_id, run_day(result.run_id))
        self._plan = plan_mining(self._config, self._committed, quarantined, self._listing, outages)
        result.stages.plan = time.perf_counter() - started_s
        self._progress.planned(self._plan)
        result.found, result.already, result.deferred = self._plan.found, self._plan.already, self._plan.deferred
        result.quarantined = self._plan.quarantined_before + len(self._plan.bad_logs)
        result.unread = len(self._plan.unread_logs)
        result.remaining = self._plan.todo + result.unread
        self._write_record("running")
        self._quarantine.add_bad_logs(self._plan.unlisted)
        if not self._plan.chunks:
            return
        self._progress.phase("starting Ray and the model")
        with closing(with_ticks(self._stream(), _TICK_S)) as batches:
            metrics.began(result.run_id, result.remaining, self._lease.renewed_s)
            started_s = time.perf_counter()
            try:
                self._commit(batches)
            finally:
                metrics.ended(result.run_id)
                result.stages.stream = time.perf_counter() - started_s

    def _commit(self, batches: Generator[dict[str, Any] | None, None, None]) -> None:
        """Make part of the store what comes, until that ends or the run is to stop."""
        result, began_s, came_s = self.result, time.time(), time.monotonic()
        committer = SceneCommitter(
            self._location, self._lease, self._quarantine, self._committed, result, self._progress.advanced
        )
        try:
            for batch in batches:
                if batch is None:
                    committer.flush_if_due()
                else:
                    came_s = time.monotonic()
                    committer.add(batch)
                    # Clocks of two machines may differ; the figure is for one.
                    first_s = max(0.0, batch["forward_began_s"] - began_s)
                    result.stages.first_forward = min(result.stages.first_forward, first_s)
                # Asked at every tick, since a budget counts whenever it is asked.
                is_to_stop = result.remaining > result.unread and self._should_stop()
                if is_to_stop and (batch is not None or time.monotonic() - came_s >= _PATIENCE_S):
                    committer.flush()
                    result.stopped = result.remaining > result.unread
                    result.stalled = result.stopped and batch is None
                    return
        finally:
            # Whatever ended the stream, what was written is not computed again.
            committer.flush()

    def finish(self) -> None:
        """Rank, index, tag the version, report."""
        result, started_s = self.result, time.perf_counter()
        if self._config.rank and not result.stopped:
            self._progress.phase("ranking")
            rank_new(self._location, self._model.model_id, self._config, self._lease)
            result.stages.rank = time.perf_counter() - started_s
        self._lease.check()
        if result.committed and self._keep_days is not None:
            remove_orphans(self._location, self._keep_days)
        result.table_version = tag_version(self._location, f"run-{result.run_id}")
        result.seconds = time.perf_counter() - self._started_s
        result.problem = self._reconcile()
        self._write_record("stopped" if result.stopped else "finished")
        self._progress.phase("writing the report")
        result.driver_peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        result.report = write_report(self._location, result.run_id, self._config.report, self._config.report_scenes)
        result.seconds = time.perf_counter() - self._started_s
        self._write_record("stopped" if result.stopped else "finished")

    def record_failure(self, error: BaseException) -> None:
        """Say in the store that this run failed, where the store still takes it."""
        try:
            self._write_record("failed", repr(error))
        except StoreError:
            return  # the store itself is what failed; the error that is on its way says so

    def _reconcile(self) -> str | None:
        """What does not add up between what was found, what this run counted and what the store holds, or None."""
        result = self.result
        held = len(committed_ids(self._location, self._model.model_id))
        if held != self._held_before + result.committed:
            return (
                f"{self._location.uri} held {self._held_before} scenes and {result.committed} were committed, but it "
                f"holds {held} distinct ones now"
            )
        if result.unaccounted:
            return f"{result.unaccounted} of {result.found} scenes that were found are nowhere"
        share = result.quarantined / max(1, result.found)
        if share > self._config.max_bad_share:
            return (
                f"{result.quarantined} of {result.found} scenes are in quarantine ({share:.1%}), more than "
                f"--max-bad-share allows ({self._config.max_bad_share:.1%}). The others are committed; "
                f"jobs/show_run.py --store {self._location.uri} names each fault"
            )
        if result.unread:
            return (
                f"the storage did not answer for {result.unread} of {result.found} scenes and logs, which are "
                "not mined; repeat the command when it does. "
                f"jobs/show_run.py --store {self._location.uri} names each fault"
            )
        return None

    def _stream(self) -> Any:
        # Ray is imported, and started, only if there is something to do: a run with nothing new takes a second or two.
        set_ray_environment()
        from system.pipelines.forward import ForwardSettings
        from system.pipelines.reading import ReadSettings
        from system.pipelines.resources import connect_to_ray, size_cluster_pool
        from system.pipelines.stream import stream_batches
        from system.pipelines.writing import WriteSettings

        config, model = self._config, self._model
        connect_to_ray()
        pool = size_cluster_pool(config.pool, self._plan.todo)
        read = ReadSettings(
            input_size=describe_tower(config.tower).input_size,
            windows=config.windows,
            limits=config.limits,
            thumbnails=config.thumbnails,
            risk=config.risk,
            kinematics=config.kinematics,
        )
        forward = ForwardSettings(
            tower=config.tower,
            model=config.model,
            taxonomy=config.taxonomy,
            threads=pool.threads,
            use_gpu=pool.gpus_per_actor > 0,
            tag_threshold=config.tag_threshold,
        )
        write = WriteSettings(self._location, model.model_id, self.result.run_id, model.embedding_dim)
        return stream_batches(self._plan.chunks, read, forward, write, pool, config.pool)

    def _write_record(self, status: str, error: str | None = None) -> None:
        result, plan, index = self.result, self._plan, vector_index_of(self._location)
        report = {
            **self._remarks,
            "figures": result.as_json(),
            "config": self._config.model_dump(mode="json"),
            "git_commit": git_commit(),
            "error": error,
            "recognised": [f"{found.uri}: {found.reader} ({found.why})" for found in plan.recognised],
            "skipped": [f"{skipped.uri}: {skipped.why}" for skipped in plan.skipped],
            "repeated_logs": plan.repeated_logs,
            "logs_by_source": dict(plan.logs_by_source),
            "vector_index": None if index is None else index.as_json(),
        }
        ended_ns = None if status == "running" else time.time_ns()
        run = RunRecord(
            result.run_id, result.model_id, status, self._started_ns, ended_ns, result.table_version, report
        )
        write_run(self._location, run)
