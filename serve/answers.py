"""From rows of the store to what goes over the wire."""

from __future__ import annotations

import json
import math
from typing import Any
from urllib.parse import quote

from serve.models import (
    AgentRisk,
    BirdsEye,
    FrameInfo,
    HardnessPart,
    Hit,
    PlottedTrack,
    Scene,
    SceneDetail,
    Score,
    ScorePart,
    SearchAnswer,
)
from serve.search_store import Page, Row, View
from system.pipelines.explained import explained
from system.store.pictures import StoredPicture
from system.store.snapshot import Parts, Ranked


def search_answer(page: Page, notes: list[str]) -> SearchAnswer:
    """A page of results."""
    hits = [
        Hit(scene=scene_of(row), score=score_of(row, place, page.weights))
        for row, place in zip(page.rows, page.ranked, strict=True)
    ]
    return SearchAnswer(
        hits=hits,
        next_cursor=page.next_cursor,
        total=page.total,
        version=page.view.snapshot.version,
        model_id=page.view.model["model_id"],
        notes=notes,
    )


def scene_of(row: Row) -> Scene:
    """A scene as lists show it, of an explained row."""
    return Scene(
        scene_id=row["scene_id"],
        source=row["source"],
        log_id=row["log_id"],
        t_start_ns=row["t_start_ns"],
        t_end_ns=row["t_end_ns"],
        cameras=row["cameras"] or [],
        num_pictures=row["num_pictures"] or 0,
        flags=row["flags"] or [],
        description=row["description"] or "",
        truth_tags=row["truth_tags"] or [],
        tags=row["tags"] or [],
        tag_probabilities=row["tag_probabilities"],
        risk=known(row["risk"]),
        risk_source=row["risk_source"],
        min_ttc_s=known(row["min_ttc_s"]),
        hardness=known(row["hardness"]),
        cover=f"/v1/scenes/{row['scene_id']}/cover" if row["picture_batch"] and row["num_pictures"] else None,
    )


def score_of(row: Row, place: Ranked, weights: Parts) -> Score:
    """Why a scene stands where it does."""
    parts = [
        ScorePart(name=name, value=place.values[name], weight=weight, contribution=weight * (place.values[name] or 0.0))  # type: ignore[arg-type]
        for name, weight in weights.items()
    ]
    hardness_parts = [
        HardnessPart(name="risk", rank=known(row["risk_rank"]), value=known(row["risk"])),
        HardnessPart(name="ambiguity", rank=known(row["ambiguity_rank"]), value=known(row["ambiguity"])),
        HardnessPart(name="rarity", rank=known(row["rarity_rank"]), value=known(row["rarity"])),
    ]
    return Score(
        total=place.score,
        parts=parts,
        hardness_parts=hardness_parts,
        ranked_among=row["ranked_among"],
        why=row["why"],
    )


def detail_of(row: Row, view: View, frames: list[FrameInfo]) -> SceneDetail:
    """All that is known of a scene."""
    told = explained(row, view.model["tag_names"]) | {"picture_batch": row["picture_batch"]}
    risk: dict[str, Any] = json.loads(row["risk_detail"] or "{}")
    hardness = known(row["hardness"])
    place = Ranked(row["scene_id"], hardness or 0.0, {"hardness": hardness})
    return SceneDetail(
        scene=scene_of(told),
        score=score_of(told, place, {"hardness": 1.0}),
        frames=frames,
        birds_eye=_birds_eye(row["birds_eye"]),
        agents=[
            AgentRisk(
                track_id=str(agent["track_id"]),
                category=str(agent["category"]),
                hazard=agent["hazard"],
                min_ttc_s=known(agent["min_ttc_s"]),
                min_dce_m=known(agent["min_dce_m"]),
                t_ns=agent["t_ns"],
            )
            for agent in risk.get("agents") or ()
        ],
        physics_risk=known(row["physics_risk"]),
        physics_source=row["physics_source"],
        max_braking_mps2=known(risk.get("max_braking_mps2")),
        ambiguity_m=known(row["ambiguity"]),
        model_id=view.model["model_id"],
        run_id=row["run_id"],
        version=view.snapshot.version,
        has_embedding=row["has_embedding"],
    )


def thumbnail_frames(scene_id: str, pictures: list[StoredPicture]) -> list[FrameInfo]:
    """The small pictures, each camera counted from 0."""
    counts: dict[str, int] = {}
    frames = []
    for picture in pictures:
        k = counts.get(picture.camera, 0)
        counts[picture.camera] = k + 1
        frames.append(
            FrameInfo(
                camera=picture.camera,
                k=k,
                t_ns=picture.t_ns,
                width=picture.width,
                height=picture.height,
                url=frame_url(scene_id, picture.camera, k, "thumbnail"),
            )
        )
    return frames


def frame_url(scene_id: str, camera: str, k: int, kind: str) -> str:
    """Path of a picture."""
    return f"/v1/scenes/{scene_id}/frames/{quote(camera, safe='')}/{k}?kind={kind}"


def known(value: float | None) -> float | None:
    """JSON knows neither infinity nor not-a-number."""
    return float(value) if value is not None and math.isfinite(value) else None


def _birds_eye(text: str | None) -> BirdsEye | None:
    if not text:
        return None
    values = json.loads(text)
    return BirdsEye(ego=_track(values["ego"]), agents=[_track(agent) for agent in values["agents"]])


def _track(values: list[Any]) -> PlottedTrack:
    kind, is_worst, length_m, width_m, steps = values
    return PlottedTrack(kind=kind, is_worst=bool(is_worst), length_m=length_m, width_m=width_m, steps=steps)
