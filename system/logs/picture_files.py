"""The pictures of a window as image files, for whoever takes them away: as stored, where others can open that."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from PIL import Image

from system.errors import DataError
from system.logs.decoding import Picture, PictureLimits, decode_picture
from system.logs.pixels import check_stated_size, picture_name, read_each
from system.records import Frame

# First bytes of the two formats that every reader of pictures opens.
_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png"}
# Frames of a video were compressed once already; at this quality the second time is not seen.
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class PictureFile:
    """A whole image file. data: JPEG or PNG, by `suffix` (".jpg" or ".png"); width, height: its pixels as stored."""

    data: bytes
    suffix: str
    width: int
    height: int


def read_picture_files(frames: Sequence[Frame], limits: PictureLimits) -> list[PictureFile | DataError]:
    """Read pictures without losing a bit of those that are JPEG or PNG; others become PNG, frames of videos JPEG.

    Returns:
        For each frame, in order, its file, decoded once to see that it is whole, or what is wrong with it (codes of
        `system.logs.pixels`).
    """
    return read_each(frames, limits, partial(_checked_file, limits=limits), _encoded)


def _checked_file(data: bytes, frame: Frame, limits: PictureLimits) -> PictureFile | DataError:
    try:
        picture = check_stated_size(decode_picture(data, picture_name(frame), limits), frame)
    except DataError as error:
        return error
    if isinstance(picture, DataError):
        return picture
    suffix = next((suffix for start, suffix in _SUFFIXES.items() if data.startswith(start)), None)
    if suffix is None:
        data, suffix = _encode(picture, "PNG"), ".png"
    return PictureFile(data, suffix, picture.full_width, picture.full_height)


def _encoded(picture: Picture, frame: Frame) -> PictureFile:
    return PictureFile(_encode(picture, "JPEG"), ".jpg", picture.full_width, picture.full_height)


def _encode(picture: Picture, image_format: str) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": _JPEG_QUALITY} if image_format == "JPEG" else {}
    Image.fromarray(picture.rgb_HWC).save(buffer, image_format, **options)
    return buffer.getvalue()
