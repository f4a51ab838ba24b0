"""Why a scene ranks where it does, in one plain sentence. Says nothing that is not known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite
from typing import Any

from system.miner.hardness import HardnessWeights

# A component is named from this rank on; below it nothing about it stands out.
_NOTABLE_RANK = 0.8
# With fewer scenes a percentage would pretend a precision that is not there.
_ENOUGH_SCENES = 20
# Encounters within these are worth a sentence: the 3 s horizon of the rollouts, and about half a lane.
_NOTABLE_TTC_S = 3.0
_NOTABLE_DISTANCE_M = 1.5
_NOTABLE_BRAKING_MPS2 = 3.4
_NOTABLE_SPREAD_M = 1.0
_MOST_TAGS = 4


@dataclass(frozen=True)
class HardnessFacts:
    """What is known of a scene; None where nobody knows, NaN likewise.

    Attributes:
        risk: in [0, 1). risk_source: the trained "head", "tracks" of the agents or the "ego" motion alone.
        agent_id, agent_category, min_ttc_s, min_distance_m: the most dangerous agent and its worst encounter, both
            road users keeping velocity; infinite where they do not meet.
        max_braking_mps2: of the ego, positive.
        ambiguity_m: spread of the ends of the forecast ego paths.
        risk_rank, ambiguity_rank, rarity_rank: in [0, 1] among `num_scenes` scenes.
        tags: names of the tags that count as present.
    """

    risk: float | None = None
    risk_source: str | None = None
    agent_id: str | None = None
    agent_category: str | None = None
    min_ttc_s: float | None = None
    min_distance_m: float | None = None
    max_braking_mps2: float | None = None
    ambiguity_m: float | None = None
    risk_rank: float | None = None
    ambiguity_rank: float | None = None
    rarity_rank: float | None = None
    num_scenes: int | None = None
    tags: Sequence[str] = ()


def facts_of(row: Mapping[str, Any], risk_detail: Mapping[str, Any]) -> HardnessFacts:
    """What a row of the store knows of its scene.

    Args:
        row: `risk`, `risk_source`, `ambiguity` (m), `risk_rank`, `ambiguity_rank`, `rarity_rank`, `tags` and
            `ranked_among` (scenes); absent or None where unknown.
        risk_detail: a `SceneRisk` as a dictionary, its agents most dangerous first; may be empty.
    """
    worst: Mapping[str, Any] = next(iter(risk_detail.get("agents") or ()), {})
    return HardnessFacts(
        risk=_number(row.get("risk")),
        risk_source=row.get("risk_source"),
        agent_id=worst.get("track_id"),
        agent_category=worst.get("category"),
        min_ttc_s=_number(worst.get("min_ttc_s")),
        min_distance_m=_number(worst.get("min_dce_m")),
        max_braking_mps2=_number(risk_detail.get("max_braking_mps2")),
        ambiguity_m=_number(row.get("ambiguity")),
        risk_rank=_number(row.get("risk_rank")),
        ambiguity_rank=_number(row.get("ambiguity_rank")),
        rarity_rank=_number(row.get("rarity_rank")),
        num_scenes=row.get("ranked_among"),
        tags=tuple(row.get("tags") or ()),
    )


def why_hard(
    row: Mapping[str, Any], risk_detail: Mapping[str, Any] | None = None, weights: HardnessWeights | None = None
) -> str:
    """The sentence for a row of the store; arguments as in `facts_of` and `explain`."""
    return explain(facts_of(row, risk_detail or {}), weights or HardnessWeights())


def explain(facts: HardnessFacts, weights: HardnessWeights) -> str:
    """One sentence that ends in a full stop.

    Args:
        weights: those of the ranking; a component with weight 0 is not given as a reason.
    """
    candidates = (
        (_risk(facts), weights.risk),
        (_rarity(facts), weights.rarity),
        (_ambiguity(facts), weights.ambiguity),
    )
    reasons = [reason for reason, weight in candidates if reason and weight > 0]
    if not reasons:
        ranks = (facts.risk_rank, facts.ambiguity_rank, facts.rarity_rank)
        is_ranked = any(_number(rank) is not None for rank in ranks)
        reasons = ["nothing stands out" if is_ranked else "nothing is known that could rank it"]
    if facts.tags:
        reasons.append("tagged " + ", ".join(name.replace("_", " ") for name in facts.tags[:_MOST_TAGS]))
    sentence = "; ".join(reasons) + "."
    return sentence[0].upper() + sentence[1:]


def _risk(facts: HardnessFacts) -> str:
    place = _above(facts.risk_rank, facts.num_scenes)
    event = _encounter(facts) or _braking(facts)
    if event:
        return f"{event} (risk above {place})" if place else event
    if not place or not _number(facts.risk):
        return ""
    source = {"head": " predicted from the pictures", "tracks": " from the tracks", "ego": " from the ego's own motion"}
    return f"risk{source.get(facts.risk_source or '', '')} above {place}"


def _encounter(facts: HardnessFacts) -> str:
    """The worst encounter. It is conditional: nobody knows that it would have happened."""
    if facts.agent_category is None:
        return ""
    who = _agent_name(facts.agent_category, facts.agent_id)
    ttc_s, distance_m = _number(facts.min_ttc_s), _number(facts.min_distance_m)
    if ttc_s is not None and ttc_s <= 0:
        return f"the box of {who} overlaps the ego's"
    if ttc_s is not None and ttc_s <= _NOTABLE_TTC_S:
        return f"{who} would be hit in {_one_decimal(ttc_s)} s if both kept their velocity"
    if distance_m is not None and 0 < distance_m <= _NOTABLE_DISTANCE_M:
        return f"{who} would come within {_one_decimal(distance_m)} m if both kept their velocity"
    return ""


def _braking(facts: HardnessFacts) -> str:
    braking = _number(facts.max_braking_mps2)
    return f"the ego braked with {braking:.1f} m/s²" if braking is not None and braking > _NOTABLE_BRAKING_MPS2 else ""


def _rarity(facts: HardnessFacts) -> str:
    top = _top(facts.rarity_rank, facts.num_scenes)
    return f"rare look ({top})" if top else ""


def _ambiguity(facts: HardnessFacts) -> str:
    top, spread_m = _top(facts.ambiguity_rank, facts.num_scenes), _number(facts.ambiguity_m)
    if not top or spread_m is None or spread_m < _NOTABLE_SPREAD_M:
        return ""
    return f"the ego's possible paths end {spread_m:.0f} m apart ({top})"


def _above(rank: float | None, num_scenes: int | None) -> str:
    """ "98 % of scenes", rounded down, for a notable rank; "" for another."""
    known = _number(rank)
    if known is None or known < _NOTABLE_RANK:
        return ""
    if num_scenes is not None and num_scenes < _ENOUGH_SCENES:
        return "most scenes"
    return f"{min(99, floor(100 * known))} % of scenes"


def _top(rank: float | None, num_scenes: int | None) -> str:
    """ "top 4 %", rounded up, for a notable rank; "" for another."""
    known = _number(rank)
    if known is None or known < _NOTABLE_RANK:
        return ""
    if num_scenes is not None and num_scenes < _ENOUGH_SCENES:
        return "more than most scenes"
    # The subtraction leaves 0.05 a hair above itself, which must not become 6 %.
    return f"top {max(1, ceil(100 * (1 - known) - 1e-6))} %"


def _agent_name(category: str, agent_id: str | None) -> str:
    """Category and the first digits of the id: "pedestrian 3f2a"; nuScenes' and AV2's names are shortened."""
    parts = category.lower().split(".")
    name = (parts[1] if len(parts) > 1 and parts[0] in ("human", "vehicle", "movable_object") else parts[0]) or "object"
    name = name.replace("_", " ").replace("trafficcone", "traffic cone")
    return f"{name} {agent_id[:4]}" if agent_id else name


def _one_decimal(value: float) -> str:
    """Never 0.0 for something positive."""
    return f"{max(value, 0.1):.1f}"


def _number(value: float | None) -> float | None:
    """The number where it is one and not infinite."""
    return float(value) if value is not None and isfinite(value) else None


def tag_chances(row: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, float]]:
    """(tag, probability) in the order of the taxonomy; where tracks decide a tag, theirs counts and not the model's.

    Args:
        row: with `tag_probabilities` and `track_tags` of the store. names: the tags of the row's model.
    """
    chances: dict[str, float] = {}
    if row["tag_probabilities"] is not None:
        chances.update(zip(names, row["tag_probabilities"], strict=True))
    chances.update(json.loads(row["track_tags"] or "{}"))
    return [(name, chances[name]) for name in names if name in chances]
