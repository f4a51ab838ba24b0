"""Gather a run's report from the store: the store is all that it needs, so that it can be made again."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

import fsspec
import numpy as np

from system.errors import StoreError
from system.miner.explain import tag_chances, why_hard
from system.report.birds_eye import BirdsEye
from system.report.content import CardPicture, QuarantineRow, RunReport, SceneCard, StageTime
from system.report.html import render_report
from system.store.filters import SceneFilter
from system.store.location import StoreLocation
from system.store.pictures import StoredPicture, read_pictures
from system.store.runs import RunRecord, read_quarantine, read_run
from system.store.schema import SCENES
from system.store.search import SearchConfig, search_scenes
from system.store.tables import read_models

_MOST_FAULTS = 200


def write_report(location: StoreLocation, run_id: str, target: str | None, num_scenes: int) -> str:
    """Write a run's report and return where it lies: at `target`, or in the store.

    Raises:
        StoreError: it cannot be written there.
    """
    page = render_report(gather_report(location, run_id, num_scenes))
    return write_page(location, f"reports/{run_id}.html", page, target)


def write_page(location: StoreLocation, name: str, text: str, target: str | None) -> str:
    """Write a text to a path or URI, or below the store's root where there is none; returns where it lies.

    Raises:
        StoreError: it cannot be written there.
    """
    if target is None:
        return location.write_text(name, text)
    path = target if "://" in target else os.path.abspath(os.path.expanduser(target))
    try:
        with fsspec.open(path, "w", encoding="utf-8", auto_mkdir=True) as file:
            file.write(text)
    except (OSError, ValueError) as error:
        raise StoreError(f"report {target}: cannot be written: {error}") from error
    return path


def gather_report(location: StoreLocation, run_id: str, num_scenes: int) -> RunReport:
    """Everything that the report of a run shows.

    Raises:
        ConfigError: no such run.
    """
    run = read_run(location, run_id)
    config = run.report["config"]
    faults = read_quarantine(location, run.run_id)
    columns = location.dataset(SCENES).to_table(columns=["hardness", "risk"], filter=f"model_id = '{run.model_id}'")
    return RunReport(
        run_id=run.run_id,
        status=run.status,
        started=datetime.fromtimestamp(run.started_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        model=f"{config['tower']} {'untrained' if config['model'] is None else config['model']} ({run.model_id})",
        store=location.uri,
        figures=run.report["figures"],
        weights=config["hardness"],
        stages=_stages(run.report["figures"]),
        cards=tuple(scene_cards(location, run, num_scenes, with_pictures=True)),
        quarantine=tuple(
            QuarantineRow(row["level"], row["uri"] or "", row["stage"], row["code"], row["message"])
            for row in faults[:_MOST_FAULTS]
        ),
        quarantine_total=len(faults),
        hardness=tuple(_known(columns["hardness"])),
        risk=tuple(_known(columns["risk"])),
        settings=_settings(run),
    )


def hardest_cards(store: str, run_id: str, num_scenes: int) -> list[SceneCard]:
    """The hardest scenes of a run's model, without pictures."""
    location = StoreLocation.parse(store)
    return scene_cards(location, read_run(location, run_id), num_scenes, with_pictures=False)


def scene_cards(
    location: StoreLocation, run: RunRecord, num_scenes: int, with_pictures: bool, where: SceneFilter | None = None
) -> list[SceneCard]:
    """The hardest scenes of a run's model, or of those the ones that pass a filter, hardest first."""
    where = SceneFilter(model_id=run.model_id) if where is None else where
    rows = search_scenes(location, None, where, SearchConfig(top=num_scenes))
    names = next(model["tag_names"] for model in read_models(location) if model["model_id"] == run.model_id)
    ids = [row["scene_id"] for row in rows]
    pictures, plots = _pictures_and_plots(location, ids, run.model_id) if with_pictures else ({}, {})
    cards = []
    for rank, row in enumerate(rows, start=1):
        chances = tag_chances(row, names)
        present = set(row["tags"])
        cards.append(
            SceneCard(
                rank=rank,
                ambiguity_m=row["ambiguity"],
                tags=tuple(pair for pair in chances if pair[0] in present),
                all_tags=tuple(chances),
                truth_tags=tuple(row["truth_tags"] or ()),
                why=why_hard(row, json.loads(row["risk_detail"] or "{}")),
                flags=tuple(row["flags"] or ()),
                pictures=tuple(CardPicture(p.camera, p.t_ns, p.jpeg) for p in pictures.get(row["scene_id"], ())),
                birds_eye=plots.get(row["scene_id"]),
                **{name: row[name] for name in _SAME},
            )
        )
    return cards


_SAME = (
    "scene_id", "log_id", "source", "t_start_ns", "t_end_ns", "hardness", "risk_rank", "ambiguity_rank", "rarity_rank",
    "risk", "risk_source", "rarity", "description",
)  # fmt: skip


def _pictures_and_plots(
    location: StoreLocation, ids: list[str], model_id: str
) -> tuple[dict[str, list[StoredPicture]], dict[str, BirdsEye]]:
    where = SceneFilter(scene_ids=tuple(ids), model_id=model_id).to_sql()
    columns = ["scene_id", "birds_eye", "picture_batch"]
    rows = location.dataset(SCENES).to_table(columns=columns, filter=where).to_pylist() if ids else []
    pictures = read_pictures(location, {row["scene_id"]: row["picture_batch"] for row in rows})
    return pictures, {row["scene_id"]: BirdsEye.from_json(row["birds_eye"]) for row in rows if row["birds_eye"]}


def _stages(figures: dict[str, Any]) -> tuple[StageTime, ...]:
    seconds, committed, images = figures["stages"], figures["committed"], figures["images"]
    return (
        StageTime("list logs", seconds["plan"], figures["found"], "scenes"),
        StageTime("read and decode", seconds["read"], images, "pictures"),
        StageTime("forward pass", seconds["forward"], images, "pictures"),
        StageTime("write", seconds["write"], committed, "scenes"),
        StageTime("commit", seconds["commit"], committed, "scenes"),
        StageTime("rank and index", seconds["rank"], 0, ""),
        StageTime("stream, wall clock", seconds["stream"], images, "pictures"),
    )


def _settings(run: RunRecord) -> dict[str, str]:
    config = run.report["config"]
    windows = config["windows"]
    return {
        "logs": ", ".join(config["logs"]),
        "windows": f"{windows['length_s']:g} s every {windows['stride_s']:g} s, {windows['keyframe_hz']:g} pictures/s",
        "code": str(run.report.get("git_commit") or "unknown")[:12],
        "table version": str(run.table_version),
    }


def _known(column: Any) -> list[float]:
    values = column.to_numpy().astype(np.float64)
    return values[~np.isnan(values)].tolist()
