"""Corpora on disk and in object stores: the little that readers of pairs need of fsspec.

Credentials and endpoints come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...), never from a URI.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from system.errors import DataError, storage_errors

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm")
MAX_JSON_BYTES = 1 << 30
# Deeper than corpora nest folders.
_MAX_DEPTH = 32


@lru_cache(maxsize=64)
def _filesystem(root: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return url_to_fs(root)
    except (ValueError, ImportError) as error:
        raise DataError("unknown_scheme", f"{root}: no file system for this URI: {error}") from error


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system and path of a local path or URI."""
    if "://" not in uri:
        # Not by fsspec's parser, to which "::" in a folder's name means a chain of file systems.
        return LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    scheme, rest = uri.split("://", 1)
    fs, path = _filesystem(f"{scheme}://{rest.split('/', 1)[0]}")
    return fs, path.rstrip("/") + ("/" + rest.split("/", 1)[1] if "/" in rest else "")


def absolute(uri: str) -> str:
    """A local path from the root on; URIs stay as they are, without a slash at the end."""
    return uri.rstrip("/") if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def join(root: str, relative: str) -> str:
    """A path that an annotation file gives, under the corpus's root; both kinds of slash are understood.

    Raises:
        DataError: `path_escapes` for an absolute path, a drive, a URI, "..", or a name that no file has.
    """
    path = relative.replace("\\", "/")
    is_outside = path.startswith(("/", "~")) or re.match(r"[A-Za-z][\w+.-]*:", path) or ".." in path.split("/")
    if not path.strip() or is_outside or "\0" in path:
        raise DataError("path_escapes", f"{relative!r} leaves its root {root}; expected a path below it")
    return posixpath.join(root.rstrip("/") or "/", posixpath.normpath(path))


def name(uri: str) -> str:
    """Last part of a path."""
    return posixpath.basename(uri.rstrip("/"))


def stem(uri: str) -> str:
    """Last part of a path without its suffix."""
    return posixpath.splitext(name(uri))[0]


def parent(uri: str) -> str:
    """Folder that holds a path."""
    return posixpath.dirname(uri.rstrip("/")) or "/"


def is_picture(uri: str, suffixes: tuple[str, ...] = PICTURE_SUFFIXES) -> bool:
    """By its suffix; hidden files (macOS writes ._NAME beside each picture) are none."""
    return uri.lower().endswith(suffixes) and not name(uri).startswith(".")


def is_file(uri: str) -> bool:
    """Raises DataError: the object store cannot be asked."""
    fs, path = filesystem(uri)
    try:
        return bool(fs.isfile(path))
    except storage_errors() as error:
        raise _unreachable(uri, error) from error


def is_folder(uri: str) -> bool:
    """Raises DataError: the object store cannot be asked."""
    fs, path = filesystem(uri)
    try:
        return bool(fs.isdir(path))
    except storage_errors() as error:
        raise _unreachable(uri, error) from error


def list_folder(uri: str) -> list[str]:
    """Sorted URIs of what lies directly in a folder; folders end in "/".

    Raises:
        DataError: it cannot be listed.
    """
    fs, path = filesystem(uri)
    try:
        listed = fs.ls(path, detail=True)
    except storage_errors() as error:
        raise _unreachable(uri, error) from error
    root = uri.rstrip("/")
    found = [(posixpath.join(root, name(entry["name"])), _is_directory(entry)) for entry in listed]
    return sorted(child + "/" * is_directory for child, is_directory in found if child != root)


def folders_in(uri: str) -> dict[str, str]:
    """name -> URI of the folders directly below."""
    return {name(entry): entry.rstrip("/") for entry in list_folder(uri) if entry.endswith("/")}


def pictures_in(uri: str) -> list[str]:
    """Sorted URIs of the pictures directly in a folder."""
    return [entry for entry in list_folder(uri) if is_picture(entry)]


def list_pictures(uris: Sequence[str], suffixes: tuple[str, ...] = PICTURE_SUFFIXES) -> list[str]:
    """Every file named, and every picture below a folder named, once.

    Args:
        suffixes: of what counts as a picture in a folder.
    Raises:
        DataError: a path that is neither, or a folder without pictures.
    """
    found: dict[str, None] = {}
    for uri in uris:
        if is_file(uri):
            found[absolute(uri)] = None
        elif is_folder(uri):
            below = pictures_below(absolute(uri), suffixes=suffixes)
            if not below:
                raise DataError("no_pictures", f"{uri}: expected pictures ({', '.join(suffixes)}) below it")
            found |= dict.fromkeys(below)
        else:
            raise DataError("missing_file", f"{uri}: expected a picture or a folder of pictures, found neither")
    return list(found)


def pictures_below(uri: str, is_deep: bool = True, suffixes: tuple[str, ...] = PICTURE_SUFFIXES) -> list[str]:
    """URIs of the pictures in a folder, and where `is_deep` in all folders below it; sorted folder by folder.

    Raises:
        DataError: `too_deep`: folders below folders without an end. Links back to a folder above are left out.
    """
    return _pictures_below(uri, _MAX_DEPTH if is_deep else 0, frozenset({os.path.realpath(uri)}), suffixes)


def _pictures_below(uri: str, depth: int, above: frozenset[str], suffixes: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for entry in list_folder(uri):
        folder = entry.rstrip("/")
        if not entry.endswith("/"):
            found += [entry] if is_picture(entry, suffixes) else []
        elif depth and (real := os.path.realpath(folder)) not in above:
            if depth == 1:
                raise DataError(
                    "too_deep", f"{folder}: {_MAX_DEPTH} folders deep; name a folder nearer to the pictures"
                )
            found += _pictures_below(folder, depth - 1, above | {real}, suffixes)
    return found


def read_bytes(uri: str, max_bytes: int) -> bytes:
    """All of a file.

    Raises:
        DataError: missing_file, unreadable_file, empty_file, too_large.
    """
    data = read_head(uri, max_bytes + 1)
    if not data:
        raise DataError("empty_file", f"{uri}: expected content, found 0 bytes")
    if len(data) > max_bytes:
        raise DataError("too_large", f"{uri}: expected at most {max_bytes} bytes, found more")
    return data


def read_head(uri: str, count: int) -> bytes:
    """The first bytes of a file.

    Raises:
        DataError: missing_file, unreadable_file.
    """
    fs, path = filesystem(uri)
    try:
        with fs.open(path, "rb") as opened:
            return opened.read(count)
    except FileNotFoundError as error:
        raise DataError("missing_file", f"{uri}: expected a file, found none") from error
    except storage_errors() as error:
        raise DataError("unreadable_file", f"{uri}: expected a file: {type(error).__name__}: {error}") from error


def read_json(uri: str) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: as `read_bytes`, and damaged_json.
    """
    try:
        return json.loads(read_bytes(uri, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise DataError("damaged_json", f"{uri}: expected JSON: {error}") from error


def _is_directory(entry: dict[str, Any]) -> bool:
    # A link to a folder is listed as of type "link"; its target decides.
    return entry["type"] == "directory" or (entry["type"] == "link" and os.path.isdir(entry["name"]))


def _unreachable(uri: str, error: Exception) -> DataError:
    return DataError("unreachable", f"{uri}: cannot be listed: {type(error).__name__}: {error}")
