"""MFNet: images/NAME.png of four channels (RGB and infrared) and labels/NAME.png of class numbers.

Names end in D (day) or N (night). Mirrored copies (NAME_flip.png), which its makers wrote, are left out.
"""

from __future__ import annotations

import re

from system.errors import DataError
from system.pairs import files
from system.pairs.records import Light, Pair, PairCorpus

MASK_CLASSES = (
    "unlabelled",
    "car",
    "person",
    "bike",
    "curve",
    "car_stop",
    "guardrail",
    "color_cone",
    "bump",
)  # by number, as its makers list them
_PNG_HEAD_BYTES = 26
_PNG_RGBA = 6


class MfnetReader:
    """Reads the folder that holds images/ and labels/."""

    name = "mfnet"
    looks_for = "images/ with PNG files of four channels"

    def recognise(self, uri: str) -> str | None:
        folder = files.folders_in(uri).get("images") if files.is_folder(uri) else None
        first = next((p for p in files.pictures_in(folder) if p.lower().endswith(".png")), None) if folder else None
        return f"images/{files.name(first)} has four channels" if first and _has_four_channels(first) else None

    def read(self, uri: str) -> PairCorpus:
        below = files.folders_in(uri)
        masks = {files.stem(mask): mask for mask in files.pictures_in(below["labels"])} if "labels" in below else {}
        name = files.name(uri)
        pictures = [p for p in files.pictures_in(below["images"]) if not files.stem(p).endswith("_flip")]
        pairs = tuple(
            Pair(
                pair_id=files.stem(picture),
                corpus=name,
                rgb_uri=picture,
                infrared_uri=picture,
                mask_uri=masks.get(files.stem(picture), ""),
                light=light_of(files.stem(picture)),
                alignment="nominal",
            )
            for picture in pictures
        )
        held = {pair.pair_id for pair in pairs}
        alone = tuple(m for stem, m in sorted(masks.items()) if stem not in held and not stem.endswith("_flip"))
        return PairCorpus(name, self.name, pairs, unmatched=alone, mask_classes=MASK_CLASSES if masks else ())


def light_of(name: str) -> Light:
    """Day or night by a name like 00001D; "" for others."""
    found = re.search(r"\d([DN])$", name)
    return "" if found is None else "day" if found[1] == "D" else "night"


def _has_four_channels(uri: str) -> bool:
    try:
        head = files.read_head(uri, _PNG_HEAD_BYTES)
    except DataError:
        return False
    return head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == _PNG_HEAD_BYTES and head[25] == _PNG_RGBA
