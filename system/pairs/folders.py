"""Two plain folders, one of RGB and one of infrared pictures, matched by name. Nothing else is known of the pairs.

ROOT/{visible|vi|vis|rgb|...}/**.png  and  ROOT/{infrared|ir|lwir|thermal|...}/**.png
ROOT/{train|val|test|...}/ with two such folders each
RGB_FOLDER::INFRARED_FOLDER
"""

from __future__ import annotations

from system.errors import FormatError
from system.pairs import files
from system.pairs.matching import Matched, match_names, names_below, split_of, without_modality
from system.pairs.reader import known_alignment
from system.pairs.records import Pair, PairCorpus

RGB_FOLDERS = ("visible", "vi", "vis", "rgb", "color", "colour", "visible_images", "rgb_images")
INFRARED_FOLDERS = ("infrared", "ir", "lwir", "thermal", "tir", "thermal_8_bit", "infrared_images", "thermal_images")


class FoldersReader:
    """Reads two plain folders."""

    name = "folders"
    looks_for = (
        f"a folder called one of {', '.join(RGB_FOLDERS)} beside one called one of {', '.join(INFRARED_FOLDERS)}, or "
        "RGB_FOLDER::INFRARED_FOLDER"
    )

    def recognise(self, uri: str) -> str | None:
        if "::" in uri and not files.is_folder(uri):
            return "two folders were named"
        sides = two_sides(uri)
        return f"{files.name(sides[0][1])} beside {files.name(sides[0][2])}" if sides else None

    def read(self, uri: str) -> PairCorpus:
        if "::" in uri and not files.is_folder(uri):
            parts = uri.split("::")
            if len(parts) != 2:
                raise FormatError("bad_uri", f"{uri}: expected RGB_FOLDER::INFRARED_FOLDER, found {len(parts)} parts")
            sides, root = [("", parts[0], parts[1])], files.parent(parts[0])
        else:
            sides, root = two_sides(uri), uri
        matched = match_sides(sides)
        name = files.name(root)
        pairs = tuple(
            Pair(
                pair_id=pair_id,
                corpus=name,
                rgb_uri=rgb_uri,
                infrared_uri=infrared_uri,
                alignment=known_alignment(rgb_uri),
                split=split_of(pair_id),
            )
            for pair_id, (rgb_uri, infrared_uri) in matched.names.items()
        )
        return PairCorpus(name, self.name, pairs, unmatched=matched.unmatched, faults=matched.faults)


def two_sides(uri: str) -> list[tuple[str, str, str]]:
    """[(split or "", RGB folder, infrared folder)] of a folder or of its splits; empty if there are none."""
    if not files.is_folder(uri):
        return []
    below = files.folders_in(uri)
    here = _sides_of(below)
    if here:
        return [("", *here)]
    found = []
    for split, folder in sorted(below.items()):
        if split_of(f"{split}/"):
            sides = _sides_of(files.folders_in(folder))
            found += [(split, *sides)] if sides else []
    return found


def match_sides(sides: list[tuple[str, str, str]]) -> Matched:
    """Partners of all splits together; names begin with the split."""
    rgb: list[tuple[str, str]] = []
    infrared: list[tuple[str, str]] = []
    for split, rgb_folder, infrared_folder in sides:
        for names, folder in ((rgb, rgb_folder), (infrared, infrared_folder)):
            names += [(f"{split}/{name}" if split else name, uri) for name, uri in names_below(folder)]
    matched = match_names(rgb, infrared)
    # Words for the modality are taken off only where whole names find nobody: they may be a part of a name.
    return matched if matched.names else match_names(without_modality(rgb), without_modality(infrared))


def _sides_of(folders: dict[str, str]) -> tuple[str, str] | None:
    by_lower = {name.lower(): uri for name, uri in folders.items()}
    rgb = next((by_lower[name] for name in RGB_FOLDERS if name in by_lower), None)
    infrared = next((by_lower[name] for name in INFRARED_FOLDERS if name in by_lower), None)
    return (rgb, infrared) if rgb and infrared else None
