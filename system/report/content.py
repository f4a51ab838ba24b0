"""What a report shows, as plain records; rendering knows nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from system.report.birds_eye import BirdsEye


@dataclass(frozen=True)
class CardPicture:
    """A small JPEG of one camera."""

    camera: str
    t_ns: int
    jpeg: bytes


@dataclass(frozen=True)
class SceneCard:
    """One scene of the ranking. Ranks and hardness are in [0, 1]; None where unknown.

    tags: (name, probability), present ones only. all_tags: every tag's probability.
    """

    rank: int
    scene_id: str
    log_id: str
    source: str
    t_start_ns: int
    t_end_ns: int
    hardness: float | None
    risk_rank: float | None
    ambiguity_rank: float | None
    rarity_rank: float | None
    risk: float | None
    risk_source: str | None
    ambiguity_m: float | None
    rarity: float | None
    tags: tuple[tuple[str, float], ...]
    all_tags: tuple[tuple[str, float], ...]
    truth_tags: tuple[str, ...]
    description: str
    why: str
    flags: tuple[str, ...]
    pictures: tuple[CardPicture, ...]
    birds_eye: BirdsEye | None


@dataclass(frozen=True)
class StageTime:
    """Busy seconds of a stage over all its workers, and how many items went through."""

    name: str
    seconds: float
    items: int
    unit: str


@dataclass(frozen=True)
class QuarantineRow:
    """One fault; `where` is a file, URI or id."""

    level: str
    where: str
    stage: str
    code: str
    message: str


@dataclass(frozen=True)
class RunReport:
    """All of a report. figures: the counts of the run. hardness, risk: of every scene of the model."""

    run_id: str
    status: str
    started: str
    model: str
    store: str
    figures: dict[str, Any]
    weights: dict[str, float]
    stages: tuple[StageTime, ...]
    cards: tuple[SceneCard, ...]
    quarantine: tuple[QuarantineRow, ...]
    quarantine_total: int
    hardness: tuple[float, ...] = ()
    risk: tuple[float, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
