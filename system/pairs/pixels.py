"""Read the two pictures of a pair, strictly: whole, within limits, of one shape, or a named fault.

Pictures are taken as they are stored; an EXIF orientation is not applied, because boxes and the partner are in stored
pixels. Infrared of 8 bits stays as it is. Deeper infrared (16 bits, float) is mapped to 8 by `InfraredMapping`.
Two pictures of the same shape (within 2 %) but different size: the RGB one is resized to the infrared one. Different
shapes are refused, unless the reader says that the middle of the RGB picture is to be taken (`Pair.crop_rgb`).
Codes: missing_file, unreadable_file, empty_file, too_large, not_an_image, zero_size, truncated_image, one_channel,
channels, not_finite, size_mismatch, wrong_shape, animated.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from pydantic import Field, model_validator

from system.config import FrozenConfig
from system.errors import ConfigError, DataError
from system.pairs import files
from system.pairs.records import Pair

# Others stay closed: some of Pillow's readers start programs (EPS), and corpora are untrusted.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM")
# Shapes that differ by less come from rounding to whole pixels.
SAME_SHAPE = 0.02
# Mean of highest less lowest channel: grey pictures in colour files have 0, JPEGs of them under 2.
_GREY_SPREAD = 6.0
_HEAD_BYTES = 1 << 16
_GREY_MODES = ("1", "L", "LA", "La")
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    AssertionError,
    struct.error,
    zlib.error,
)


class PixelLimits(FrozenConfig):
    """What is refused before it is decoded: files over so many bytes, pictures over so many pixels."""

    max_file_bytes: int = Field(default=128 * 1024**2, gt=0)
    max_pixels: int = Field(default=64_000_000, gt=0, le=178_956_970)


class InfraredMapping(FrozenConfig):
    """How infrared of more than 8 bits becomes 8.

    percentile: linear between two percentiles of each picture, as thermal cameras' own gain control does; contrast is
    good, absolute temperature is lost. range: linear between `low` and `high`, in the picture's own units; what lies
    outside is cut off, and equal values stay equal in all pictures.
    """

    kind: Literal["percentile", "range"] = "percentile"
    low_percentile: float = Field(default=0.5, ge=0, le=100)
    high_percentile: float = Field(default=99.5, ge=0, le=100)
    low: float = Field(default=0.0, allow_inf_nan=False)
    high: float = Field(default=65535.0, allow_inf_nan=False)

    @classmethod
    def of_option(cls, text: str | None) -> InfraredMapping:
        """From `LOW,HIGH`, as on a command line; percentiles where nothing is given.

        Raises:
            ConfigError: it is no rising pair of numbers.
        """
        if text is None:
            return cls()
        try:
            low, high = (float(part) for part in text.split(","))
        except ValueError as error:
            raise ConfigError(f"infrared range {text!r}: expected LOW,HIGH in raw values, e.g. 7000,9000") from error
        return cls.parse({"kind": "range", "low": low, "high": high}, "infrared range")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.low_percentile >= self.high_percentile:
            raise ValueError(f"low_percentile {self.low_percentile} must be below {self.high_percentile}")
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


@dataclass(frozen=True, eq=False)
class PairPixels:
    """Two pictures of one size.

    Attributes:
        rgb_HWC: uint8 [H, W, 3].
        infrared_HWC: uint8 [H, W, 3], one channel three times.
        original_size: (height, width) of the infrared picture as stored, which boxes refer to.
        rgb_original_size: (height, width) of the RGB picture as stored.
        infrared_bits: of a stored infrared value: 8, 16 or 32.
        is_coloured: the infrared picture's channels differ, as no infrared camera's do.
    """

    rgb_HWC: NDArray[np.uint8]
    infrared_HWC: NDArray[np.uint8]
    original_size: tuple[int, int]
    rgb_original_size: tuple[int, int]
    infrared_bits: int = 8
    is_coloured: bool = False


@dataclass(frozen=True, eq=False)
class InfraredPixels:
    """pixels_HW: uint8. bits: of a stored value. is_coloured: its channels differ, as no infrared camera's do."""

    pixels_HW: NDArray[np.uint8]
    bits: int = 8
    is_coloured: bool = False


_DEFAULT_MAPPING, _DEFAULT_LIMITS = InfraredMapping(), PixelLimits()


