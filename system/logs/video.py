"""Video files, such as a dashcam's: times from the container, pictures by presentation time stamp.

Listing opens the file and reads its head (of MPEG streams, which have none, all packets); reading a log goes through
its packets; neither decodes. The container's creation time is taken as the time of the first picture; without
one the log starts at 0 and is flagged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial

import av
import av.container
import av.video.stream

from system.errors import DataError
from system.logs import files
from system.logs.names import modality_of, place_digest
from system.logs.reader import BadLog, list_one
from system.records import NO_AGENTS, NO_EGO, TIME_ASSUMED, DrivingLog, Frame, LogRef

SUFFIXES = (".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg")
# Play lists and the like stay closed: they would have FFmpeg open what an untrusted file names.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg"
# These state no length; FFmpeg would guess it from the bit rate, and pictures after a guess too short would be lost.
_WITHOUT_INDEX = ("mpegts", "mpeg")
_YEARS = range(1990, 2100)  # cameras whose clock was never set say 1904 or 1970
MAX_FRAMES = 10_000_000

Opened = tuple[av.container.InputContainer, av.video.stream.VideoStream]


class VideoReader:
    """Reads video files. A log is a file; its frames' locators are time stamps in the unit of its stream."""

    name = "video"
    looks_for = f"video files ({' '.join(SUFFIXES)})"

    def recognise(self, uri: str) -> str | None:
        found = next(_videos(uri), None)
        return None if found is None else f"{files.name(found)} is a video by its name"

    def list_logs(self, uri: str) -> Iterator[LogRef | BadLog]:
        for video in _videos(uri):
            yield list_one(video, self.name, partial(_log_ref, video))

    def read_log(self, ref: LogRef) -> DrivingLog:
        with open_video(ref.uri) as (container, stream):
            origin_ns, is_known = _origin_ns(container, stream)
            first, unit = _first_stamp(stream), _unit(ref.uri, stream)
            stamps = sorted({stamp for stamp in _stamps(ref.uri, container, stream) if stamp >= first})
            width, height = stream.codec_context.width or None, stream.codec_context.height or None
        modality = modality_of(files.name(ref.uri))
        frames = tuple(
            Frame(
                "video",
                origin_ns + _ns(stamp - first, unit),
                ref.uri,
                "video",
                str(stamp),
                width,
                height,
                modality=modality,
            )
            for stamp in stamps
        )
        if not frames:
            raise DataError("empty_log", f"{ref.uri}: expected pictures in the video, found none")
        flags = (NO_AGENTS, NO_EGO) if is_known else (NO_AGENTS, NO_EGO, TIME_ASSUMED)
        return DrivingLog(ref=ref, frames=frames, ego=None, agents=None, flags=flags)


@contextmanager
def open_video(uri: str) -> Iterator[Opened]:
    """The container and its first video stream.

    Raises:
        DataError: `missing_file`, `damaged_video` (also for what FFmpeg reports while the video is open), `no_video`.
    """
    with files.open_binary(uri) as raw:
        try:
            with av.open(raw, options={"format_whitelist": _CONTAINERS}, metadata_errors="replace") as container:
                if not container.streams.video:
                    raise DataError("no_video", f"{uri}: expected a video stream, found none")
                stream = container.streams.video[0]
                if not isinstance(container, av.container.InputContainer) or stream.codec_context is None:
                    raise DataError("damaged_video", f"{uri}: expected a codec that FFmpeg knows, found another")
                yield container, stream
        except (av.error.FFmpegError, OSError, OverflowError) as error:
            raise DataError("damaged_video", f"{uri}: expected a video: {error}") from error


def packets_of(
    uri: str, container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> Iterator[av.Packet]:
    """Packets of one stream, from where the container stands.

    Raises:
        DataError: `damaged_video`, `too_large`.
    """
    try:
        for count, packet in enumerate(container.demux(stream)):
            if count > MAX_FRAMES:
                raise DataError("too_large", f"{uri}: expected at most {MAX_FRAMES} pictures")
            yield packet
    except IndexError as error:  # PyAV's, for a packet of a stream that the file's head did not name
        raise DataError("damaged_video", f"{uri}: expected streams as the file's head names them") from error


def stamp_of(packet: av.Packet) -> int | None:
    """When a packet's picture is shown, in the stream's unit; containers without such stamps (AVI) give the order."""
    return packet.pts if packet.pts is not None else packet.dts


def _videos(uri: str) -> Iterator[str]:
    """The file itself, or the videos that lie directly in a folder."""
    if uri.lower().endswith(SUFFIXES) and files.is_file(uri):
        yield uri
    elif files.is_folder(uri):
        entries = files.list_folder(uri)
        yield from (e for e in entries if e.lower().endswith(SUFFIXES) and not files.name(e).startswith("."))


def _log_ref(uri: str) -> LogRef:
    with open_video(uri) as (container, stream):
        origin_ns, is_known = _origin_ns(container, stream)
        unit = _unit(uri, stream)
        if container.format.name in _WITHOUT_INDEX or not (stream.duration or container.duration):
            end_ns = _ns(max(_stamps(uri, container, stream), default=0) - _first_stamp(stream), unit)
        else:
            seconds = stream.duration * unit if stream.duration else Fraction(container.duration or 0, av.time_base)
            # The last picture is shown for a while, so it starts before the end.
            end_ns = round((seconds - (1 / stream.average_rate if stream.average_rate else 0)) * 1_000_000_000)
    name = files.name(uri)
    log_id = name if is_known else f"{name}@{place_digest(uri)}"
    source = files.name(files.parent(uri))
    return LogRef(VideoReader.name, uri, log_id, source, origin_ns, origin_ns + max(0, end_ns))


def _origin_ns(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> tuple[int, bool]:
    """(ns since 1970 of the first picture, or 0; whether the file says so)."""
    for metadata in (container.metadata, stream.metadata):
        try:
            created = datetime.fromisoformat(metadata.get("creation_time", ""))
        except ValueError:
            continue
        created = created if created.tzinfo else created.replace(tzinfo=UTC)
        if created.year in _YEARS:
            return int((created - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000) * 1_000_000, True
    return 0, False


def _stamps(uri: str, container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Iterator[int]:
    for packet in packets_of(uri, container, stream):
        stamp = stamp_of(packet)
        if stamp is not None and packet.size:
            yield stamp


def _first_stamp(stream: av.video.stream.VideoStream) -> int:
    return stream.start_time or 0


def _unit(uri: str, stream: av.video.stream.VideoStream) -> Fraction:
    """Seconds of one step of the stream's clock."""
    if not stream.time_base or stream.time_base <= 0:
        raise DataError("damaged_video", f"{uri}: expected a time base, found {stream.time_base}")
    return stream.time_base


def _ns(steps: int, unit: Fraction) -> int:
    return round(steps * unit * 1_000_000_000)
