"""Single pictures out of a video, exactly those asked for.

A video is decoded in groups that start at a picture which needs no other (a keyframe): groups that hold nothing wanted
are passed over undecoded, and a long way to the next wanted picture is jumped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import av
import av.container
import av.video.frame
import av.video.stream
import numpy as np

from system.errors import DataError
from system.logs.decoding import Picture, PictureLimits, check_size
from system.logs.video import open_video, packets_of, stamp_of
from system.records import Frame

# A seek costs about as much as passing over so much video.
JUMP_S = 10
# More packets without a keyframe are no group of pictures but a damaged file.
MAX_GROUP = 10_000


def read_pictures(
    frames: Sequence[Frame], limits: PictureLimits, min_side: int | None = None
) -> list[Picture | DataError]:
    """Pictures of one video.

    Args:
        frames: pictures that share one uri.
        min_side: if given, pictures come at a half, a quarter or an eighth, the short side never under this.
    Returns:
        For each frame, in order, its picture or what is wrong: bad_locator, missing_frame, damaged_video.
    Raises:
        DataError: the video as a whole cannot be read.
    """
    uri = frames[0].uri
    stamps = [_stamp(frame) for frame in frames]
    with open_video(uri) as (container, stream):
        check_size(stream.codec_context.width, stream.codec_context.height, uri, limits)
        stream.codec_context.thread_count = 1
        wanted = {stamp for stamp in stamps if isinstance(stamp, int)}
        found = _Search(uri, container, stream, wanted, min_side).run()
    return [stamp if isinstance(stamp, DataError) else found[stamp] for stamp in stamps]


def _stamp(frame: Frame) -> int | DataError:
    try:
        return int(frame.locator)
    except ValueError:
        return DataError("bad_locator", f"{frame.uri}: expected a time stamp, found {frame.locator[:40]!r}")


class _Search:
    """A search of one open video for the pictures of some time stamps."""

    def __init__(
        self,
        uri: str,
        container: av.container.InputContainer,
        stream: av.video.stream.VideoStream,
        wanted: set[int],
        min_side: int | None,
    ) -> None:
        self._uri, self._container, self._stream, self._min_side = uri, container, stream, min_side
        self._left = set(wanted)
        self._found: dict[int, Picture | DataError] = {}
        self._jump = int(JUMP_S / stream.time_base) if stream.time_base else 0

    def run(self) -> dict[int, Picture | DataError]:
        begin = (self._stream.start_time or 0) - self._jump
        while self._left:
            first = min(self._left)
            # Some containers seek to after the place asked for: then from earlier, and at last from the beginning.
            for start in (first, first - self._jump, begin):
                self._read_on(start, first, is_last_try=start == begin)
                if first in self._found:
                    break
            else:
                fault = DataError("missing_frame", f"{self._uri}#{first}: expected a picture, found none")
                self._take(first, fault)
        return self._found

    def _take(self, stamp: int, picture: Picture | DataError) -> None:
        self._found[stamp] = picture
        self._left.discard(stamp)

    def _read_on(self, start: int, first: int, is_last_try: bool) -> None:
        """From `start` on, take what is wanted until `first` is passed and the next one is a long way off."""
        self._container.seek(max(min(start, 2**62), -(2**62)), stream=self._stream, backward=True)
        before: list[av.Packet] = []
        for group in _groups(packets_of(self._uri, self._container, self._stream)):
            stamps = {stamp for packet in group if (stamp := stamp_of(packet)) is not None}
            begins = stamp_of(group[0]) or 0
            # Pictures shown before their group's first one need the group before (an open group of pictures); what
            # comes before the first keyframe cannot be decoded.
            leading = {stamp for stamp in self._left & stamps if stamp < begins}
            if group[0].is_keyframe or before or is_last_try:
                if leading and (before or is_last_try):
                    self._decode(before + group, self._left & stamps)
                elif self._left & stamps - leading:
                    self._decode(group, self._left & stamps - leading)
                before = group
            if not self._left or not stamps:
                return
            target = min(self._left)
            if min(stamps) > target or (first in self._found and target - max(stamps) > self._jump):
                return

    def _decode(self, packets: Sequence[av.Packet], wanted: set[int]) -> None:
        context = self._stream.codec_context
        context.flush_buffers()
        is_damaged = False
        try:
            for packet in [*packets, None]:  # None: hand out what the decoder still holds
                for frame in context.decode(packet):
                    # FFmpeg fills damage in; what comes after it in the group is drawn on what was filled in.
                    is_damaged = is_damaged or frame.is_corrupt
                    if frame.pts in wanted & self._left:
                        message = f"{self._uri}#{frame.pts}: the decoder marked it or one before it as damaged"
                        fault = DataError("damaged_video", message)
                        self._take(frame.pts, fault if is_damaged else _picture(frame, self._min_side))
                if not wanted & self._left:
                    break
        except av.error.FFmpegError as error:
            for stamp in wanted & self._left:
                self._take(stamp, DataError("damaged_video", f"{self._uri}#{stamp}: expected a picture: {error}"))
        finally:
            context.flush_buffers()


def _groups(packets: Iterable[av.Packet]) -> Iterator[list[av.Packet]]:
    """Packets from each keyframe up to the next."""
    group: list[av.Packet] = []
    for packet in packets:
        if group and (packet.is_keyframe or len(group) >= MAX_GROUP):
            yield group
            group = []
        if packet.size:
            group.append(packet)
    if group:
        yield group


def _picture(frame: av.video.frame.VideoFrame, min_side: int | None) -> Picture:
    width, height = frame.width, frame.height
    scale = next((s for s in (8, 4, 2) if min_side is not None and min(width, height) // s >= min_side), 1)
    pixels = frame.to_ndarray(format="rgb24", width=width // scale, height=height // scale, interpolation="AREA")
    # Cameras mounted on their side or upside down say so, and no calibration speaks of a video's stored pixels.
    turns = round(frame.rotation / 90) % 4
    if turns % 2:
        width, height = height, width
    return Picture(np.ascontiguousarray(np.rot90(pixels, turns)), width, height)
