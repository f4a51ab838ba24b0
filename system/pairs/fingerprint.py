"""Short marks of pictures, by which copies and near copies are found in a corpus of any size.

Legend: N pairs, W words of 64 bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE_PX, _KEPT = 32, 8
# Of the 128 bits of a pair, RGB and infrared together.
ALIKE_BITS = 7
# With one band more than bits may differ, some band is the same in both (pigeonhole).
_BANDS = ALIKE_BITS + 1
# In a band, each is compared with so many that follow: fixed cameras make thousands fall together.
_NEIGHBOURS = 64


@dataclass(frozen=True)
class Duplicate:
    """Two pairs by their places. bits: of 128 that differ; is_exact: all pixels agree."""

    first: int
    second: int
    bits: int
    is_exact: bool


def perceptual_hash(image_HWC: NDArray[np.uint8]) -> int:
    """64 bits of what a picture looks like: the signs of its lowest cosine frequencies against their median.

    Re-compression and resizing change few of them.
    """
    grey = image_HWC if image_HWC.ndim == 2 else cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_KEPT, :_KEPT].ravel()
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def pixel_digest(rgb_HWC: NDArray[np.uint8], infrared_HWC: NDArray[np.uint8]) -> int:
    """64 bits of all pixels of a pair: equal for copies only."""
    digest = hashlib.blake2b(digest_size=8)
    for image in (rgb_HWC, infrared_HWC):
        digest.update(repr(image.shape).encode())
        digest.update(image.tobytes())
    return int.from_bytes(digest.digest(), "big")


def find_duplicates(
    hashes_NW: NDArray[np.uint64], digests_N: NDArray[np.uint64], most: int = 100_000
) -> list[Duplicate]:
    """Pairs of pairs whose marks differ by at most ALIKE_BITS, nearest first.

    Each is compared with those that share a band of 16 bits; in a band with more than 64 others, with the 64 next to it
    in the order of all bits, so that the work grows with N and not with its square.

    Args:
        hashes_NW: uint64 [N, 2], `perceptual_hash` of the RGB and of the infrared picture.
        digests_N: uint64 [N], `pixel_digest`.
        most: so many are returned at most.
    """
    bytes_NB = np.ascontiguousarray(hashes_NW.astype(">u8")).view(np.uint8).reshape(len(hashes_NW), 16)
    found: dict[tuple[int, int], int] = {}
    for band in range(_BANDS):
        turned = np.roll(bytes_NB, -2 * band, axis=1)
        order = np.lexsort(turned.T[::-1])
        keys = turned[order, 0].astype(np.uint32) << 8 | turned[order, 1]
        for step in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            same = np.flatnonzero(keys[step:] == keys[:-step])
            if not same.size:
                break
            a, b = order[same], order[same + step]
            bits = np.bitwise_count(bytes_NB[a] ^ bytes_NB[b]).sum(axis=1)
            near = np.flatnonzero(bits <= ALIKE_BITS)
            for i, j, count in zip(a[near], b[near], bits[near], strict=True):
                found[min(int(i), int(j)), max(int(i), int(j))] = int(count)
        if len(found) > most:
            break
    found_by_bits = sorted(found.items(), key=lambda item: (item[1], item[0]))[:most]
    return [Duplicate(i, j, bits, bool(digests_N[i] == digests_N[j])) for (i, j), bits in found_by_bits]


def count_groups(duplicates: Sequence[Duplicate]) -> int:
    """How many groups of alike pairs there are: pairs linked through others count as one group."""
    leader: dict[int, int] = {}

    def find(k: int) -> int:
        while leader.setdefault(k, k) != k:
            leader[k] = leader[leader[k]]
            k = leader[k]
        return k

    for duplicate in duplicates:
        leader[find(duplicate.first)] = find(duplicate.second)
    return len({find(k) for k in list(leader)})
