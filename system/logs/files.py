"""Local paths and object-store URIs behind one small interface, over fsspec."""

from __future__ import annotations

import errno
import io
import os
import posixpath
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import IO, Any, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from system.errors import DataError, storage_errors

TABLE_SUFFIXES = (".json", ".csv", ".feather", ".parquet")
# How long a file's stamp is believed, so that the scenes of one log do not each ask the object store.
STAMP_AGE_S = 2.0
# An object store names a version of an object by its ETag, a disk by the time of the last change.
_VERSIONS = ("ETag", "etag", "md5Hash", "mtime")


@lru_cache(maxsize=256)
def _filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    if "://" not in uri:
        # Not by fsspec's parser, to which "::" in a folder's name means a chain of file systems.
        return LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    return url_to_fs(uri)


def absolute(uri: str) -> str:
    """A local path from the root on; URIs stay as they are."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system and path of a local path or URI.

    Credentials and endpoints come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...), never from a URI.
    """
    try:
        return _filesystem(uri)
    except (ValueError, ImportError) as error:
        raise DataError("unknown_scheme", f"{uri}: no file system for this URI: {error}") from error


def printable(text: str) -> str:
    """A name as text; bytes of a file name that are no UTF-8 are written out, and the text then differs."""
    return text.encode("utf-8", "backslashreplace").decode()


def join(root: str, *parts: str) -> str:
    """Join relative parts under a root; a part that leaves the root is refused.

    Raises:
        DataError: `path_escapes` for absolute parts and for "..".
    """
    for part in parts:
        if part.startswith("/") or "://" in part or ".." in part.split("/"):
            raise DataError("path_escapes", f"{part!r} leaves its root {root}; expected a path below it")
    return posixpath.join(root.rstrip("/") or "/", *parts)


def name(uri: str) -> str:
    """Last part of a path."""
    return posixpath.basename(uri.rstrip("/"))


def parent(uri: str) -> str:
    """Folder that holds a path."""
    return posixpath.dirname(uri.rstrip("/"))


def is_file(uri: str) -> bool:
    """Raises DataError: the object store cannot be asked."""
    fs, path = filesystem(uri)
    try:
        return bool(fs.isfile(path))
    except Exception as error:
        raise _unless_bug(uri, error) from error


def is_folder(uri: str) -> bool:
    """Raises DataError: the object store cannot be asked."""
    fs, path = filesystem(uri)
    try:
        return bool(fs.isdir(path))
    except Exception as error:
        raise _unless_bug(uri, error) from error


def exists(uri: str) -> bool:
    """Whether a file or folder is there. Raises DataError: that cannot be asked."""
    fs, path = filesystem(uri)
    try:
        fs.info(path)
    except FileNotFoundError:
        return False
    except Exception as error:
        raise _unless_bug(uri, error) from error
    return True


def list_folder(uri: str) -> list[str]:
    """Sorted URIs of what lies directly in a folder; folders end in "/".

    Raises:
        DataError: `missing_file`, or `unreachable`: it cannot be listed.
    """
    fs, path = filesystem(uri)
    try:
        listed = fs.ls(path, detail=True)
    except FileNotFoundError as error:
        raise DataError("missing_file", f"{uri}: expected a folder, found none") from error
    except Exception as error:
        raise _unless_bug(uri, error) from error
    entries = []
    for entry in listed:
        child = join(uri, name(entry["name"]))
        if child.rstrip("/") != uri.rstrip("/"):
            entries.append(child + "/" if entry["type"] == "directory" else child)
    return sorted(entries)


def walk_files(uri: str) -> Iterator[str]:
    """URIs of all files at any depth below a folder, in sorted order."""
    for entry in list_folder(uri):
        if entry.endswith("/"):
            yield from walk_files(entry.rstrip("/"))
        else:
            yield entry


def open_binary(uri: str) -> IO[Any]:
    """Open for reading. What the storage refuses later is raised as it is here, and again where a `with` block ends.

    Raises:
        DataError: `missing_file`, `unreadable_file`.
    """
    fs, path = filesystem(uri)
    try:
        return cast(IO[Any], _Stream(uri, fs.open(path, "rb")))
    except storage_errors() as error:
        raise _unread(uri, error) from error


def told(stream: IO[Any]) -> None:
    """What the storage refused of an open file has been told by whoever read it: a `with` block ends without it."""
    if isinstance(stream, _Stream):
        stream.fault = None


class _Stream(io.BufferedIOBase):
    """An open file whose parser cannot take an outage for damage, or for the end of the file."""

    def __init__(self, uri: str, raw: IO[Any]) -> None:
        self._uri, self._raw = uri, raw
        self.fault: DataError | None = None

    def __exit__(self, *_: object) -> None:
        self.close()
        if self.fault is not None:
            raise self.fault

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._raw.seekable()

    def tell(self) -> int:
        return self._raw.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return self._raw.seek(offset, whence)
        except storage_errors() as error:
            if isinstance(error, OSError) and error.errno == errno.EINVAL:
                raise  # a place that is in no file, as damaged ones name
            raise self._failed(error) from error

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            return self._raw.read(-1 if size is None else size)
        except storage_errors() as error:
            raise self._failed(error) from error

    def close(self) -> None:
        self._raw.close()
        super().close()

    def _failed(self, error: Exception) -> DataError:
        self.fault = _unread(self._uri, error)
        return self.fault


def read_bytes(uri: str, offset: int = 0, size: int | None = None) -> bytes:
    """All of a file, or `size` bytes from `offset`.

    Raises:
        DataError: `missing_file`, `unreadable_file`.
    """
    fs, path = filesystem(uri)
    try:
        if size is None:
            return fs.cat_file(path)
        return fs.cat_file(path, start=offset, end=offset + size)
    except storage_errors() as error:
        raise _unread(uri, error) from error


def version_of(about: Mapping[str, Any]) -> str:
    """What tells two contents of one size apart, of what a file system says about a file; "" where it says nothing."""
    return next((str(about[key]) for key in _VERSIONS if about.get(key) is not None), "")


def moment() -> int:
    """Changes every STAMP_AGE_S: a key of what may be remembered for so long."""
    return int(time.monotonic() / STAMP_AGE_S)


def stamp(uri: str) -> str:
    """Changes when a file does, or of a folder what lies directly in it; at most STAMP_AGE_S late.

    A key of what was read, so that a changed file is read again. "" where nothing is.

    Raises:
        DataError: `unreachable`, the object store cannot be asked.
    """
    return _stamp(uri, moment())


@lru_cache(maxsize=64)
def _stamp(uri: str, _: int) -> str:
    fs, path = filesystem(uri)
    try:
        fs.invalidate_cache(path)
        about = fs.info(path)
        entries = fs.ls(path, detail=True) if about["type"] == "directory" else [about]
    except FileNotFoundError:
        return ""
    except Exception as error:
        raise _unless_bug(uri, error) from error
    return "\n".join(sorted(f"{entry['name']} {entry.get('size')} {version_of(entry)}" for entry in entries))


def _unless_bug(uri: str, error: Exception) -> Exception:
    """What to raise: storage that cannot be reached is the user's to mend, anything else is a bug and stays."""
    # Asked only now: botocore is loaded by the first call that needs it, which may be the one that failed.
    if not isinstance(error, storage_errors()):
        return error
    words = f"{type(error).__name__}: {error}"
    return DataError("unreachable", f"{uri}: cannot be listed: {words}")


def _unread(uri: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError("missing_file", f"{uri}: expected a file, found none")
    return DataError("unreadable_file", f"{uri}: expected a file: {type(error).__name__}: {error}")
