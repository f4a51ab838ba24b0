"""Study what distillation is worth to a segmenter, by the study of detectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from system.infrared.detector_trainer import DetectorTrainConfig
from system.infrared.segmenter import class_weights
from system.pairs.infrared_set import InfraredSet
from system.pairs.mask_set import MaskSource, of_mask_classes, read_mask_set
from system.pairs.pixels import InfraredMapping
from system.report.console import ConsoleProgress
from system.training.detection_study import TEST, DetectionStudyConfig, refuse_unshown, run_study, study_sets
from system.training.segment import count_pixels, gather_masked, shown_in_masks, tell_masks
from system.training.segmentation_task import SegmentationTask


def study_segmentation(
    study: DetectionStudyConfig,
    masks: MaskSource,
    values: dict[str, Any],
    config: DetectorTrainConfig,
    out: Path,
    progress: ConsoleProgress,
    tell_budget: Callable[[dict[str, Any]], None] = lambda _: None,
    is_dry: bool = False,
) -> dict[str, Any]:
    """What distillation is worth to a segmenter, as `run_study`; rare classes weigh more.

    Args:
        values: of `SegmenterConfig` without classes, class_weights, masks and backbone.
    """
    train = gather_masked((study.train,), masks, None, study.classes)

    def read(uri: str, splits: Sequence[str] | None) -> InfraredSet:
        return of_mask_classes(read_mask_set(uri, masks, splits=splits), train.classes)

    sets = study_sets(study, train, read)
    tell_masks(train.masks, progress)
    pixels = count_pixels(sets[0], InfraredMapping())
    if study.test is None:
        refuse_unlearnt(sets[0], sets[1][TEST], pixels)
    values = values | {"masks": train.masks, "class_weights": class_weights(list(pixels.values()))}
    return run_study(SegmentationTask(train.masks), study, sets, values, config, out, progress, tell_budget, is_dry)


def refuse_unlearnt(learnt: InfraredSet, held: InfraredSet, pixels: Mapping[str, int]) -> None:
    """Refuse a split by which a class is judged that nobody learns; one that neither part shows has no figure.

    Args:
        pixels: of `count_pixels`, of the part that is learnt from; the whole part is looked at only where they lack a
            class.
    Raises:
        DataError: `no_positive`.
    """
    mapping = InfraredMapping()
    lacking = [name for name, number in pixels.items() if not number]
    if lacking:
        only_held = shown_in_masks(held, mapping) - shown_in_masks(learnt, mapping)
        refuse_unshown(learnt, [name for name in lacking if name in only_held])