def read_pair(
    pair: Pair, mapping: InfraredMapping = _DEFAULT_MAPPING, limits: PixelLimits = _DEFAULT_LIMITS
) -> PairPixels:
    """Both pictures of a pair, at the infrared one's size.

    Raises:
        DataError: with one of the codes above and the file.
    """
    if pair.rgb_uri == pair.infrared_uri:
        rgb_HWC, infrared_HW = _four_channels(pair.rgb_uri, limits)
        bits, is_coloured = 8, False
    else:
        rgb_HWC = _rgb(pair.rgb_uri, limits)
        infrared = read_infrared(pair.infrared_uri, mapping, limits)
        infrared_HW, bits, is_coloured = infrared.pixels_HW, infrared.bits, infrared.is_coloured
    size, rgb_size = infrared_HW.shape, rgb_HWC.shape[:2]
    if pair.width and pair.height and len(pair.boxes_xyxy) and size != (pair.height, pair.width):
        raise DataError(
            "wrong_shape",
            f"{pair.infrared_uri}: {size[1]}x{size[0]} pixels, its annotations state {pair.width}x{pair.height}; "
            "its boxes would lie at wrong places",
        )
    rgb_HWC = _same_size(rgb_HWC, size, pair)
    return PairPixels(
        rgb_HWC=np.ascontiguousarray(rgb_HWC),
        infrared_HWC=np.repeat(infrared_HW[..., None], 3, axis=2),
        original_size=(size[0], size[1]),
        rgb_original_size=(rgb_size[0], rgb_size[1]),
        infrared_bits=bits,
        is_coloured=is_coloured,
    )


def read_infrared(
    uri: str, mapping: InfraredMapping = _DEFAULT_MAPPING, limits: PixelLimits = _DEFAULT_LIMITS
) -> InfraredPixels:
    """An infrared picture; of a coloured one, the luminance; of MFNet's four channels, the fourth.

    Raises:
        DataError: as `read_pair`.
    """
    data = files.read_bytes(uri, limits.max_file_bytes)
    return _infrared(_decode(data, uri, limits, is_infrared=True), uri, mapping)


def decode_infrared(
    data: bytes,
    name: str,
    mapping: InfraredMapping = _DEFAULT_MAPPING,
    limits: PixelLimits = _DEFAULT_LIMITS,
    upright: bool = True,
) -> InfraredPixels:
    """An infrared picture of a stranger, whose file lies in memory.

    Args:
        name: what the picture is called in errors.
        upright: turn it as its EXIF orientation says; else it is taken as it is stored.
    Raises:
        DataError: as `read_pair`; `empty_file`, and `animated` where it holds more than one picture.
    """
    if not data:
        raise DataError("empty_file", f"{name}: expected a picture, found 0 bytes")
    if len(data) > limits.max_file_bytes:
        raise DataError("too_large", f"{name}: {len(data)} bytes, expected at most {limits.max_file_bytes}")
    return _infrared(_decode(data, name, limits, of_stranger=upright, is_infrared=True), name, mapping)


def _infrared(image: Image.Image, uri: str, mapping: InfraredMapping) -> InfraredPixels:
    if image.mode.startswith(("I", "F")):
        values_HW = np.asarray(image, dtype=np.float32)
        return InfraredPixels(map_infrared(values_HW, mapping, uri), 16 if image.mode.startswith("I;16") else 32)
    if image.mode == "L":
        return InfraredPixels(np.array(image, dtype=np.uint8))
    if image.mode == "RGBA":
        fourth_HW = np.array(image.getchannel("A"), dtype=np.uint8)
        # An opaque picture's is constant; MFNet's is what its infrared camera saw.
        if fourth_HW.min() < fourth_HW.max():
            return InfraredPixels(fourth_HW)
    return infrared_of(np.asarray(image.convert("RGB")))


def infrared_of(colours_HWC: NDArray[np.uint8]) -> InfraredPixels:
    """An infrared picture that was stored, or filmed, in three colours: their luminance, uint8 [H, W, 3]."""
    spread = float((colours_HWC.max(2).astype(np.float32) - colours_HWC.min(2)).mean())
    pixels_HW = np.array(Image.fromarray(colours_HWC).convert("L"), dtype=np.uint8)
    return InfraredPixels(pixels_HW, is_coloured=spread > _GREY_SPREAD)


def map_infrared(values_HW: NDArray[np.float32], mapping: InfraredMapping, name: str = "picture") -> NDArray[np.uint8]:
    """Values of any range as uint8 [H, W].

    Raises:
        DataError: `not_finite`: some value is no number.
    """
    wrong = int((~np.isfinite(values_HW)).sum())
    if wrong:
        raise DataError("not_finite", f"{name}: {wrong} of {values_HW.size} values are not finite, expected none")
    low, high = mapping.low, mapping.high
    if mapping.kind == "percentile":
        low, high = np.percentile(values_HW, (mapping.low_percentile, mapping.high_percentile))
        if high <= low:  # nearly flat: the few that differ are then the picture
            low, high = float(values_HW.min()), float(values_HW.max())
    scaled_HW = (values_HW.astype(np.float64) - low) / max(float(high - low), 1e-9)
    return (np.clip(scaled_HW, 0.0, 1.0) * 255).round().astype(np.uint8)


