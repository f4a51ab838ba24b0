"""Which readers there are, and which of them fits a path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from system.errors import ConfigError, DataError, FormatError
from system.logs import files
from system.logs.argoverse2 import Argoverse2Reader
from system.logs.kitti import KittiReader
from system.logs.nuscenes import NuScenesReader
from system.logs.picture_folder import PicturesReader
from system.logs.picture_list import PictureListReader
from system.logs.plain import PlainReader
from system.logs.reader import BadLog, LogReader
from system.logs.ros_mcap import McapReader
from system.logs.video import VideoReader
from system.records import DrivingLog, LogRef

# Asked in this order, the first that recognises a path has it: formats with a telling file name come first, then those
# told by an extension. A folder of pictures comes last, because every other format is also a folder of pictures.
READERS: tuple[LogReader, ...] = (
    NuScenesReader(),
    Argoverse2Reader(),
    KittiReader(),
    PlainReader(),
    PictureListReader(),
    McapReader(),
    VideoReader(),
    PicturesReader(),
)
# Deeper than people nest folders, so that a ring of links ends.
_ANY_DEPTH = 32
# No drive is longer; a longer one has a wrong time in it. Times fit into 63 bits.
LONGEST_LOG_DAYS = 7
_FARTHEST_NS = 1 << 62
# These read single files: of a folder only what lies directly in it, so each of them is asked, and folders below are
# searched on.
_OF_FILES = (McapReader.name, VideoReader.name, PicturesReader.name)


@dataclass(frozen=True)
class Found:
    """A path that a reader recognised, and by what."""

    uri: str
    reader: str
    why: str


@dataclass(frozen=True)
class Skipped:
    """A path that no reader recognised, and what was looked for."""

    uri: str
    why: str


def reader_named(name: str) -> LogReader:
    """The reader that `--format` calls so.

    Raises:
        ConfigError: there is none; names those there are.
    """
    for reader in READERS:
        if reader.name == name:
            return reader
    known = ", ".join(["auto", *(reader.name for reader in READERS)])
    raise ConfigError(f"--format {name!r} is unknown; expected one of: {known}")


def discover(uri: str, log_format: str = "auto", max_depth: int = 3) -> tuple[list[Found], list[Skipped]]:
    """Find what can be read at a path, or below it where it is a mixture.

    Args:
        log_format: a reader's name: only it is asked; "auto": all are, in the order of READERS.
        max_depth: how many folders deep a mixture is searched; a format asked for is searched at any depth.
    Raises:
        ConfigError: unknown reader. DataError: nothing is at the path. FormatError: no reader fits anything there.
    """
    readers = READERS if log_format == "auto" else (reader_named(log_format),)
    # Workers may run in another folder than the one that a relative path was typed in.
    uri = files.absolute(uri)
    if not files.is_folder(uri) and not files.is_file(uri):
        raise DataError("missing_path", f"{uri}: expected a folder, a file or an object-store URI, found nothing")
    found, skipped = _search(uri, readers, max_depth if log_format == "auto" else _ANY_DEPTH)
    if not found and files.is_folder(uri) and not files.list_folder(uri):
        raise FormatError("empty_folder", f"{uri}: expected logs, found an empty folder")
    if not found:
        looked_for = "; ".join(f"{reader.name}: {reader.looks_for}" for reader in readers)
        raise FormatError("unknown_format", f"{uri}: no reader recognises anything here. Looked for: {looked_for}")
    return found, skipped


def list_logs(found: Found) -> Iterator[LogRef | BadLog]:
    """Every log of a path; what cannot be listed is yielded as a BadLog, and the others follow."""
    logs = reader_named(found.reader).list_logs(found.uri)
    while True:
        try:
            yield _checked(next(logs))
        except StopIteration:
            return
        except DataError as error:
            yield BadLog(found.uri, found.reader, error.code, error.message)
            return
        except Exception as error:  # noqa: BLE001 - one path that we did not foresee must not end a fleet's night
            told = f"{found.uri}: cannot be listed: {type(error).__name__}: {str(error)[:200]}"
            yield BadLog(found.uri, found.reader, "internal_error", files.printable(told))
            return


def _checked(log: LogRef | BadLog) -> LogRef | BadLog:
    """A log, or a BadLog where it has no name to be stored by, or a wrong time would make millions of empty scenes."""
    if isinstance(log, BadLog):
        return BadLog(*map(files.printable, (log.uri, log.reader, log.code, log.message)))
    if (log.uri, log.log_id) != (uri := files.printable(log.uri), files.printable(log.log_id)):
        return BadLog(uri, log.reader, "name_not_utf8", f"{uri}: a file or folder name is no UTF-8; rename it")
    if not -_FARTHEST_NS <= log.t_start_ns <= log.t_end_ns <= _FARTHEST_NS:
        told = f"{log.uri}: {log.log_id} lasts from {log.t_start_ns} to {log.t_end_ns} ns; expected rising times"
        return BadLog(log.uri, log.reader, "impossible_time", told)
    days = (log.t_end_ns - log.t_start_ns) / 86_400e9
    if days > LONGEST_LOG_DAYS:
        told = (
            f"{log.uri}: {log.log_id} lasts {days:.1f} days; expected one drive of at most {LONGEST_LOG_DAYS}. Mend "
            "its wrong time, or give each drive a folder of its own"
        )
        return BadLog(log.uri, log.reader, "impossible_time", told)
    return log


def read_log(ref: LogRef) -> DrivingLog:
    """All metadata of a log, by the reader that found it.

    Raises:
        DataError: as `LogReader.read_log`.
    """
    return reader_named(ref.reader).read_log(ref)


def _search(uri: str, readers: tuple[LogReader, ...], depth: int) -> tuple[list[Found], list[Skipped]]:
    found: list[Found] = []
    for reader in readers:
        why = reader.recognise(uri)
        if why is not None:
            found.append(Found(uri, reader.name, why))
            if reader.name not in _OF_FILES:
                return found, []
    if not files.is_folder(uri):
        return found[:1], [] if found else [Skipped(uri, "no reader knows this kind of file")]
    skipped: list[Skipped] = []
    entries = files.list_folder(uri)
    for folder in (entry.rstrip("/") for entry in entries if entry.endswith("/")):
        if folder != files.printable(folder):
            skipped.append(Skipped(files.printable(folder), "its name is no UTF-8; rename it"))
        elif depth:
            below = _search(folder, readers, depth - 1)
            found += below[0]
            skipped += below[1]
        else:
            skipped.append(Skipped(folder, "too many folders deep"))
    if not found and not skipped:
        names = ", ".join(files.name(entry) for entry in entries[:3]) or "nothing"
        skipped.append(Skipped(uri, f"no reader knows what is here: {names}{', ...' if len(entries) > 3 else ''}"))
    return found, skipped
