"""What a check of pairs found, in figures and in words.

Legend: N pairs of a corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from system.pairs.examine import Findings
from system.pairs.misalignment import CONFIDENT
from system.pairs.records import Pair, PairCorpus

_MOST_NAMED = 5
_MOST_SIZES = 10
_SHIFT_KEYS = ("confident", "median_dx_px", "median_dy_px", "p50_px", "p90_px", "drift_p50_px", "drift_p90_px")


class Seen:
    """What was found of the N pairs of a corpus, in about a hundred bytes each."""

    def __init__(self, count: int) -> None:
        self.is_read_N = np.zeros(count, bool)
        self.hashes_N2 = np.zeros((count, 2), np.uint64)
        self.digests_N = np.zeros(count, np.uint64)
        # dx, dy (px, NaN where unknown), confidence
        self.shifts_N3 = np.full((count, 3), np.nan, np.float32)
        self.lights: list[str] = [""] * count
        self.sizes: Counter[str] = Counter()
        self.bits: Counter[int] = Counter()
        self.light_counts: Counter[tuple[str, str]] = Counter()
        self.notes: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.messages: dict[str, str] = {}

    def add(self, place: int, found: Findings) -> None:
        """Count one pair in."""
        if found.code or found.shift is None or found.rgb_size is None or found.infrared_size is None:
            self.codes[found.code] += 1
            self.messages.setdefault(found.code, f"{found.pair_id}: {found.message}")
            return
        self.is_read_N[place] = True
        self.hashes_N2[place] = found.rgb_hash, found.infrared_hash
        self.digests_N[place] = found.digest
        self.shifts_N3[place] = found.shift.dx_px, found.shift.dy_px, found.shift.confidence
        self.lights[place] = f"{found.light} by {found.light_by}"
        self.sizes[f"{_size(found.rgb_size)} and {_size(found.infrared_size)}"] += 1
        self.bits[found.infrared_bits or 0] += 1
        self.light_counts[found.light, found.light_by] += 1
        self.notes.update(found.notes)

    def worth_seeing(self, count: int) -> list[int]:
        """Places for a contact sheet: half spread evenly, half those that confidently lie farthest off."""
        read = np.flatnonzero(self.is_read_N)
        if len(read) <= count:
            return [int(k) for k in read]
        length = np.hypot(self.shifts_N3[:, 0], self.shifts_N3[:, 1])
        length[~(self.shifts_N3[:, 2] >= CONFIDENT)] = -1
        farthest = [int(k) for k in np.argsort(-length, kind="stable")[: count // 2] if length[k] >= 0]
        rest = np.setdiff1d(read, farthest)
        even = rest[np.linspace(0, len(rest) - 1, count - len(farthest)).round().astype(int)]
        return [int(k) for k in even] + farthest


def summarise(uris: Sequence[str], corpora: Sequence[PairCorpus], seen: Sequence[Seen]) -> dict[str, Any]:
    """The figures of all corpora, one entry each, and their sums."""
    told = [_corpus(uri, corpus, one) for uri, corpus, one in zip(uris, corpora, seen, strict=True)]
    return {
        "pairs": sum(entry["pairs"] for entry in told),
        "unreadable": sum(entry["unreadable"] for entry in told),
        "unmatched": sum(entry["unmatched"] for entry in told),
        "corpora": told,
    }


def sheet_title(corpus: PairCorpus, figures: dict[str, Any], shown: int) -> str:
    """Two lines over a contact sheet of `shown` pairs."""
    shift = figures["shift"]
    which = "all pairs" if shown >= figures["readable"] else "first half spread evenly, second half farthest off"
    return (
        f"{corpus.name}: {figures['pairs']} pairs, read as {corpus.reader} ({corpus.why}); "
        f"{figures['unmatched']} unmatched, {figures['unreadable']} unreadable\n"
        f"{shift['confident']} confident shifts: median dx {shift['median_dx_px']}, dy {shift['median_dy_px']} px. "
        f"Infrared stretched. Edges: RGB red, infrared cyan, both white. Shown: {which}"
    )


def sheet_lines(pair: Pair, seen: Seen, place: int) -> tuple[str, ...]:
    """What is written under a pair."""
    dx, dy, confidence = (float(value) for value in seen.shifts_N3[place])
    believed = "" if confidence >= CONFIDENT else " (not to be believed)"
    return (
        f"{pair.pair_id}  {seen.lights[place]}  {len(pair.boxes_xyxy)} boxes",
        f"infrared lies dx {dx:+.1f}, dy {dy:+.1f} px, confidence {confidence:.2f}{believed}",
    )


def _corpus(uri: str, corpus: PairCorpus, seen: Seen) -> dict[str, Any]:
    boxes: Counter[int] = Counter()
    for pair in corpus.pairs:
        boxes.update(pair.labels[~pair.is_ignored].tolist())
    faults = Counter(fault.code for fault in corpus.faults)
    return {
        "uri": uri,
        "name": corpus.name,
        "reader": corpus.reader,
        "why": corpus.why,
        "pairs": len(corpus.pairs),
        "readable": int(seen.is_read_N.sum()),
        "unreadable": sum(seen.codes.values()),
        "unmatched": len(corpus.unmatched),
        "unmatched_examples": list(corpus.unmatched[:_MOST_NAMED]),
        "skipped": sum(fault.is_skipped for fault in corpus.faults),
        "faults": dict(faults + seen.codes),
        "fault_examples": [str(fault)[:300] for fault in corpus.faults[:_MOST_NAMED]]
        + [f"{code}: {told}"[:300] for code, told in list(seen.messages.items())[:_MOST_NAMED]],
        "sizes": dict(seen.sizes.most_common(_MOST_SIZES)),
        "other_sizes": max(0, len(seen.sizes) - _MOST_SIZES),
        "infrared_bits": {str(bits): count for bits, count in seen.bits.items()},
        "light": {f"{light} by {by}": count for (light, by), count in sorted(seen.light_counts.items())},
        "boxes": {name: boxes[k] for k, name in enumerate(corpus.categories)},
        "labelled": sum(pair.is_labelled for pair in corpus.pairs),
        "masks": sum(bool(pair.mask_uri) for pair in corpus.pairs),
        "alignment": dict(Counter(pair.alignment for pair in corpus.pairs)),
        "shift": _shift(seen),
        "notes": dict(seen.notes),
    }


def _shift(seen: Seen) -> dict[str, Any]:
    """Of the pairs whose shift is to be believed: the common shift, and how far single pairs lie from it."""
    confident = seen.shifts_N3[seen.shifts_N3[:, 2] >= CONFIDENT, :2]
    if not len(confident):
        return dict.fromkeys(_SHIFT_KEYS) | {"confident": 0}
    middle = np.median(confident, axis=0)
    spread = np.hypot(*(confident - middle).T)
    length = np.hypot(*confident.T)
    return {
        "confident": len(confident),
        "median_dx_px": round(float(middle[0]), 1) + 0.0,
        "median_dy_px": round(float(middle[1]), 1) + 0.0,
        "p50_px": round(float(np.percentile(length, 50)), 1),
        "p90_px": round(float(np.percentile(length, 90)), 1),
        "drift_p50_px": round(float(np.percentile(spread, 50)), 1),
        "drift_p90_px": round(float(np.percentile(spread, 90)), 1),
    }


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
