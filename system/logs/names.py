"""What file and topic names say: numbered sequences, times, infrared cameras."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import gcd

from system.logs import files
from system.records import Modality

# Taken for pictures that carry a number and no time.
ASSUMED_HZ = 10.0
# Fewer pictures are no video; and of a video's steps nearly all are alike, where stills of a data set leave odd gaps.
LEAST_PICTURES, LEAST_EVEN_SHARE = 3, 0.8
_NUMBERED = re.compile(r"(.*?)(\d+)([^\d/]*\.[A-Za-z]+)", re.DOTALL)
# Unix times by their count of digits: ns, us, ms.
_UNIT_NS = {19: 1, 16: 1_000, 13: 1_000_000}
_LEAST_TIME_NS, _LAST_TIME_NS = 631_152_000 * 10**9, 4_102_444_800 * 10**9  # years 1990 to 2100
# Pictures that usually lie further apart in time are no video.
_LARGEST_STEP_NS = 60 * 10**9
_INFRARED = re.compile(r"(?:^|[^a-z])(?:infrared|thermal|lwir|flir|ir)(?:[^a-z]|$)")


@dataclass(frozen=True)
class NumberedNames:
    """Names that differ in one number, in its order.

    Attributes:
        pattern: the names with "*" for the number.
        t_ns: from Unix times in the names, or from the first picture on at ASSUMED_HZ.
        is_time_known: which of the two.
    """

    pattern: str
    names: tuple[str, ...]
    t_ns: tuple[int, ...]
    is_time_known: bool


def group_names(names: Iterable[str]) -> tuple[list[NumberedNames], list[str]]:
    """(numbered sequences by pattern, names that belong to none), both sorted."""
    by_pattern: dict[str, dict[int, str]] = {}
    singles: list[str] = []
    for name in sorted(names):
        match = _NUMBERED.fullmatch(name)
        number = int(match[2]) if match and "*" not in name and len(match[2]) <= 19 else None
        numbers = by_pattern.setdefault(f"{match[1]}*{match[3]}", {}) if match and number is not None else {}
        if number is None or number in numbers:
            singles.append(name)
        else:
            numbers[number] = name
    sequences = []
    for pattern, numbers in sorted(by_pattern.items()):
        t_ns, is_time_known = _times_ns(sorted(numbers), numbers)
        if t_ns:
            in_order = tuple(numbers[number] for number in sorted(numbers))
            sequences.append(NumberedNames(pattern, in_order, t_ns, is_time_known))
        else:
            singles += numbers.values()
    return sequences, sorted(singles)


def _times_ns(numbers: list[int], names: dict[int, str]) -> tuple[tuple[int, ...], bool]:
    """(times of sorted numbers, whether they are real); no times where the numbers are not those of a video."""
    unit = _UNIT_NS.get(len(str(numbers[0])))
    if unit and numbers[0] * unit >= _LEAST_TIME_NS and numbers[-1] * unit <= _LAST_TIME_NS:
        gaps = sorted(b - a for a, b in pairwise(numbers))
        if gaps and gaps[len(gaps) // 2] * unit > _LARGEST_STEP_NS:
            return (), False  # stills of different occasions
        return tuple(number * unit for number in numbers), True
    if len(numbers) < LEAST_PICTURES:
        return (), False
    steps = [b - a for a, b in pairwise(numbers)]
    step = gcd(*steps)
    if sum(each == step for each in steps) < LEAST_EVEN_SHARE * len(steps):
        return (), False
    return tuple(round((number - numbers[0]) // step * 1e9 / ASSUMED_HZ) for number in numbers), False


def modality_of(name: str) -> Modality:
    """Infrared where a name says so in a word of its own ("thermal", "lwir", "ir"), else rgb."""
    return "infrared" if _INFRARED.search(name.lower()) else "rgb"


def place_digest(uri: str) -> str:
    """8 hexadecimal digits of where something lies, for logs whose names alone (0001.jpg) would not tell them apart."""
    _, path = files.filesystem(uri)
    return hashlib.blake2b(path.rstrip("/").encode(), digest_size=4).hexdigest()
