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
        if picture.mask is None:
            pixels_HW, labels = read_pixels(picture, self.mapping), None
        else:
            pixels_HW, own_HW = read_masked(picture, self.mapping)
            labels = fit_labels(own_HW, self.size)
        boxes = scale_boxes(picture.boxes_xyxy, (pixels_HW.shape[0], pixels_HW.shape[1]), self.size)
        return Example(fit_picture(pixels_HW, self.size), Truth(boxes, picture.labels, picture.is_ignored), labels)

    def view(self, picture: InfraredPicture, number: int, epoch: int) -> Example | DataError:
        """As it is learnt from in an epoch; what is drawn depends on seed, epoch and number alone."""
        try:
            example = self.example(picture)
        except DataError as error:
            return error
        return augmented(example, self.augment, np.random.default_rng(seed_of(self.seed, "view", epoch, number)))


def read_pixels(picture: InfraredPicture, mapping: InfraredMapping) -> Bytes:
    """A picture of a set, uint8 [H, W].

    Raises:
        DataError: it cannot be read, or is not of the size that its annotations state.
    """
    try:
        pixels_HW = read_infrared(picture.uri, mapping).pixels_HW
    except storage_errors() as error:
        raise DataError("unreadable_file", f"{picture.uri}: {error}") from error
    height, width = pixels_HW.shape
    if picture.width and picture.height and (height, width) != (picture.height, picture.width):
        raise DataError(
            "wrong_shape",
            f"{picture.uri}: {width}x{height} pixels, its annotations state {picture.width}x{picture.height}; "
            "what is drawn on it would lie at wrong places",
        )
    return pixels_HW


def read_masked(picture: InfraredPicture, mapping: InfraredMapping) -> tuple[Bytes, Bytes]:
    """A picture of a set with masks and its label map, uint8 [H, W] each, in its own pixels.

    Raises:
        DataError: as `read_pixels`; its mask cannot be read.
    """
    assert picture.mask is not None, "sets of masks have one for each picture"
    pixels_HW = read_pixels(picture, mapping)
    try:
        return pixels_HW, picture.mask.label_map(pixels_HW)
    except storage_errors() as error:
        raise DataError("unreadable_file", f"{picture.uri}: its mask: {error}") from error


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
