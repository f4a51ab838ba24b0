"""Read the pictures of a window, whatever holds them, and name every fault.

A fault belongs to one picture: its place in the list holds a DataError and the others are read. Codes: missing_file,
unreadable_file, empty_file, too_large, not_an_image, zero_size, truncated_image, wrong_shape, bad_locator; of
recordings also missing_message, damaged_mcap, missing_frame, damaged_video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from system.errors import DataError, storage_errors
from system.logs import files
from system.logs.archives import byte_range, is_compressed, read_streamed
from system.logs.decoding import Picture, PictureLimits, decode_picture
from system.records import Frame

__all__ = ["Picture", "PictureLimits", "decode_picture", "read_each", "read_window_pictures"]

_T = TypeVar("_T")

# Fetched together: an object store then answers side by side, and memory holds so many files at most.
_AT_ONCE = 16


def read_window_pictures(
    frames: Sequence[Frame], limits: PictureLimits, min_side: int | None = None
) -> list[Picture | DataError]:
    """Read the pictures of a window; a recording (MCAP, video, compressed archive) is opened once.

    Args:
        min_side: if given, a picture may come at a half, a quarter or an eighth of its size, its short side never
            under this.
    Returns:
        For each frame, in order, its picture or what is wrong with it.
    """
    from_bytes = partial(_picture, limits=limits, min_side=min_side)
    return read_each(frames, limits, from_bytes, lambda picture, frame: picture, min_side)


def read_each(
    frames: Sequence[Frame],
    limits: PictureLimits,
    from_bytes: Callable[[bytes, Frame], _T | DataError],
    from_pixels: Callable[[Picture, Frame], _T | DataError],
    min_side: int | None = None,
) -> list[_T | DataError]:
    """What becomes of each picture of a window; a recording is opened once.

    Args:
        from_bytes: of an image file, as it is stored. from_pixels: of a frame of a video, which has no file.
        min_side: as in `read_window_pictures`, for frames of videos.
    Returns:
        For each frame, in order, what the two made of it, or what is wrong with it.
    """
    made: list[_T | DataError] = [DataError("unread", "never read")] * len(frames)
    single: list[int] = []
    together: dict[tuple[str, str], list[int]] = {}
    for k, frame in enumerate(frames):
        if frame.container == "file" or (frame.container == "tar" and not is_compressed(frame.uri)):
            single.append(k)
        else:
            together.setdefault((frame.container, frame.uri), []).append(k)

    def use(found: bytes | Picture | DataError, frame: Frame) -> _T | DataError:
        if isinstance(found, DataError):
            return found
        return from_pixels(found, frame) if isinstance(found, Picture) else from_bytes(found, frame)

    for start in range(0, len(single), _AT_ONCE):
        numbers = single[start : start + _AT_ONCE]
        for k, data in zip(numbers, _fetch([frames[k] for k in numbers], limits), strict=True):
            made[k] = use(data, frames[k])
    for (container, _), numbers in together.items():
        held = [frames[k] for k in numbers]
        found: Sequence[bytes | Picture | DataError]
        try:
            found = _read_recording(container, held, limits, min_side)
        except DataError as error:
            found = [error] * len(held)
        except storage_errors() as error:
            message = f"{held[0].uri}: expected a recording: {type(error).__name__}: {error}"
            found = [DataError("unreadable_file", message)] * len(held)
        for k, content in zip(numbers, found, strict=True):
            made[k] = use(content, frames[k])
    return made


def _read_recording(
    container: str, frames: Sequence[Frame], limits: PictureLimits, min_side: int | None
) -> Sequence[bytes | Picture | DataError]:
    # Their libraries are loaded where there is such a recording only.
    if container == "video":
        from system.logs.video_frames import read_pictures

        found = read_pictures(frames, limits, min_side)
        return [check_stated_size(picture, frame) for picture, frame in zip(found, frames, strict=True)]
    if container == "mcap":
        from system.logs.mcap_messages import read_pictures as read_messages

        return read_messages(frames, limits)
    return read_streamed(frames, limits.max_file_bytes)


def _fetch(frames: Sequence[Frame], limits: PictureLimits) -> list[bytes | DataError]:
    """The bytes of files and of members of plain archives, asked for side by side."""
    found: list[bytes | DataError] = [DataError("unread", "never read")] * len(frames)
    by_filesystem: dict[int, list[int]] = {}
    ranges: dict[int, tuple[str, int, int]] = {}
    for k, frame in enumerate(frames):
        try:
            fs, path = files.filesystem(frame.uri)
            ranges[k] = (path, *_byte_range(frame, limits))
            by_filesystem.setdefault(id(fs), []).append(k)
        except DataError as error:
            found[k] = error
    for numbers in by_filesystem.values():
        fs, _ = files.filesystem(frames[numbers[0]].uri)
        paths, starts, ends = zip(*(ranges[k] for k in numbers), strict=True)
        answers = fs.cat_ranges(list(paths), list(starts), list(ends), on_error="return")
        for k, answer in zip(numbers, answers, strict=True):
            found[k] = bytes(answer) if isinstance(answer, bytes | bytearray) else _unread(frames[k], answer)
    return found


def _byte_range(frame: Frame, limits: PictureLimits) -> tuple[int, int]:
    """[start, end) of the picture in its file; one byte over the limit is enough to know that it is too large."""
    if frame.container == "file":
        return 0, limits.max_file_bytes + 1
    start, size = byte_range(frame)
    if size > limits.max_file_bytes:
        raise DataError("too_large", f"{picture_name(frame)}: {size} bytes, expected at most {limits.max_file_bytes}")
    return start, start + size


def _unread(frame: Frame, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError("missing_file", f"{picture_name(frame)}: expected a picture, found no file")
    try:
        fs, path = files.filesystem(frame.uri)
        # Object stores refuse any range of an object without bytes.
        if fs.isfile(path) and fs.size(path) == 0:
            return DataError("empty_file", f"{picture_name(frame)}: expected a picture, found 0 bytes")
    except storage_errors():
        pass
    return DataError("unreadable_file", f"{picture_name(frame)}: expected a picture: {type(error).__name__}: {error}")


def picture_name(frame: Frame) -> str:
    return f"{frame.uri}#{frame.locator}" if frame.locator else frame.uri


def _picture(data: bytes, frame: Frame, limits: PictureLimits, min_side: int | None) -> Picture | DataError:
    try:
        upright = frame.intrinsics is None
        return check_stated_size(decode_picture(data, picture_name(frame), limits, min_side, upright), frame)
    except DataError as error:
        return error


def check_stated_size(picture: Picture | DataError, frame: Frame) -> Picture | DataError:
    """A picture of another size than its log states would be lifted to wrong places."""
    if isinstance(picture, DataError) or frame.width is None or frame.height is None:
        return picture
    actual, stated = (picture.full_width, picture.full_height), (frame.width, frame.height)
    # Without intrinsics the picture may have been turned upright.
    if actual != stated and not (frame.intrinsics is None and actual == stated[::-1]):
        return DataError(
            "wrong_shape",
            f"{picture_name(frame)}: {actual[0]}x{actual[1]} pixels, the log states {stated[0]}x{stated[1]}",
        )
    return picture
