"""Decode one picture that lies in memory, strictly: whole, within limits, or a named fault.

Pillow decodes: it refuses a truncated picture, and decodes a JPEG at a half, a quarter or an eighth (draft mode).

Calibration speaks of pixels as they are stored, so a calibrated picture is never turned; a picture without intrinsics
is turned upright by its EXIF orientation, as a tower knows no sideways streets.
Grey, palette and 16-bit pictures become RGB; of 16 bits the range between two percentiles is stretched to 8, because
infrared cameras fill a part of the range only; transparency is dropped; of an animation the first picture is taken.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from pydantic import Field

from system.config import FrozenConfig
from system.errors import DataError

# Formats that cameras and data sets write. Others stay closed: some of Pillow's readers start programs (EPS) or are
# rarely exercised, and what lies in a fleet's logs is untrusted.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM", "GIF")
# Shares of the pixels of a 16-bit picture that may clip below and above, as thermal cameras' own gain control does.
STRETCH_PERCENTILES = (0.5, 99.5)
# Pillow itself refuses more than this, so a larger limit would not be kept.
_PILLOW_MAX_PIXELS = 178_956_970
_EXIF_ORIENTATION = 0x0112
# What makes a picture of each EXIF orientation upright (EXIF 2.32, tag 274).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
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


class PictureLimits(FrozenConfig):
    """What is refused before it is decoded: files over so many bytes, pictures over so many pixels."""

    max_file_bytes: int = Field(default=64 * 1024**2, gt=0)
    max_pixels: int = Field(default=100_000_000, gt=0, le=_PILLOW_MAX_PIXELS)


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture. rgb_HWC: uint8; full_width, full_height: its size as stored, before scaled decoding."""

    rgb_HWC: NDArray[np.uint8]
    full_width: int
    full_height: int


def decode_picture(
    data: bytes, name: str, limits: PictureLimits, min_side: int | None = None, upright: bool = False
) -> Picture:
    """Decode an image file that lies in memory.

    Args:
        name: what the picture is called in errors.
        min_side: if given, a JPEG may be decoded at a half, a quarter or an eighth, its short side never under this.
        upright: turn the picture as its EXIF orientation says; full_width and full_height are turned too.
    Raises:
        DataError: empty_file, too_large, not_an_image, zero_size, truncated_image.
    """
    if not data:
        raise DataError("empty_file", f"{name}: expected a picture, found 0 bytes")
    if len(data) > limits.max_file_bytes:
        raise DataError("too_large", f"{name}: {len(data)} bytes, expected at most {limits.max_file_bytes}")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise DataError("truncated_image", f"{name}: Pillow was told to accept truncated pictures; expected not")
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of pictures over its own limit; ours is checked before anything is decoded.
        warnings.simplefilter("ignore")
        try:
            return _decode(data, name, limits, min_side, upright)
        except UnidentifiedImageError as error:
            found = f"found {data[:8].hex(' ')} ..."
            raise DataError("not_an_image", f"{name}: expected one of {', '.join(FORMATS)}, {found}") from error
        except Image.DecompressionBombError as error:
            raise DataError("too_large", f"{name}: expected at most {limits.max_pixels} pixels: {error}") from error
        except _DAMAGED as error:
            raise DataError("truncated_image", f"{name}: expected a whole picture: {error}") from error


def _decode(data: bytes, name: str, limits: PictureLimits, min_side: int | None, upright: bool) -> Picture:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        check_size(width, height, name, limits)
        if min_side is not None and isinstance(image, JpegImageFile):
            # Draft mode takes the smallest scale that stays at or above what is asked, on both sides.
            scale = min_side / min(width, height)
            if scale < 1:
                image.draft("RGB", (max(1, round(width * scale)), max(1, round(height * scale))))
        image.load()
        orientation = _orientation(image) if upright else 1
        turned = image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
        if orientation >= 5:
            width, height = height, width
        if turned.mode.startswith(("I", "F")):
            return Picture(stretched(np.asarray(turned, dtype=np.float32)), width, height)
        if turned.mode == "P":  # a palette's transparency would be lost with a warning
            turned = turned.convert("RGBA")
        return Picture(np.array(turned.convert("RGB"), dtype=np.uint8), width, height)


def check_size(width: int, height: int, name: str, limits: PictureLimits) -> None:
    """Refuse a picture by its stated size.

    Raises:
        DataError: zero_size, too_large.
    """
    if width < 1 or height < 1:
        raise DataError("zero_size", f"{name}: {width}x{height} pixels, expected at least 1x1")
    if width * height > limits.max_pixels:
        raise DataError("too_large", f"{name}: {width}x{height} pixels, expected at most {limits.max_pixels}")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 (upright) to 8. Unreadable metadata says nothing, and the pixels are none the worse."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _DAMAGED:
        return 1
    return value if value in range(1, 9) else 1


def stretched(values_HW: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Grey values of any range as RGB [H, W, 3] uint8, linear between STRETCH_PERCENTILES; not-a-number is black."""
    is_known = np.isfinite(values_HW)
    known = values_HW[is_known]
    if not known.size:
        return np.zeros((*values_HW.shape, 3), np.uint8)
    low, high = np.percentile(known, STRETCH_PERCENTILES)
    if high <= low:  # nearly flat: the few that differ are then the picture
        low, high = float(known.min()), float(known.max())
    scaled = (np.where(is_known, values_HW, low) - low) / max(float(high - low), 1e-9)
    return np.repeat((np.clip(scaled, 0.0, 1.0) * 255).round().astype(np.uint8)[..., None], 3, axis=2)
