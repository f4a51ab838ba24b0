"""Labels of one scene: what each rule says of each tag, and its risk where the physics of tracks is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from system.labels.future import future_path
from system.labels.rules import LabelRules
from system.miner.kinematics import KinematicConfig
from system.miner.miner_config import SceneMinerConfig
from system.miner.risk import RiskConfig
from system.miner.scene_risk import score_scene
from system.records import EgoTrack, SceneWindow


@dataclass(frozen=True)
class Vote:
    """What one rule says of one tag."""

    tag: str
    present: bool
    rule: str


@dataclass(frozen=True)
class SceneLabels:
    """Labels of a scene.

    Attributes:
        votes: in the order of precedence; the first of a tag is its label, a tag without a vote is unknown.
        risk: in [0, 1), from the physics of tracks; None where there are no tracks of others.
        has_pictures: whether a model can see anything of it.
        description: the makers' words, or "".
        future: the ego's path after the scene, x and y of each step in turn (m); None where unknown.
    """

    scene_id: str
    source: str
    log_id: str
    group: str
    has_pictures: bool
    votes: tuple[Vote, ...]
    risk: float | None
    future: tuple[float, ...] | None
    description: str = ""

    def values(self) -> dict[str, bool]:
        """The label of every tag that is known."""
        return {vote.tag: vote.present for vote in reversed(self.votes)}


def label_scene(
    window: SceneWindow,
    ego: EgoTrack | None,
    rules: LabelRules,
    given: Mapping[str, bool],
    given_by: str,
    tags: frozenset[str],
) -> SceneLabels:
    """Ask every rule about a scene.

    Args:
        ego: track of the whole log.
        given: a user's own labels of the scene, before all rules; given_by: what they are called.
        tags: of the taxonomy; votes for other tags are dropped.
    Raises:
        DataError: as `score_scene`.
    """
    votes = [Vote(tag, present, given_by) for tag, present in sorted(given.items())]
    for rule in rules.rules:
        votes += [Vote(tag, present, rule.name) for tag, present in rule.votes(window).items() if tag in tags]
    risk = score_scene(window, RiskConfig(), KinematicConfig())
    log = window.ref.log
    seen = window.ego
    future = None
    if seen is not None and len(seen.t_ns):
        future = future_path(ego, int(seen.t_ns[-1]), SceneMinerConfig())
    return SceneLabels(
        scene_id=window.scene_id,
        source=log.source,
        log_id=log.log_id,
        group=rules.group_of(window),
        has_pictures=bool(window.frames),
        votes=tuple(votes),
        risk=risk.risk if risk.source == "tracks" else None,
        future=None if future is None else tuple(future.ravel().tolist()),
        description=window.description,
    )
