"""MSRS: {visible|vi}/NAME.png beside {infrared|ir}/NAME.png, at the root or in train/ and test/.

Names end in D (day) or N (night). Masks, where there are any, hold the classes of MFNet, from which the pictures come.
Boxes of MSRS come as COCO files: name the file instead of the folder.
"""

from __future__ import annotations

import re
from dataclasses import replace

from system.pairs import files
from system.pairs.folders import FoldersReader, two_sides
from system.pairs.matching import names_below
from system.pairs.mfnet import MASK_CLASSES, light_of
from system.pairs.records import PairCorpus

_NAME = re.compile(r"^\d{4,6}[DN]$")
_MASK_FOLDERS = ("Segmentation_labels", "Segmentation_label", "labels_seg", "labels", "label", "masks")


class MsrsReader:
    """Reads a folder of MSRS."""

    name = "msrs"
    looks_for = "visible or vi beside infrared or ir, with pictures named like 00001D.png"

    def recognise(self, uri: str) -> str | None:
        for _, rgb_folder, _ in two_sides(uri):
            first = next(iter(files.pictures_in(rgb_folder)), None)
            if first and _NAME.match(files.stem(first)):
                return f"{files.name(first)} is named as in MSRS"
        return None

    def read(self, uri: str) -> PairCorpus:
        corpus = FoldersReader().read(uri)
        masks = {}
        for split, rgb_folder, _ in two_sides(uri):
            folder = files.parent(rgb_folder)
            below = files.folders_in(folder)
            held = next((below[name] for name in _MASK_FOLDERS if name in below), None)
            for name, mask_uri in names_below(held, is_deep=False) if held else ():
                masks[f"{split}/{name}" if split else name] = mask_uri
        pairs = tuple(
            replace(
                pair,
                mask_uri=masks.get(pair.pair_id, ""),
                light=light_of(pair.pair_id),
                alignment="registered",
            )
            for pair in corpus.pairs
        )
        return replace(corpus, reader=self.name, pairs=pairs, mask_classes=MASK_CLASSES if masks else ())
