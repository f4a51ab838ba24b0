"""Train an infrared segmenter: pictures with masks in, a published folder out; the same trainer as a detector's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from system.drafts import refuse_existing
from system.errors import DataError
from system.infrared.detector_trainer import DetectorTrainConfig
from system.infrared.segmenter import Segmenter, class_weights
from system.pairs.infrared_set import InfraredPicture, InfraredSet
from system.pairs.mask_set import MaskSource, drawn_classes, of_mask_classes, read_mask_set
from system.pairs.masks import BACKGROUND, IGNORED, PSEUDO
from system.pairs.pixels import InfraredMapping
from system.pairs.records import PairFault
from system.report.console import ConsoleProgress
from system.training.detect import DetectSource, model_values, start_classes, train_model
from system.training.detect_data import read_masked
from system.training.detect_run import DetectRun
from system.training.probe_set import JUDGED_SPLITS
from system.training.segmentation_task import SegmentationTask

# Pictures, evenly over all, from which the weights of classes are counted.
_COUNTED = 200


def gather_masked(
    uris: tuple[str, ...],
    masks: MaskSource,
    images: str | None,
    classes: tuple[str, ...],
    splits: tuple[str, ...] = ("train",),
) -> InfraredSet:
    """Several sets with masks as one, with the classes that are asked for, or all of the first.

    Raises:
        DataError: a class that none of the sets knows. DataError, ConfigError: as `read_mask_set`.
    """
    sets = [read_mask_set(uri, masks, images, splits) for uri in uris]
    learnt = classes or sets[0].classes
    joined = [of_mask_classes(found, learnt) for found in sets]
    name = ", ".join(found.name for found in joined)
    known = list(dict.fromkeys(label for found in sets for label in found.classes))
    if missing := [label for label in learnt if label not in (BACKGROUND, *known)]:
        told = f"{name}: knows no {', '.join(missing)} to learn from, but {', '.join(known[1:])}"
        raise DataError("no_positive", f"{told}; name other --classes")
    return InfraredSet(
        name,
        tuple(picture for found in joined for picture in found.pictures),
        joined[0].classes,
        (*_left_to_background(sets, learnt), *(fault for found in joined for fault in found.faults)),
        # What nobody drew is told first, so that it is never overlooked.
        "; ".join(sorted({found.masks for found in joined}, key=lambda told: (not told.startswith(PSEUDO), told))),
    )


def _left_to_background(sets: Sequence[InfraredSet], classes: Sequence[str]) -> Iterator[PairFault]:
    """Classes of a set that nobody learns; one of another name may be one of those that are learnt."""
    for found in sets:
        if others := [name for name in drawn_classes(found) if name not in classes]:
            told = f"{', '.join(others)}: not among the classes that are learnt, and background to them"
            yield PairFault(found.name, "other_class", told, is_skipped=False)


def count_pixels(found: InfraredSet, mapping: InfraredMapping) -> dict[str, int]:
    """Pixels of each class in at most 200 pictures, evenly over all; pictures that cannot be read are left out.

    Raises:
        DataError: no picture can be read, or none shows anything but the background.
    """
    chosen = found.pictures[:: max(1, -(-len(found.pictures) // _COUNTED))]
    counted = _counted(chosen, len(found.classes), mapping)
    known = [row for row in counted if isinstance(row, np.ndarray)]
    if not known:
        raise next(row for row in counted if isinstance(row, DataError))
    whole = np.sum(known, axis=0)
    if not whole[1:].any():
        raise DataError("no_positive", f"{found.name}: its masks show nothing but {BACKGROUND}")
    return dict(zip(found.classes, whole.tolist(), strict=True))


def shown_in_masks(found: InfraredSet, mapping: InfraredMapping) -> set[str]:
    """Classes that some picture has a pixel of; all pictures that can be read are looked at."""
    rows = _counted(found.pictures, len(found.classes), mapping)
    known = [row for row in rows if isinstance(row, np.ndarray)]
    return {found.classes[k] for row in known for k in np.flatnonzero(row)}


def _counted(
    pictures: Sequence[InfraredPicture], num_classes: int, mapping: InfraredMapping
) -> list[np.ndarray | DataError]:
    """Pixels of each class in each picture, or why it cannot be read."""

    def of_one(picture: InfraredPicture) -> np.ndarray | DataError:
        try:
            _, labels_HW = read_masked(picture, mapping)
        except DataError as error:
            return error
        return np.bincount(labels_HW[labels_HW != IGNORED], minlength=num_classes)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(of_one, pictures))


def train_segmenter(
    source: DetectSource,
    masks: MaskSource,
    values: dict[str, Any],
    is_balanced: bool,
    config: DetectorTrainConfig,
    run: DetectRun,
    out: Path,
    progress: ConsoleProgress,
) -> dict[str, Any]:
    """Train and publish a segmenter at `out`, as `train_model`.

    Args:
        masks: of train and val. values: of `SegmenterConfig` without classes, class_weights and masks. is_balanced:
            rare classes weigh more.
    Returns:
        Keys of `train_model`, and masks, pseudo: whether they are pseudo-masks.
    """
    refuse_existing(out)
    classes = source.classes or start_classes(source, Segmenter)
    train = gather_masked(source.train, masks, source.images, classes, source.splits)
    val = None
    if source.val:
        val = of_mask_classes(read_mask_set(source.val, masks, source.images, JUDGED_SPLITS), train.classes)
    tell_masks(train.masks, progress)
    progress.phase("counting the pixels of each class")
    mapping = model_values(SegmentationTask(train.masks), source, values)["mapping"]
    pixels = count_pixels(train, InfraredMapping.parse(mapping, "mapping") if isinstance(mapping, dict) else mapping)
    for name in [name for name, number in pixels.items() if not number]:
        progress.note(f"{name}: no pixel of it in the pictures that were counted")
    values = values | {"masks": train.masks}
    if is_balanced:
        values["class_weights"] = class_weights(list(pixels.values()))
    told = train_model(SegmentationTask(train.masks), train, val, pixels, source, values, config, run, out, progress)
    return told | {"masks": train.masks, "pseudo": train.masks.startswith(PSEUDO)}


def tell_masks(masks: str, progress: ConsoleProgress) -> None:
    """Say it where nobody drew them."""
    if masks.startswith(PSEUDO):
        progress.note(f"masks are {masks}: figures tell how well a model agrees with them, not with what is there")