def picture_size(uri: str, limits: PixelLimits = _DEFAULT_LIMITS) -> tuple[int, int] | None:
    """(height, width) as its file states it, of which the first bytes are read where they hold it.

    None where it cannot be told; whoever reads the picture will say why.
    """
    for count in (_HEAD_BYTES, limits.max_file_bytes):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                width, height = Image.open(io.BytesIO(files.read_head(uri, count)), formats=FORMATS).size
        except (DataError, UnidentifiedImageError, Image.DecompressionBombError, *_DAMAGED):
            continue
        return height, width
    return None


def read_mask(uri: str, limits: PixelLimits = _DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """A picture of class numbers, uint8 [H, W].

    Raises:
        DataError: as `read_pair`; `channels` where it holds colours instead of numbers.
    """
    image = _open(uri, limits)
    if image.mode not in ("L", "P", "1"):
        raise DataError("channels", f"{uri}: expected one channel of class numbers, found {image.mode}")
    return np.array(image, dtype=np.uint8)


def _rgb(uri: str, limits: PixelLimits) -> NDArray[np.uint8]:
    image = _open(uri, limits)
    if image.mode in _GREY_MODES or image.mode.startswith(("I", "F")):
        raise DataError(
            "one_channel", f"{uri}: expected three colours, found one channel ({image.mode}); are the folders swapped?"
        )
    if image.mode == "P":  # a palette's transparency would be lost with a warning
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _four_channels(uri: str, limits: PixelLimits) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    image = _open(uri, limits)
    if image.mode not in ("RGBA", "CMYK"):
        raise DataError("channels", f"{uri}: expected four channels (RGB and infrared), found {image.mode}")
    values_HWC = np.array(image, dtype=np.uint8)
    return values_HWC[..., :3], values_HWC[..., 3]


def _same_size(rgb_HWC: NDArray[np.uint8], size: tuple[int, ...], pair: Pair) -> NDArray[np.uint8]:
    height, width = rgb_HWC.shape[:2]
    if (height, width) == size:
        return rgb_HWC
    ratio = (width / height) / (size[1] / size[0])
    if abs(ratio - 1) > SAME_SHAPE:
        if not pair.crop_rgb:
            raise DataError(
                "size_mismatch",
                f"{pair.rgb_uri}: {width}x{height} pixels beside infrared of {size[1]}x{size[0]}: expected the same "
                "shape; register the pictures first",
            )
        keep_w, keep_h = (round(width / ratio), height) if ratio > 1 else (width, round(height * ratio))
        top, left = (height - keep_h) // 2, (width - keep_w) // 2
        rgb_HWC = rgb_HWC[top : top + keep_h, left : left + keep_w]
    is_smaller = size[0] * size[1] < rgb_HWC.shape[0] * rgb_HWC.shape[1]
    resized = cv2.resize(rgb_HWC, (size[1], size[0]), interpolation=cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR)
    return resized.astype(np.uint8, copy=False)


def _open(uri: str, limits: PixelLimits) -> Image.Image:
    """A whole picture, decoded."""
    return _decode(files.read_bytes(uri, limits.max_file_bytes), uri, limits)


def _decode(
    data: bytes, uri: str, limits: PixelLimits, of_stranger: bool = False, is_infrared: bool = False
) -> Image.Image:
    """A whole picture.

    Args:
        of_stranger: one picture only, and turned upright, where we promise nothing of stored pixels.
        is_infrared: whose values are not cut to their upper 8 bits, as Pillow does to three channels of 16.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise DataError("truncated_image", f"{uri}: Pillow was told to accept truncated pictures; expected not")
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of pictures over its own limit; ours is checked before anything is decoded.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width < 1 or height < 1:
                raise DataError("zero_size", f"{uri}: {width}x{height} pixels, expected at least 1x1")
            if width * height > limits.max_pixels:
                found = f"{width}x{height}"
                raise DataError("too_large", f"{uri}: {found} pixels, expected at most {limits.max_pixels}")
            if of_stranger and getattr(image, "is_animated", False):
                raise DataError("animated", f"{uri}: {image.n_frames} pictures in one file, expected one")  # type: ignore[attr-defined]
            is_deep = any(";16" in str(part[3]) for part in image.tile) and not image.mode.startswith("I")
            if is_infrared and is_deep:
                raise DataError(
                    "channels", f"{uri}: {image.mode} of 16 bits a channel: expected one channel of 16 bits"
                )
            image.load()
            return ImageOps.exif_transpose(image) if of_stranger else image
        except UnidentifiedImageError as error:
            found = f"found {data[:8].hex(' ')} ..."
            raise DataError("not_an_image", f"{uri}: expected one of {', '.join(FORMATS)}, {found}") from error
        except Image.DecompressionBombError as error:
            raise DataError("too_large", f"{uri}: expected at most {limits.max_pixels} pixels: {error}") from error
        except _DAMAGED as error:
            raise DataError("truncated_image", f"{uri}: expected a whole picture: {error}") from error
