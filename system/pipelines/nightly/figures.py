"""What a night's scenes are like, in a few numbers that can be compared with another night's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from system.errors import OUTAGE_CODES
from system.store.filters import literal, literals
from system.store.location import StoreLocation
from system.store.schema import QUARANTINE, SCENES


@dataclass(frozen=True)
class NightFigures:
    """Of the scenes that one night committed.

    Attributes:
        tags: scenes with each tag.
        with_risk, risk_mean, risk_p90: of the scenes whose risk is known, in [0, 1); None where it is of none.
        with_embedding, centroid: mean of the unit embeddings, [E]; empty where no scene has pictures.
        quarantined: scenes and logs that this night was the first to quarantine. codes: faults by code.
    """

    scenes: int = 0
    tags: dict[str, int] = field(default_factory=dict)
    with_risk: int = 0
    risk_mean: float | None = None
    risk_p90: float | None = None
    with_embedding: int = 0
    centroid: tuple[float, ...] = ()
    quarantined: int = 0
    codes: dict[str, int] = field(default_factory=dict)

    @property
    def quarantine_share(self) -> float:
        return self.quarantined / max(1, self.quarantined + self.scenes)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> NightFigures:
        return cls(**{**values, "centroid": tuple(values["centroid"])})


def night_figures(location: StoreLocation, model_id: str, run_ids: Sequence[str]) -> NightFigures:
    """Read the figures of some runs from the store. Batch by batch: 4 bytes a scene stay.

    Raises:
        StoreError: the store cannot be read.
    """
    of_runs = f"model_id = {literal(model_id)} AND run_id IN ({literals(run_ids)})"
    tags: Counter[str] = Counter()
    risks: list[NDArray[np.float32]] = []
    scenes, with_embedding, total = 0, 0, np.zeros(0)
    columns = ["tags", "risk", "embedding"]
    for batch in location.dataset(SCENES).scanner(columns=columns, filter=of_runs).to_batches():
        scenes += len(batch)
        for pair in pc.value_counts(pc.list_flatten(batch["tags"])).to_pylist():
            tags[pair["values"]] += pair["counts"]
        risks.append(batch["risk"].drop_null().to_numpy(zero_copy_only=False))
        units_NE = _units(batch["embedding"])
        total = units_NE.sum(0) + (total if len(total) else 0.0)
        with_embedding += len(units_NE)
    risk = np.concatenate(risks) if risks else np.zeros(0, np.float32)
    quarantined, codes = _quarantined(location, of_runs)
    return NightFigures(
        scenes=scenes,
        tags=dict(tags.most_common()),
        with_risk=len(risk),
        risk_mean=float(risk.mean()) if len(risk) else None,
        risk_p90=float(np.percentile(risk, 90)) if len(risk) else None,
        with_embedding=with_embedding,
        centroid=tuple(np.round(total / with_embedding, 6).tolist()) if with_embedding else (),
        quarantined=quarantined,
        codes=codes,
    )


def _units(column: pa.Array) -> NDArray[np.float64]:
    """The embeddings that there are, each of length 1: [N, E]."""
    known = column.drop_null()
    width = column.type.list_size
    rows_NE = known.flatten().to_numpy(zero_copy_only=False).reshape(-1, width).astype(np.float64)
    return rows_NE / np.maximum(np.linalg.norm(rows_NE, axis=1, keepdims=True), 1e-12)


def _quarantined(location: StoreLocation, of_runs: str) -> tuple[int, dict[str, int]]:
    """(scenes and logs, faults by code); single pictures cost no scene, and an outage none for good."""
    where = f"{of_runs} AND level IN ('log', 'scene') AND code NOT IN ({literals(OUTAGE_CODES)})"
    rows = location.dataset(QUARANTINE).to_table(columns=["scene_id", "uri", "code"], filter=where).to_pylist()
    return len({row["scene_id"] or row["uri"] for row in rows}), dict(
        Counter(row["code"] for row in rows).most_common()
    )
