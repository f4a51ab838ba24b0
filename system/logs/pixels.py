"""Read and decode pictures, whatever holds them, and name every fault.

Pixels stay as they are stored: an EXIF orientation is not applied, because the calibration speaks of stored pixels.
Grey, palette and 16-bit pictures become RGB; 16 bits are scaled from their own minimum and maximum, as infrared
cameras fill a part of the range only; transparency is dropped.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError
from pydantic import Field

from system.config import FrozenConfig
from system.errors import DataError
from system.logs import files
from system.records import Frame

Read = Callable[[Sequence[Frame], "PictureLimits", int | None], "list[Picture | DataError]"]


class PictureLimits(FrozenConfig):
    """What is refused before it is decoded: files over so many bytes, pictures over so many pixels."""

    max_file_bytes: int = Field(default=64 * 1024**2, gt=0)
    max_pixels: int = Field(default=100_000_000, gt=0)


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture. rgb_HWC: uint8; full_width, full_height: its size as stored, before scaled decoding."""

    rgb_HWC: NDArray[np.uint8]
    full_width: int
    full_height: int


def read_window_pictures(
    frames: Sequence[Frame], limits: PictureLimits, min_side: int | None = None
) -> list[Picture | DataError]:
    """Read the pictures of a window; each file is opened once.

    Args:
        min_side: if given, a JPEG may be decoded at a half, a quarter or an eighth, its short side never under this.
    Returns:
        For each frame, in order, its picture or what is wrong with it.
    """
    by_file: dict[str, list[int]] = {}
    for k, frame in enumerate(frames):
        by_file.setdefault(frame.uri, []).append(k)
    pictures: list[Picture | DataError] = [DataError("unread", "never read")] * len(frames)
    for numbers in by_file.values():
        together = [frames[k] for k in numbers]
        read = _READERS[together[0].container]
        try:
            found = read(together, limits, min_side)
        except DataError as error:
            found = [error] * len(together)
        for k, picture in zip(numbers, found, strict=True):
            pictures[k] = _checked(picture, frames[k])
    return pictures


def decode_picture(data: bytes, name: str, limits: PictureLimits, min_side: int | None = None) -> Picture:
    """Decode an image file that lies in memory.

    Raises:
        DataError: empty_file, too_large, not_an_image, zero_size, truncated_image.
    """
    if not data:
        raise DataError("empty_file", f"{name}: expected a picture, found 0 bytes")
    if len(data) > limits.max_file_bytes:
        raise DataError("too_large", f"{name}: {len(data)} bytes, expected at most {limits.max_file_bytes}")
    # Pillow's own guard against bombs warns or raises by a global; ours is per call and comes before decoding.
    bomb_guard, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return _decode(data, name, limits, min_side)
    except UnidentifiedImageError as error:
        raise DataError("not_an_image", f"{name}: expected a picture, found {data[:8].hex(' ')} ...") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, MemoryError) as error:
        raise DataError("truncated_image", f"{name}: expected a whole picture: {error}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = bomb_guard


def _decode(data: bytes, name: str, limits: PictureLimits, min_side: int | None) -> Picture:
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise DataError(
            "truncated_image", f"{name}: Pillow was told to accept truncated pictures; expected strict mode"
        )
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if width < 1 or height < 1:
            raise DataError("zero_size", f"{name}: {width}x{height} pixels, expected at least 1x1")
        if width * height > limits.max_pixels:
            raise DataError("too_large", f"{name}: {width}x{height} pixels, expected at most {limits.max_pixels}")
        if min_side is not None and image.format == "JPEG":
            # Draft mode takes the smallest scale that stays at or above what is asked, on both sides.
            scale = min_side / min(width, height)
            if scale < 1:
                image.draft("RGB", (max(1, round(width * scale)), max(1, round(height * scale))))
        image.load()
        if image.mode.startswith(("I", "F")):
            return Picture(_stretched(np.asarray(image, dtype=np.float32)), width, height)
        return Picture(np.array(image.convert("RGB"), dtype=np.uint8), width, height)


def _stretched(values_HW: NDArray[np.float32]) -> NDArray[np.uint8]:
    low, high = float(np.nanmin(values_HW)), float(np.nanmax(values_HW))
    scaled = np.nan_to_num((values_HW - low) / max(high - low, 1e-9) * 255.0)
    return np.repeat(scaled.round().astype(np.uint8)[..., None], 3, axis=2)


def _checked(picture: Picture | DataError, frame: Frame) -> Picture | DataError:
    """A picture of another size than its log states would be lifted to wrong places."""
    if isinstance(picture, DataError) or frame.width is None or frame.height is None:
        return picture
    if (picture.full_width, picture.full_height) != (frame.width, frame.height):
        return DataError(
            "wrong_shape",
            f"{frame.uri}: {picture.full_width}x{picture.full_height} pixels, "
            f"the log states {frame.width}x{frame.height}",
        )
    return picture


def _each(
    frames: Sequence[Frame], limits: PictureLimits, min_side: int | None, fetch: Callable[[Frame], bytes]
) -> list[Picture | DataError]:
    """Fetch and decode one by one, a fault of one leaving the others alone."""
    found: list[Picture | DataError] = []
    for frame in frames:
        name = f"{frame.uri}#{frame.locator}".rstrip("#")
        try:
            found.append(decode_picture(fetch(frame), name, limits, min_side))
        except DataError as error:
            found.append(error)
    return found


def _read_file(frames: Sequence[Frame], limits: PictureLimits, min_side: int | None) -> list[Picture | DataError]:
    # One byte over the limit is enough to know that a file is too large.
    return _each(frames, limits, min_side, lambda frame: files.read_bytes(frame.uri, 0, limits.max_file_bytes + 1))


def _read_tar(frames: Sequence[Frame], limits: PictureLimits, min_side: int | None) -> list[Picture | DataError]:
    def fetch(frame: Frame) -> bytes:
        offset, _, size = frame.locator.partition(":")
        if int(size) > limits.max_file_bytes:
            raise DataError("too_large", f"{frame.uri}: {size} bytes, expected at most {limits.max_file_bytes}")
        return files.read_bytes(frame.uri, int(offset), int(size))

    return _each(frames, limits, min_side, fetch)


def _read_mcap(frames: Sequence[Frame], limits: PictureLimits, min_side: int | None) -> list[Picture | DataError]:
    from system.logs.ros_mcap import read_pictures

    messages = read_pictures(frames, limits)
    found: list[Picture | DataError] = []
    for frame, message in zip(frames, messages, strict=True):
        if isinstance(message, DataError):
            found.append(message)
        else:
            found += _each([frame], limits, min_side, _given(message))
    return found


def _given(data: bytes) -> Callable[[Frame], bytes]:
    return lambda _: data


def _read_video(frames: Sequence[Frame], limits: PictureLimits, min_side: int | None) -> list[Picture | DataError]:
    from system.logs.video import read_pictures

    return read_pictures(frames, limits, min_side)


_READERS: dict[str, Read] = {"file": _read_file, "tar": _read_tar, "mcap": _read_mcap, "video": _read_video}
