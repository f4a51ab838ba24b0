"""What the pixels of one pair tell: sizes, brightness, shift, marks for finding copies; or what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from system.errors import DataError, storage_errors
from system.pairs.fingerprint import perceptual_hash, pixel_digest
from system.pairs.light import light_of_luminance, luminance
from system.pairs.misalignment import PixelShift, estimate_shift
from system.pairs.pixels import InfraredMapping, PairPixels, PixelLimits, read_pair
from system.pairs.records import Light, Pair

# Of 255; lens caps and frozen sensors lie under it, fog and unlit nights above.
_BLANK_SPREAD = 1.0
# Of 255: colour channels of a grey picture saved as JPEG differ by less.
_GREY_SPREAD = 3.0


@dataclass(frozen=True)
class Findings:
    """Of one pair; numbers are None where it cannot be read, and `code` and `message` then say why.

    Attributes:
        rgb_size, infrared_size: (height, width) as stored.
        light_by: "names", or "luminance" where they do not say.
        notes: what a reader may want to look at: grey_rgb, blank_rgb, coloured_infrared,
            blank_infrared, same_picture, rgb_resized.
        rgb_hash, infrared_hash: `perceptual_hash`. digest: `pixel_digest`.
    """

    pair_id: str
    code: str = ""
    message: str = ""
    rgb_size: tuple[int, int] | None = None
    infrared_size: tuple[int, int] | None = None
    infrared_bits: int | None = None
    luminance: float | None = None
    light: Light = ""
    light_by: str = ""
    shift: PixelShift | None = None
    notes: tuple[str, ...] = ()
    rgb_hash: int = 0
    infrared_hash: int = 0
    digest: int = 0


def examine_pair(pair: Pair, mapping: InfraredMapping, limits: PixelLimits) -> Findings:
    """Read a pair and look at it; what cannot be read is a finding, never an exception."""
    try:
        pixels = read_pair(pair, mapping, limits)
        shift = estimate_shift(pixels.rgb_HWC, pixels.infrared_HWC)
    except DataError as error:
        return Findings(pair.pair_id, error.code, error.message)
    except storage_errors() as error:
        return Findings(pair.pair_id, "unreadable_file", f"{pair.rgb_uri}: {type(error).__name__}: {error}")
    brightness = luminance(pixels.rgb_HWC)
    return Findings(
        pair_id=pair.pair_id,
        rgb_size=pixels.rgb_original_size,
        infrared_size=pixels.original_size,
        infrared_bits=pixels.infrared_bits,
        luminance=brightness,
        light=pair.light or light_of_luminance(brightness),
        light_by="names" if pair.light else "luminance",
        shift=shift,
        notes=_notes(pixels),
        rgb_hash=perceptual_hash(pixels.rgb_HWC),
        infrared_hash=perceptual_hash(pixels.infrared_HWC),
        digest=pixel_digest(pixels.rgb_HWC, pixels.infrared_HWC),
    )


def _notes(pixels: PairPixels) -> tuple[str, ...]:
    rgb_HWC, infrared_HW = pixels.rgb_HWC, pixels.infrared_HWC[..., 0]
    grey_HW = cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2GRAY)
    notes = []
    if _spread_of_colours(rgb_HWC) < _GREY_SPREAD:
        notes.append("grey_rgb")
    if float(grey_HW.std()) < _BLANK_SPREAD:
        notes.append("blank_rgb")
    if pixels.is_coloured:
        notes.append("coloured_infrared")
    if float(infrared_HW.std()) < _BLANK_SPREAD:
        notes.append("blank_infrared")
    elif float(np.abs(grey_HW.astype(np.int16) - infrared_HW).mean()) < _BLANK_SPREAD:
        notes.append("same_picture")
    if pixels.rgb_original_size != pixels.original_size:
        notes.append("rgb_resized")
    return tuple(notes)


def _spread_of_colours(rgb_HWC: NDArray[np.uint8]) -> float:
    """Distance between the strongest and the weakest channel, of all but the most colourful twentieth of the pixels."""
    distance_HW = rgb_HWC.max(axis=2).astype(np.int16) - rgb_HWC.min(axis=2)
    return float(np.percentile(distance_HW, 95))
