"""Compare a night with those before it: what changed, and what is worth a look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.pipelines.nightly.config import AlertConfig
from system.pipelines.nightly.figures import NightFigures

# Tags that changed less are not told of.
_LEAST_CHANGE = 0.05
_MOST_TAGS = 8


@dataclass(frozen=True)
class Alert:
    """code: stable name. value, threshold: what was measured, and from where on it is told."""

    code: str
    message: str
    value: float | None = None
    threshold: float | None = None

    def as_json(self) -> dict[str, Any]:
        return vars(self)


@dataclass(frozen=True)
class TagChange:
    """Share of scenes with a tag, in [0, 1], tonight and over the nights before."""

    tag: str
    share: float
    before: float

    @property
    def change(self) -> float:
        return self.share - self.before


@dataclass
class Comparison:
    """Tonight beside the nights before, pooled. What cannot be compared is None.

    embedding_drift: 1 - cosine between the mean of tonight's unit embeddings and that of the nights before, in [0, 2].
    tags: by how much they changed, largest first.
    """

    nights: int = 0
    scenes_mean: float | None = None
    quarantine_share_before: float | None = None
    risk_change: float | None = None
    embedding_drift: float | None = None
    tags: list[TagChange] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    def sentences(self, tonight: NightFigures) -> list[str]:
        """What changed, in words."""
        if not self.nights:
            return ["There is no earlier night of this model to compare with."]
        told = [f"{tonight.scenes} scenes; a night had {self.scenes_mean:.0f} on average over the last {self.nights}."]
        if self.risk_change is not None:
            told.append(f"The mean risk moved by {self.risk_change:+.3f}.")
        if self.embedding_drift is not None:
            told.append(f"The mean embedding moved by a cosine distance of {self.embedding_drift:.3f}.")
        for tag in self.tags[:_MOST_TAGS]:
            if abs(tag.change) >= _LEAST_CHANGE:
                told.append(f"{tag.tag.replace('_', ' ')}: {tag.share:.0%} of the scenes, {tag.before:.0%} before.")
        return told


def compare_nights(tonight: NightFigures, before: Sequence[NightFigures], alerts: AlertConfig) -> Comparison:
    """Compare with earlier nights of the same model, newest first or in any order.

    Nights without scenes count for the number of scenes alone. Shares and means are taken over all scenes of the nights
    before, so that a large night weighs more.
    """
    if not before:
        return Comparison(alerts=_alert_quarantine(tonight, alerts))
    scenes = sum(night.scenes for night in before)
    with_risk = sum(night.with_risk for night in before)
    quarantined = sum(night.quarantined for night in before)
    enough = tonight.scenes >= alerts.min_scenes and scenes >= alerts.min_scenes
    compared = Comparison(
        nights=len(before),
        scenes_mean=scenes / len(before),
        quarantine_share_before=quarantined / max(1, quarantined + scenes),
        alerts=_alert_quarantine(tonight, alerts),
    )
    if tonight.risk_mean is not None and with_risk:
        mean = sum((night.risk_mean or 0.0) * night.with_risk for night in before) / with_risk
        compared.risk_change = tonight.risk_mean - mean
    compared.embedding_drift = embedding_drift(tonight, before)
    if tonight.scenes and scenes:
        counts: Counter[str] = Counter()
        for night in before:
            counts.update(night.tags)
        names = sorted({*tonight.tags, *counts})
        changes = [TagChange(n, tonight.tags.get(n, 0) / tonight.scenes, counts[n] / scenes) for n in names]
        compared.tags = sorted(changes, key=lambda change: -abs(change.change))
    if enough:
        compared.alerts += _alert_changes(compared, alerts)
    if alerts.scenes_share is not None and scenes >= alerts.min_scenes:
        least = alerts.scenes_share * scenes / len(before)
        if tonight.scenes < least:
            told = f"{tonight.scenes} scenes, fewer than {least:.0f}; do all cars still upload?"
            compared.alerts.append(Alert("few_scenes", told, tonight.scenes, least))
    return compared


def embedding_drift(tonight: NightFigures, before: Sequence[NightFigures]) -> float | None:
    """1 - cosine between tonight's mean unit embedding and that of the nights before; None where one is unknown."""
    known = [night for night in before if night.with_embedding and len(night.centroid) == len(tonight.centroid)]
    if not tonight.with_embedding or not known:
        return None
    weights = np.array([night.with_embedding for night in known], float)
    pooled_E: NDArray[np.float64] = np.average([night.centroid for night in known], axis=0, weights=weights)
    own_E = np.array(tonight.centroid)
    length = np.linalg.norm(own_E) * np.linalg.norm(pooled_E)
    return float(np.clip(1 - own_E @ pooled_E / length, 0, 2)) if length > 0 else None


def _alert_quarantine(tonight: NightFigures, alerts: AlertConfig) -> list[Alert]:
    if alerts.quarantine_share is None or tonight.quarantine_share <= alerts.quarantine_share:
        return []
    codes = ", ".join(f"{code} {count}" for code, count in list(tonight.codes.items())[:5])
    told = f"{tonight.quarantined} scenes or logs are in quarantine, {tonight.quarantine_share:.1%}: {codes}"
    return [Alert("quarantine", told, tonight.quarantine_share, alerts.quarantine_share)]


def _alert_changes(compared: Comparison, alerts: AlertConfig) -> list[Alert]:
    found = []
    drift, risk = compared.embedding_drift, compared.risk_change
    if drift is not None and alerts.embedding_drift is not None and drift > alerts.embedding_drift:
        told = f"pictures differ from those of the last {compared.nights} nights: cosine distance {drift:.3f}"
        found.append(Alert("embedding_drift", told, drift, alerts.embedding_drift))
    if risk is not None and alerts.risk_change is not None and abs(risk) > alerts.risk_change:
        found.append(Alert("risk", f"the mean risk moved by {risk:+.3f}", risk, alerts.risk_change))
    least = alerts.tag_share_change
    moved = [tag for tag in compared.tags if least is not None and abs(tag.change) > least]
    if moved:
        told = "; ".join(
            f"{tag.tag} {tag.share:.0%} of the scenes, {tag.before:.0%} before" for tag in moved[:_MOST_TAGS]
        )
        found.append(Alert("tag_share", told, moved[0].change, least))
    return found
