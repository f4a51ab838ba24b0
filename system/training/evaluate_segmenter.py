"""Judge a segmenter on pictures with masks: overlap of classes with intervals, confusion, worst pictures.

Tasks read and segment; only counts of pixels and a sheet reach the driver.
Legend: N pictures, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from system.bootstrap import draw_pictures
from system.errors import ConfigError, DataError
from system.infrared.detector import model_id, read_model_config
from system.infrared.segment_judge import Counts, confusion, picture_scores, segment_figures
from system.infrared.segmenter import Segmenter
from system.pairs.coloured import count_coloured
from system.pairs.infrared_set import InfraredPicture
from system.pairs.mask_set import MaskSource, of_mask_classes, read_mask_set
from system.pairs.masks import BACKGROUND, PSEUDO
from system.pipelines.resources import connect_to_ray
from system.pipelines.task_results import as_they_end, result_of
from system.report.console import ConsoleProgress
from system.report.label_sheet import LabelCell, label_sheet
from system.report.segment_charts import segment_charts
from system.training.detect import refuse_left_out
from system.training.detect_data import read_masked
from system.training.evaluate_detector import JudgeConfig, claim_folder
from system.training.learnt import judge_unseen
from system.training.probe_set import JUDGED_SPLITS
from system.training.segment import tell_masks

FIGURES_NAME, CHARTS_NAME, WORST_NAME = "figures.json", "classes.png", "worst_pictures.jpg"
# Pictures of one task: enough for the load of the model to be little beside them.
_TASK_PICTURES = 32
_KEPT = "nothing is kept of the pictures that were judged"


def judge_segmenter(
    uri: str,
    masks: MaskSource,
    images: str | None,
    model: str,
    out: Path | None,
    config: JudgeConfig,
    threads: int,
    progress: ConsoleProgress,
) -> dict[str, Any]:
    """Segment every picture of a set with masks in its own pixels, and judge.

    Args:
        threads: CPUs of a task.
    Returns:
        What `segment_figures` tells, masks and pseudo of what is judged by, model_masks of what was learnt
        from, counts, faults, seen_in_training (how many it or its backbone learnt from as copies or without
        labels; None where that is not known).
    Raises:
        ConfigError: the set and the segmenter share no class. DataError: pictures that were learnt from, or too much
            that cannot be read. ModelError.
    """
    if out is not None:
        claim_folder(out, FIGURES_NAME, CHARTS_NAME, WORST_NAME)
    folder = Path(model).absolute()
    # Read once here: of damaged weights a task would tell with all its frames.
    classes = Segmenter.load(folder).config.classes
    found = read_mask_set(uri, masks, images, JUDGED_SPLITS)
    refuse_left_out(found, config.max_bad_share)
    shared = tuple(name for name in classes if name in found.classes)
    if shared in ((), (BACKGROUND,)):
        raise ConfigError(
            f"{uri} knows {', '.join(found.classes[1:])}; the segmenter finds {', '.join(classes[1:])}: none to judge"
        )
    judged = of_mask_classes(found, shared)
    connect_to_ray()
    seen = judge_unseen(folder, uri, [picture.uri for picture in judged.pictures], "segmenter", progress.note)
    tell_masks(judged.masks, progress)
    coloured = count_coloured(judged.pictures, uri, progress.note)
    progress.phase(f"segmenting {len(judged.pictures)} pictures")
    progress.expect(len(judged.pictures))
    rows = _confusions(str(folder), judged.pictures, shared, threads, progress)
    pictures, confusions_NKK, faults = _readable(judged.pictures, rows, config.max_bad_share)
    if not confusions_NKK[:, 1:].any():
        raise DataError("no_objects", f"{uri}: none of its masks shows {', '.join(shared[1:])}; nothing to find")
    progress.phase("judging")
    told = segment_figures(shared, confusions_NKK, draw_pictures(len(pictures), config.rounds, seed=0))
    told |= {"masks": judged.masks, "pseudo": judged.masks.startswith(PSEUDO)}
    told["model_masks"] = getattr(read_model_config(folder, Segmenter).config, "masks", "")
    told["counts"] = {"pictures": len(pictures), "unreadable": len(faults), "faults": len(judged.faults)}
    told |= {"seen_in_training": seen, "coloured": coloured}
    told |= {"model": model, "segmenter_id": model_id(folder, Segmenter), "data": uri}
    told["not_judged"] = [name for name in classes if name not in shared]
    told["faults"] = [*faults, *map(str, judged.faults)][:20]
    if out is not None:
        segment_charts(told, out / CHARTS_NAME)
        (out / FIGURES_NAME).write_text(json.dumps(told, indent=1) + "\n", "utf-8")
        scores_N = picture_scores(confusions_NKK)
        worst = np.argsort(scores_N, kind="stable")[: config.errors].tolist()
        chosen = [(pictures[n], float(scores_N[n])) for n in worst]
        sheet = _sheet.options(num_cpus=threads).remote(str(folder), chosen, shared, judged.masks, threads)
        (out / WORST_NAME).write_bytes(result_of(sheet, _KEPT))
    return told


def _readable(
    pictures: Sequence[InfraredPicture], rows: Sequence[Counts | str], max_bad_share: float
) -> tuple[list[InfraredPicture], Counts, list[str]]:
    """Pictures that were judged, their confusions [N, K, K], and what was wrong with the others.

    Raises:
        DataError: too many cannot be judged, or none can.
    """
    judged = {n: row for n, row in enumerate(rows) if not isinstance(row, str)}
    faults = [f"{pictures[n].picture_id}: {row}" for n, row in enumerate(rows) if isinstance(row, str)]
    if len(faults) > max_bad_share * len(rows):
        raise DataError("too_many_bad", f"{len(faults)} of {len(rows)} pictures cannot be judged, e.g. {faults[0]}")
    if not judged:
        told = f", e.g. {faults[0]}" if faults else ""
        raise DataError("no_readable_picture", f"none of {len(rows)} pictures can be judged{told}")
    return [pictures[n] for n in judged], np.stack(list(judged.values())), faults


def _confusions(
    model: str, pictures: Sequence[InfraredPicture], shared: tuple[str, ...], threads: int, progress: ConsoleProgress
) -> list[Counts | str]:
    """Of each picture its confusion [K, K], or why there is none."""
    parts = [range(k, min(k + _TASK_PICTURES, len(pictures))) for k in range(0, len(pictures), _TASK_PICTURES)]
    tasks = {
        _segmented.options(num_cpus=threads).remote(model, [pictures[n] for n in part], shared, threads): part
        for part in parts
    }
    rows: list[Counts | str] = [""] * len(pictures)
    for task, found in as_they_end(list(tasks), _KEPT):
        for n, row in zip(tasks[task], found, strict=True):
            rows[n] = row
            progress.advanced(int(not isinstance(row, str)), int(isinstance(row, str)), 1)
    return rows


@ray.remote(max_retries=3)
def _segmented(
    model: str, pictures: Sequence[InfraredPicture], shared: tuple[str, ...], threads: int
) -> list[Counts | str]:
    torch.set_num_threads(threads)
    segmenter = Segmenter.load(model)
    rows: list[Counts | str] = []
    for picture in pictures:
        try:
            cell = _cell(segmenter, picture, shared)
        except DataError as error:
            rows.append(f"{error.code}: {error.message}")
        else:
            rows.append(confusion(cell.truth_HW, cell.found_HW, len(shared)))
    return rows


@ray.remote(max_retries=3)
def _sheet(
    model: str, chosen: Sequence[tuple[InfraredPicture, float]], shared: tuple[str, ...], masks: str, threads: int
) -> bytes:
    torch.set_num_threads(threads)
    segmenter = Segmenter.load(model)
    cells = [
        _cell(segmenter, picture, shared, (picture.picture_id, f"mean overlap {100 * score:.0f}"))
        for picture, score in chosen
    ]
    return label_sheet("worst pictures", cells, shared, masks)


def _cell(
    segmenter: Segmenter, picture: InfraredPicture, shared: tuple[str, ...], lines: tuple[str, ...] = ()
) -> LabelCell:
    """Classes that the set does not know count as background."""
    pixels_HW, truth_HW = read_masked(picture, segmenter.config.mapping)
    place = [shared.index(name) if name in shared else 0 for name in segmenter.config.classes]
    (found_HW,) = segmenter.segment([pixels_HW])
    return LabelCell(pixels_HW, truth_HW, np.array(place, np.uint8)[found_HW], lines)
