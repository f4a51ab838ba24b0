"""What a night on a cluster takes: nodes, hours, money, the store's growth, and which part gives out first.

Arithmetic on stated assumptions. `Borne` holds what single parts bear; its defaults were measured by
tests/benchmarks/store_scale.py and mining_efficiency.py on two CPU cores, but for those that say otherwise.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ConfigDict, Field

from system.config import FrozenConfig

_GIB = 1024**3
_HOUR_S = 3600.0


class _Finite(FrozenConfig):
    """Assumptions to reckon with: no infinite number, and none that is no number."""

    model_config = ConfigDict(allow_inf_nan=False)


class Night(_Finite):
    """What comes in, and by when it has to be mined.

    scenes: of one night. pictures_per_scene: keyframes of all cameras. picture_kb: an original as it is read;
    thumbnail_kb: one that is kept. embedding_dim: numbers a scene. late_days: before it that are looked at again.
    nights: that the store holds in the end. keep_nights: of them, those that can be asked for as they were; None: all.
    """

    scenes: int = Field(gt=0)
    pictures_per_scene: float = Field(default=48, gt=0)
    picture_kb: float = Field(default=150, gt=0)
    thumbnail_kb: float = Field(default=12, ge=0)
    embedding_dim: int = Field(default=384, ge=1)
    scenes_per_log: float = Field(default=10, gt=0)
    late_days: int = Field(default=3, ge=0)
    deadline_hours: float = Field(default=6, gt=0)
    nights: int = Field(default=365, ge=1)
    keep_nights: int | None = Field(default=None, ge=1)


class Machine(_Finite):
    """A node of the GPU group.

    gpus, cpus: of one; where there are more than nine CPUs for each GPU, that all of them read has to be said
    (`PoolConfig.reading_cpus_per_gpu`). images_per_s: of one GPU's worker, as `tests.benchmarks.mining_efficiency`
    tells on it. decoded_per_s: pictures that one CPU reads, decodes and shrinks. price_per_hour: of one node, in the
    user's money. spot_loss: share of the work that is done twice because nodes are taken away. start_minutes: until a
    node works.
    """

    gpus: int = Field(default=1, ge=1)
    cpus: int = Field(default=8, ge=1)
    images_per_s: float = Field(gt=0)
    decoded_per_s: float = Field(default=60, gt=0)
    price_per_hour: float = Field(ge=0)
    spot_loss: float = Field(default=0.05, ge=0, lt=1)
    start_minutes: float = Field(default=8, ge=0)
    most_nodes: int = Field(default=1000, ge=1)


class Borne(_Finite):
    """What single parts bear.

    commits_per_s: transactions of the driver, assumed for an object store. scenes_per_commit: most that one takes
    together; what waits is bounded by SceneCommitter. head_gib: memory of the head node. id_bytes: of a scene in the
    driver's sets; planned_bytes: of one that is still to be mined; log_bytes: of a listed log. listed_per_s: logs,
    measured on tables of pictures on a disk. rank_bytes: of a scene, while everything is ranked. kept_bytes: of
    each scene that the store holds, for every night that is kept: ranks and indices, measured without a vector index.
    bucket_gib_per_s: read by all nodes.

    What the driver asks an object store of each log is waiting, and is assumed: request_s for one request. Of each log
    of every day looked at, listing_requests one after another (a folder a log: what is in it on each day, its two
    tables on days side by side; 0 for tables that name many logs) and fingerprint_requests, fingerprints_at_once. Of
    each log that was mined, labelling_requests one after another, after the last commit. Each of the three may take a
    quarter of the deadline.
    """

    commits_per_s: float = Field(default=2.0, gt=0)
    scenes_per_commit: int = Field(default=4000, ge=1)
    head_gib: float = Field(default=32, gt=0)
    id_bytes: float = Field(default=16 * 3, gt=0)
    planned_bytes: float = Field(default=450, gt=0)
    log_bytes: float = Field(default=500, gt=0)
    listed_per_s: float = Field(default=20_000, gt=0)
    request_s: float = Field(default=0.03, gt=0)
    listing_requests: float = Field(default=1.5, ge=0)
    fingerprint_requests: float = Field(default=3, ge=0)
    fingerprints_at_once: int = Field(default=16, ge=1)
    labelling_requests: float = Field(default=3, ge=0)
    rank_bytes: float = Field(default=80, gt=0)
    kept_bytes: float = Field(default=76, ge=0)
    bucket_gib_per_s: float = Field(default=50, gt=0)


@dataclass(frozen=True)
class Part:
    """One part of the system at this load. load: share of what it bears; above 1 it gives out."""

    name: str
    need: str
    bears: str
    load: float


@dataclass(frozen=True)
class ClusterPlan:
    """nodes, hours: until the last scene is committed. money: of the nodes. bound: what a node is busy with.

    store_gib: with kept_nights_gib, which is of versions of nights. scales: how many times the night may grow before
    the first part gives out, with enough nodes.
    """

    nodes: int
    hours: float
    money: float
    money_per_1000_scenes: float
    bound: str
    is_in_time: bool
    scenes_per_s: float
    read_gib: float
    store_gib_per_night: float
    store_gib: float
    kept_nights_gib: float
    driver_gib: float
    rank_gib: float
    parts: tuple[Part, ...]
    breaks_first: str
    scales: float

    def figures(self) -> dict[str, Any]:
        return asdict(self)


def plan_cluster(night: Night, machine: Machine, borne: Borne | None = None) -> ClusterPlan:
    """The smallest cluster that meets the deadline, or the largest allowed one where none does."""
    borne = borne or Borne()
    pictures = night.scenes * night.pictures_per_scene * (1 + machine.spot_loss)
    by_gpu, by_cpu = machine.gpus * machine.images_per_s, machine.cpus * machine.decoded_per_s
    node_s = pictures / min(by_gpu, by_cpu)
    logs = night.scenes / night.scenes_per_log
    looked_at = logs * (1 + night.late_days)
    listing_s = looked_at * (1 / borne.listed_per_s + borne.listing_requests * borne.request_s)
    fingerprints_s = looked_at * borne.fingerprint_requests * borne.request_s / borne.fingerprints_at_once
    labelling_s = logs * borne.labelling_requests * borne.request_s
    start_s = 60 * machine.start_minutes
    before_s = start_s + listing_s + fingerprints_s
    deadline_s = night.deadline_hours * _HOUR_S
    working_s = deadline_s - before_s
    wanted = math.ceil(node_s / working_s) if working_s > 0 else machine.most_nodes + 1
    nodes = min(wanted, machine.most_nodes)
    mined_s = node_s / nodes
    seconds = before_s + mined_s
    held = night.scenes * night.nights
    kept = min(night.keep_nights or night.nights, night.nights)
    # A version names every scene up to its night: an arithmetic series, up to the newest.
    kept_bytes = borne.kept_bytes * night.scenes * kept * (2 * night.nights - kept + 1) / 2
    scenes_per_s = night.scenes / mined_s
    read_gib = night.scenes * night.pictures_per_scene * night.picture_kb * 1000 / _GIB
    per_scene = 4 * night.embedding_dim + 1000 * night.thumbnail_kb * night.pictures_per_scene + 2000
    driver = borne.id_bytes * (held + night.scenes) + borne.planned_bytes * night.scenes
    driver += borne.log_bytes * looked_at
    rank = borne.rank_bytes * held
    most_scenes = borne.commits_per_s * borne.scenes_per_commit
    parts = (
        _part("commits", scenes_per_s, most_scenes, "scenes/s"),
        _part("memory of the driver", driver / _GIB, borne.head_gib, "GiB"),
        _part("memory of ranking", rank / _GIB, borne.head_gib, "GiB"),
        _part("listing before the first picture", listing_s, 0.25 * deadline_s, "s"),
        _part("fingerprints before the first picture", fingerprints_s, 0.25 * deadline_s, "s"),
        _part("labelling after the last commit", labelling_s, 0.25 * deadline_s, "s"),
        _part("reading from the bucket", read_gib / mined_s, borne.bucket_gib_per_s, "GiB/s"),
        _part("nodes", float(wanted), float(machine.most_nodes), "nodes"),
    )
    first = max(parts, key=lambda part: part.load)
    money = nodes * seconds / _HOUR_S * machine.price_per_hour
    return ClusterPlan(
        nodes=nodes,
        hours=round(seconds / _HOUR_S, 2),
        money=round(money, 2),
        money_per_1000_scenes=round(1000 * money / night.scenes, 4),
        bound="GPUs" if by_gpu <= by_cpu else "CPUs that decode",
        is_in_time=seconds <= deadline_s * (1 + 1e-9),
        scenes_per_s=round(scenes_per_s, 2),
        read_gib=round(read_gib, 1),
        store_gib_per_night=round(night.scenes * per_scene / _GIB, 2),
        store_gib=round((held * per_scene + kept_bytes) / _GIB, 1),
        kept_nights_gib=round(kept_bytes / _GIB, 1),
        driver_gib=round(driver / _GIB, 3),
        rank_gib=round(rank / _GIB, 3),
        parts=parts,
        breaks_first=first.name,
        scales=round(1 / first.load, 2),
    )


def _part(name: str, need: float, bears: float, unit: str) -> Part:
    # Four significant digits: a part that bears far more than it has to is no load of 0.
    return Part(name, f"{need:,.3g} {unit}", f"{bears:,.3g} {unit}", float(f"{need / bears:.4g}"))
