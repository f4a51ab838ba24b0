"""Find partners by name: pictures of two folders whose relative paths agree but for the suffix."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from system.pairs import files
from system.pairs.records import PairFault

# What makers append to tell the two pictures of a pair apart: 0001_rgb.png, 0001_ir.png.
_MODALITY = re.compile(r"[_\-. ](rgb|visible|vis|vi|color|colour|infrared|ir|thermal|lwir|tir|preview)$", re.IGNORECASE)
# What makers call the parts of a corpus, and what they are called here.
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "video": "video",
    "video_train": "train",
    "video_val": "val",
    "video_test": "test",
}


@dataclass(frozen=True)
class Matched:
    """names: {name: (rgb URI, infrared URI)} in sorted order. infrared_alone: {name: ("", infrared URI)}, likewise; of
    pictures without a partner, whose URIs are among `unmatched`. infrared_alone_faults: of names that no RGB has."""

    names: Mapping[str, tuple[str, str]]
    infrared_alone: Mapping[str, tuple[str, str]]
    unmatched: tuple[str, ...]
    faults: tuple[PairFault, ...]
    infrared_alone_faults: tuple[PairFault, ...]


def match_names(rgb: Iterable[tuple[str, str]], infrared: Iterable[tuple[str, str]]) -> Matched:
    """Match two lists of (name, URI).

    Faults: `ambiguous_name`: two pictures of one side share a name; neither is used.
    """
    sides, faults = [], []
    for side in (rgb, infrared):
        by_name: dict[str, list[str]] = {}
        for name, uri in side:
            by_name.setdefault(name, []).append(uri)
        sides.append(by_name)
    both = sides[0].keys() & sides[1].keys()
    names = {}
    for name in sorted(both):
        found = [*sides[0][name], *sides[1][name]]
        if len(found) == 2:
            names[name] = (found[0], found[1])
        else:
            told = f"expected one RGB and one infrared picture of this name, found {', '.join(found)}"
            faults.append(PairFault(name, "ambiguous_name", told))
    unmatched = [uri for name, found in sides[0].items() if name not in both for uri in found]
    infrared_alone, alone_faults = {}, []
    for name in sorted(sides[1].keys() - both):
        found = sides[1][name]
        unmatched += found
        if len(found) == 1:
            infrared_alone[name] = ("", found[0])
        else:
            told = f"expected one infrared picture of this name, found {', '.join(found)}"
            alone_faults.append(PairFault(name, "ambiguous_name", told))
    return Matched(names, infrared_alone, tuple(sorted(unmatched)), tuple(faults), tuple(alone_faults))


def names_below(folder: str, is_deep: bool = True) -> list[tuple[str, str]]:
    """(relative path without suffix, URI) of every picture below a folder."""
    return [
        (posixpath.splitext(uri[len(folder.rstrip("/")) + 1 :])[0], uri)
        for uri in files.pictures_below(folder, is_deep)
    ]


def without_modality(names: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same, without the word for the modality at the end of a name."""
    return [(_MODALITY.sub("", name), uri) for name, uri in names]


def split_of(name: str) -> str:
    """The split (train, val, test or video) that the first part of a relative path names, else ""."""
    first, separator, _ = name.partition("/")
    return _SPLITS.get(first.lower(), "") if separator else ""
