"""The record that every reader of pairs gives: an RGB and an infrared picture of the same instant, and what is known.

Legend: N boxes of a pair.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Light = Literal["day", "night", ""]
# registered: the makers warped one picture onto the other. nominal: the cameras share one view (a beam splitter, or a
# factory calibration) and may drift. unknown: nothing is said.
Alignment = Literal["registered", "nominal", "unknown"]


def _no_boxes() -> NDArray[np.float32]:
    return np.zeros((0, 4), np.float32)


def _no_labels() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


def _none_ignored() -> NDArray[np.bool_]:
    return np.zeros(0, np.bool_)


@dataclass(frozen=True, eq=False)
class Pair:
    """One pair; only names and annotations, no pixels.

    Attributes:
        pair_id: unique in its corpus.
        rgb_uri, infrared_uri: the same file where one picture holds four channels (MFNet). No rgb_uri ("") where the
            infrared picture has no partner; such are never among a corpus's pairs.
        boxes_xyxy: float32 [N, 4], in pixels of the infrared picture, inside of it where its size is stated.
        labels: int64 [N], places in the corpus's categories.
        is_ignored: bool [N], neither an object nor background (crowds, people too far off).
        mask_uri: a picture of class numbers, or "".
        light: by names or metadata; "" where they do not say.
        width, height: of the infrared picture as its annotations state it, or None.
        is_labelled: whether somebody drew boxes here; without, no box does not mean no object.
        crop_rgb: the two cameras have other fields of view: the middle of the RGB picture, in the infrared one's shape,
            is taken.
        split: the part of the corpus that its layout puts the pair in ("train", ...), or "".
    """

    pair_id: str
    corpus: str
    rgb_uri: str
    infrared_uri: str
    boxes_xyxy: NDArray[np.float32] = field(default_factory=_no_boxes)
    labels: NDArray[np.int64] = field(default_factory=_no_labels)
    is_ignored: NDArray[np.bool_] = field(default_factory=_none_ignored)
    mask_uri: str = ""
    light: Light = ""
    alignment: Alignment = "unknown"
    width: int | None = None
    height: int | None = None
    is_labelled: bool = False
    crop_rgb: bool = False
    split: str = ""


@dataclass(frozen=True)
class PairFault:
    """What is wrong with a pair or with one of its boxes. is_skipped: the whole pair is left out."""

    pair_id: str
    code: str
    message: str
    is_skipped: bool = True

    def __str__(self) -> str:
        return f"{self.pair_id}: {self.code}: {self.message}"


@dataclass(frozen=True, eq=False)
class PairCorpus:
    """What a reader found at a path.

    Attributes:
        mask_classes: by their number in masks; empty where there are none.
        why: by what the reader recognised the path.
        unmatched: names of pictures without a partner.
        infrared_alone: infrared pictures among these, where the layout may have labels for them: a detector needs no
            RGB.
        faults: pairs that were left out, and boxes that were dropped or cut.
        infrared_alone_faults: the same of infrared pictures without a partner, which whoever needs pairs does not use.
    """

    name: str
    reader: str
    pairs: tuple[Pair, ...]
    categories: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    infrared_alone: tuple[Pair, ...] = ()
    faults: tuple[PairFault, ...] = ()
    infrared_alone_faults: tuple[PairFault, ...] = ()
    why: str = ""
    mask_classes: tuple[str, ...] = ()

    def with_infrared_alone(self) -> PairCorpus:
        """The same, where those of its pairs that have no RGB picture, and their faults, are told apart."""
        alone = {pair.pair_id for pair in self.pairs if not pair.rgb_uri}
        return replace(
            self,
            pairs=tuple(pair for pair in self.pairs if pair.rgb_uri),
            infrared_alone=tuple(pair for pair in self.pairs if not pair.rgb_uri),
            faults=tuple(fault for fault in self.faults if fault.pair_id not in alone),
            infrared_alone_faults=(
                *self.infrared_alone_faults,
                *(fault for fault in self.faults if fault.pair_id in alone),
            ),
        )
