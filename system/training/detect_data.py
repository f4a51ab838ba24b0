"""What a detector learns from, picture by picture: read on demand, at its size, in the same view for whoever asks.

Legend: N pictures, H x W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from system.errors import DataError, storage_errors
from system.freqkd.distiller import seed_of
from system.infrared.augment import Augment, Example, augmented
from system.infrared.detections import Truth
from system.pairs.infrared_set import InfraredPicture, InfraredSet
from system.pairs.masks import fit_labels
from system.pairs.pixels import InfraredMapping, read_infrared
from system.pairs.resize import fit_picture, scale_boxes

_AHEAD = 2
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class PictureReader:
    """How pictures become examples. size: (height, width) of the detector."""

    size: tuple[int, int]
    mapping: InfraredMapping
    augment: Augment = "none"
    seed: int = 0

    def example(self, picture: InfraredPicture) -> Example:
        """The picture at the model's size, its boxes and its label map with it.

        Raises:
            DataError: it or its mask cannot be read, or is not of the size that its boxes were drawn on.
        """
        try:
            pixels_HW = read_infrared(picture.uri, self.mapping).pixels_HW
        except storage_errors() as error:
            raise DataError("unreadable_file", f"{picture.uri}: {error}") from error
        refuse_other_size(picture, pixels_HW.shape)
        boxes = scale_boxes(picture.boxes_xyxy, (pixels_HW.shape[0], pixels_HW.shape[1]), self.size)
        labels = None if picture.mask is None else fit_labels(picture.mask.label_map(pixels_HW), self.size)
        return Example(fit_picture(pixels_HW, self.size), Truth(boxes, picture.labels, picture.is_ignored), labels)

    def view(self, picture: InfraredPicture, number: int, epoch: int) -> Example | DataError:
        """As it is learnt from in an epoch; what is drawn depends on seed, epoch and number alone."""
        try:
            example = self.example(picture)
        except DataError as error:
            return error
        return augmented(example, self.augment, np.random.default_rng(seed_of(self.seed, "view", epoch, number)))


def read_masked(picture: InfraredPicture, mapping: InfraredMapping) -> tuple[Bytes, Bytes]:
    """A picture of a set with masks and its label map, uint8 [H, W] each, in its own pixels.

    Raises:
        DataError: one of them cannot be read, or is not of the size that the annotations state.
    """
    assert picture.mask is not None, "sets of masks have one for each picture"
    try:
        pixels_HW = read_infrared(picture.uri, mapping).pixels_HW
        refuse_other_size(picture, pixels_HW.shape)
        return pixels_HW, picture.mask.label_map(pixels_HW)
    except storage_errors() as error:
        raise DataError("unreadable_file", f"{picture.uri}: {error}") from error


def refuse_other_size(picture: InfraredPicture, size: tuple[int, ...]) -> None:
    """Raises DataError: the annotations state another size than the picture has."""
    if picture.width and picture.height and size[:2] != (picture.height, picture.width):
        raise DataError(
            "wrong_shape",
            f"{picture.uri}: {size[1]}x{size[0]} pixels, its annotations state {picture.width}x{picture.height}; "
            "what is drawn on it would lie at wrong places",
        )


def stream_views(
    pictures: Sequence[InfraredPicture],
    steps: Sequence[Sequence[int]],
    epoch: int,
    reader: PictureReader,
    threads: int = 2,
) -> Iterator[list[Example | DataError]]:
    """The examples of each step, read a few steps ahead of whoever trains."""
    with ThreadPoolExecutor(threads) as pool:

        def begin(step: Sequence[int]) -> list:
            return [pool.submit(reader.view, pictures[n], n, epoch) for n in step]

        waiting = [begin(step) for step in steps[:_AHEAD]]
        for k in range(len(steps)):
            ready = waiting.pop(0)
            if k + _AHEAD < len(steps):
                waiting.append(begin(steps[k + _AHEAD]))
            yield [future.result() for future in ready]


def sha256_of(labelled: InfraredSet) -> str:
    """Of which pictures, boxes and masks they are; not of pixels."""
    rows = [
        [p.picture_id, p.uri, p.boxes_xyxy.tolist(), p.labels.tolist(), p.is_ignored.tolist()]
        + ([p.mask.described()] if p.mask else [])
        for p in labelled.pictures
    ]
    return hashlib.sha256(json.dumps([list(labelled.classes), rows]).encode()).hexdigest()
