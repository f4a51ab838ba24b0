"""Folders and archives of pictures without any table.

Pictures of one folder whose names differ in one number, in even steps, are one log: the number is a Unix time where it
looks like one, else the pictures follow each other at ASSUMED_HZ and the log is flagged. Every other picture is a log
of its own at time 0. A log's id holds a digest of where it lies, because names like 0001.jpg repeat from folder to
folder: a copied folder is another log.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from functools import lru_cache

from system.errors import DataError
from system.logs import archives, files
from system.logs.names import NumberedNames, group_names, modality_of, place_digest
from system.logs.reader import BadLog
from system.records import NO_AGENTS, NO_EGO, TIME_ASSUMED, DrivingLog, Frame, LogRef

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


class PicturesReader:
    """Reads the pictures that lie directly in a folder, and archives of pictures (.tar, .tar.gz, .tgz).

    A log's uri is its folder, its archive or, of a still, the picture; its id the pattern of its names and a digest.
    """

    name = "pictures"
    looks_for = f"pictures ({' '.join(SUFFIXES)}) or archives of them ({' '.join(archives.SUFFIXES)})"

    def recognise(self, uri: str) -> str | None:
        if _is_picture(uri) or archives.is_archive(uri):
            return f"{files.name(uri)} is {'a picture' if _is_picture(uri) else 'an archive'} by its name"
        if not files.is_folder(uri):
            return None
        found = next((e for e in files.list_folder(uri) if _is_picture(e) or archives.is_archive(e)), None)
        return None if found is None else f"{files.name(found)} is there"

    def list_logs(self, uri: str) -> Iterator[LogRef | BadLog]:
        if archives.is_archive(uri):
            yield from self._list_archive(uri)
        elif _is_picture(uri):
            yield _ref(uri, _still(files.name(uri)), files.parent(uri))
        else:
            for log in _logs_of_folder(uri):
                yield _ref(uri if len(log.names) > 1 else files.join(uri, log.pattern), log, uri)
            for entry in files.list_folder(uri):
                if archives.is_archive(entry):
                    yield from self._list_archive(entry)

    def _list_archive(self, uri: str) -> Iterator[LogRef | BadLog]:
        try:
            logs = _archive(uri, files.stamp(uri))[1]
            if not logs:
                raise DataError("empty_log", f"{uri}: expected pictures in the archive, found none")
            for log in logs.values():
                yield _ref(uri, log, uri)
        except DataError as error:
            yield BadLog(uri, self.name, error.code, error.message)

    def read_log(self, ref: LogRef) -> DrivingLog:
        pattern = ref.log_id.rpartition("@")[0]
        members: dict[str, archives.Member] = {}
        if _is_picture(ref.uri):
            place, log = files.parent(ref.uri), _still(files.name(ref.uri))
        elif archives.is_archive(ref.uri):
            place = ref.uri
            members, logs = _archive(ref.uri, files.stamp(ref.uri))
            log = logs.get(pattern, _NO_LOG)
        else:
            place = ref.uri
            log = next((log for log in _logs_of_folder(ref.uri) if log.pattern == pattern), _NO_LOG)
        if not log.names:
            raise DataError("missing_log", f"{ref.uri}: expected pictures named {pattern!r}, which are no longer there")
        frames = tuple(_frame(place, name, t_ns, members) for name, t_ns in zip(log.names, log.t_ns, strict=True))
        flags = (NO_AGENTS, NO_EGO) if log.is_time_known else (NO_AGENTS, NO_EGO, TIME_ASSUMED)
        return DrivingLog(ref=ref, frames=frames, ego=None, agents=None, flags=flags)


def _is_picture(uri: str) -> bool:
    return uri.lower().endswith(SUFFIXES) and not files.name(uri).startswith(".")


def _still(name: str) -> NumberedNames:
    return NumberedNames(name, (name,), (0,), False)


_NO_LOG = NumberedNames("", (), (), False)


def _logs(names: Iterable[str]) -> dict[str, NumberedNames]:
    """Sequences and stills by pattern."""
    sequences, singles = group_names(names)
    return {log.pattern: log for log in [*sequences, *map(_still, singles)]}


def _logs_of_folder(uri: str) -> list[NumberedNames]:
    return list(_logs(files.name(entry) for entry in files.list_folder(uri) if _is_picture(entry)).values())


@lru_cache(maxsize=2)
def _archive(uri: str, _: str) -> tuple[dict[str, archives.Member], dict[str, NumberedNames]]:
    """(pictures of an archive by name, its logs by pattern); all its logs share one reading of its headers."""
    members = {member.name: member for member in archives.list_members(uri) if _is_picture(member.name)}
    return members, _logs(members)


def _frame(place: str, name: str, t_ns: int, members: dict[str, archives.Member]) -> Frame:
    """A picture of a folder or, where members are given, of an archive; its camera is the folder that it lies in."""
    camera = files.name(posixpath.dirname(name)) or files.name(place)
    modality = modality_of(f"{camera}/{files.name(name)}")
    if members:
        member = members[name]
        return Frame(camera, t_ns, place, "tar", f"{member.offset}:{member.size}", modality=modality)
    return Frame(camera, t_ns, files.join(place, name), modality=modality)


def _ref(uri: str, log: NumberedNames, place: str) -> LogRef:
    log_id = f"{log.pattern}@{place_digest(place)}"
    return LogRef(PicturesReader.name, uri, log_id, files.name(place), log.t_ns[0], log.t_ns[-1])
