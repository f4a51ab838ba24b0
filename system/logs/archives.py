"""Tar archives of pictures, never unpacked: members are found by their headers and read by byte range.

A plain archive is read at any place. A gzipped one can only be read forward, so it stays open where the last window
ended and the next window goes on from there.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from system.errors import DataError
from system.logs import files
from system.records import Frame

SUFFIXES = (".tar", ".tar.gz", ".tgz")
# An archive of more members, or one that unpacks to more bytes, is taken for a fault or an attack.
MAX_MEMBERS = 5_000_000
MAX_UNPACKED_BYTES = 1 << 40
_DAMAGED = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError)


@dataclass(frozen=True)
class Member:
    """A file in an archive. offset, size: bytes; of a gzipped archive, in what it unpacks to."""

    name: str
    offset: int
    size: int


def is_archive(uri: str) -> bool:
    return uri.lower().endswith(SUFFIXES)


def is_compressed(uri: str) -> bool:
    return uri.lower().endswith((".gz", ".tgz"))


def list_members(uri: str) -> list[Member]:
    """Every regular file in an archive, by its headers.

    Raises:
        DataError: `damaged_archive`, `too_large`, `missing_file`.
    """
    members: list[Member] = []
    with files.open_binary(uri) as raw:
        try:
            with _opened(raw, is_compressed(uri)) as archive:
                for header in archive:
                    # A stream keeps every header it saw otherwise.
                    archive.members = []  # type: ignore[attr-defined]
                    if header.isreg() and not header.issparse():
                        members.append(Member(header.name, header.offset_data, header.size))
                    if len(members) > MAX_MEMBERS or header.offset_data + header.size > MAX_UNPACKED_BYTES:
                        limit = f"{MAX_MEMBERS} members and {MAX_UNPACKED_BYTES} bytes"
                        raise DataError("too_large", f"{uri}: expected at most {limit}")
        except _DAMAGED as error:
            read = f"{len(members)} files were read before the damage"
            raise DataError("damaged_archive", f"{uri}: expected a tar archive: {error}; {read}") from error
    return members


def _opened(raw: IO[Any], is_gzipped: bool) -> tarfile.TarFile:
    """Not by tarfile's own gzip, which in Python 3.11.2 meets a damaged header with an AttributeError."""
    if is_gzipped:
        return tarfile.open(fileobj=gzip.GzipFile(fileobj=raw), mode="r|")
    return tarfile.open(fileobj=raw, mode="r:")


def byte_range(frame: Frame) -> tuple[int, int]:
    """(offset, size) of the member that holds a picture.

    Raises:
        DataError: `bad_locator`.
    """
    offset, _, size = frame.locator.partition(":")
    if not (offset.isdecimal() and size.isdecimal()):
        raise DataError("bad_locator", f"{frame.uri}: expected offset:size in bytes, found {frame.locator!r}")
    return int(offset), int(size)


def read_streamed(frames: Sequence[Frame], max_bytes: int) -> list[bytes | DataError]:
    """The bytes of members of one gzipped archive, in one pass.

    Args:
        frames: pictures that share one uri.
        max_bytes: larger members are not read.
    Returns:
        For each frame, in order, its bytes or what is wrong.
    """
    found: list[bytes | DataError] = [DataError("unread", "never read")] * len(frames)
    wanted: list[tuple[int, int, int]] = []
    for k, frame in enumerate(frames):
        try:
            offset, size = byte_range(frame)
        except DataError as error:
            found[k] = error
            continue
        if size > max_bytes:
            found[k] = DataError(
                "too_large", f"{frame.uri}#{frame.locator}: {size} bytes, expected at most {max_bytes}"
            )
        else:
            wanted.append((offset, size, k))
    for offset, size, k in sorted(wanted):
        try:
            stream = _LAST_STREAM.of(frames[k].uri)
            stream.seek(offset)
            found[k] = stream.read(size)
        except DataError as error:
            _LAST_STREAM.close()
            found[k] = error
        except _DAMAGED as error:
            _LAST_STREAM.close()
            found[k] = DataError("damaged_archive", f"{frames[k].uri}#{frames[k].locator}: {error}")
    return found


class _LastStream:
    """The gzipped archive that this process read last, open where reading stopped."""

    def __init__(self) -> None:
        self._uri = ""
        self._raw: IO[Any] | None = None
        self._stream: gzip.GzipFile | None = None

    def of(self, uri: str) -> gzip.GzipFile:
        if self._stream is None or self._uri != uri:
            self.close()
            self._raw = files.open_binary(uri)
            self._stream, self._uri = gzip.GzipFile(fileobj=self._raw), uri
        return self._stream

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        if self._raw is not None:
            self._raw.close()
        self._stream = self._raw = None


_LAST_STREAM = _LastStream()
