"""Everything that a mining run can be told."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from system.config import FrozenConfig
from system.logs import files
from system.logs.pixels import PictureLimits
from system.logs.windows import WindowConfig
from system.miner.hardness import HardnessWeights
from system.miner.kinematics import KinematicConfig
from system.miner.risk import RiskConfig


class ThumbnailConfig(FrozenConfig):
    """Pictures kept beside a scene: long side in pixels, JPEG quality, and at most so many of them."""

    long_side_px: int = Field(default=480, ge=32, le=4096)
    jpeg_quality: int = Field(default=80, ge=1, le=100)
    max_pictures: int = Field(default=12, ge=0, le=100)


class PoolConfig(FrozenConfig):
    """The actor pool; None means: from what the cluster has.

    actors: how many hold the model.
    max_actors: on a cluster that grows, actors are added up to so many as nodes come, and never more than there is work
        for. Without it the pool keeps its first size.
    gpu: whether an actor asks for a GPU. On a cluster whose GPU nodes start at none it must be said, and a pool of them
        does not grow (Ray's issue 59144): `actors` is its size.
    threads_per_actor: CPUs each reserves and computes with.
    reading_cpus_per_gpu: of nodes that are still to come, so many CPUs read for each actor with a GPU, and no more are
        asked for. Eight decode 480 pictures/s at the 60 of `cluster_plan.Machine`.
    forward_scenes: scenes of one call of an actor.
    write_scenes: scenes of one fragment and one commit.
    """

    actors: int | None = Field(default=None, ge=1)
    max_actors: int | None = Field(default=None, ge=1)
    gpu: bool | None = None
    threads_per_actor: int | None = Field(default=None, ge=1)
    reading_cpus_per_gpu: int = Field(default=8, ge=1)
    forward_scenes: int = Field(default=8, ge=1, le=4096)
    write_scenes: int = Field(default=32, ge=1, le=65536)

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if self.max_actors is not None and self.max_actors < (self.actors or 1):
            raise ValueError(f"max_actors {self.max_actors} is less than actors {self.actors}")
        if self.max_actors is not None and self.gpu:
            raise ValueError("a pool with GPUs does not grow; give its size as actors and leave max_actors out")
        return self


class MiningOptions(FrozenConfig):
    """How logs are mined, whichever they are and wherever the scenes go.

    log_format: a reader's name, or "auto". tower: as `system.backbones.loading.load_tower` names them.
    model: folder of a trained SceneMiner, or None. max_bad_share: of quarantined among found scenes.
    tag_threshold: probability from which the model's tag counts as present.
    """

    log_format: str = "auto"
    tower: str = "packaged"
    model: str | None = None
    taxonomy: str | None = None
    max_bad_share: float = Field(default=0.1, ge=0, le=1)
    retry_quarantined: bool = False
    report_scenes: int = Field(default=30, ge=1, le=500)
    tag_threshold: float = Field(default=0.5, gt=0, lt=1)
    neighbours: int = Field(default=5, ge=1, le=100)
    windows: WindowConfig = WindowConfig()
    limits: PictureLimits = PictureLimits()
    thumbnails: ThumbnailConfig = ThumbnailConfig()
    risk: RiskConfig = RiskConfig()
    kinematics: KinematicConfig = KinematicConfig()
    hardness: HardnessWeights = HardnessWeights()
    pool: PoolConfig = PoolConfig()


class MineConfig(MiningOptions):
    """A mining run.

    logs: folders, files or object-store URIs. store: where the tables lie. report: where the page goes; into the store
    if None. limit: at most so many scenes that the store does not hold yet. rank: bring the ranking up to date.
    """

    logs: tuple[str, ...] = Field(min_length=1)
    store: str
    report: str | None = None
    limit: int | None = Field(default=None, ge=0)
    rank: bool = True

    @field_validator("logs")
    @classmethod
    def _names_are_text(cls, logs: tuple[str, ...]) -> tuple[str, ...]:
        for uri in logs:
            if uri != files.printable(uri):
                raise ValueError(f"{files.printable(uri)}: this name is no UTF-8; rename it")
        return logs
