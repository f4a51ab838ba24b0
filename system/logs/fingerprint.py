"""What a log's content is told by without reading it: names, sizes and versions of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from system.errors import DataError, storage_errors
from system.logs import files
from system.logs.registry import read_log
from system.records import LogRef

# A folder of these holds files of one log; what lies in folders below it belongs to others.
_FLAT = ("mcap", "video", "pictures")


@dataclass(frozen=True)
class Fingerprint:
    """`text` begins with its kind, "files" or "metadata"; two kinds cannot be compared. size_bytes: of all files."""

    text: str
    size_bytes: int

    def differs_from(self, other: str) -> bool:
        """Whether the content is another one; False where the kinds differ, since nothing is known then."""
        return self.text != other and self.text.partition(":")[0] == other.partition(":")[0]


def log_fingerprint(ref: LogRef, shares_files: bool) -> Fingerprint:
    """Fingerprint of a log as it lies there now.

    Args:
        shares_files: the log's files hold other logs too, as nuScenes' tables do. Then a change of the files says
            nothing of this log, and what its metadata say (tracks, times and names of pictures) is taken.
    Raises:
        DataError: the log cannot be listed or read.
    """
    if shares_files:
        return Fingerprint("metadata:" + _metadata_digest(ref), 0)
    fs, path = files.filesystem(ref.uri)
    try:
        if fs.isfile(path):
            found: Mapping[str, Mapping[str, Any]] = {path: fs.info(path)}
        else:
            found = fs.find(path, maxdepth=1 if ref.reader in _FLAT else None, detail=True)
    except storage_errors() as error:
        raise DataError("unreachable", f"{ref.uri}: cannot be listed: {type(error).__name__}: {error}") from error
    digest, size_bytes = hashlib.blake2b(digest_size=16), 0
    for name in sorted(found):
        about = found[name]
        version = files.version_of(about)
        relative = name.removeprefix(path).lstrip("/")  # the same log in another place is the same log
        digest.update(f"{relative}\x1f{about.get('size')}\x1f{version}\x1e".encode("utf-8", "surrogateescape"))
        size_bytes += int(about.get("size") or 0)
    return Fingerprint("files:" + digest.hexdigest(), size_bytes)


def _metadata_digest(ref: LogRef) -> str:
    log = read_log(ref)
    digest = hashlib.blake2b(f"{log.description}\x1f{log.truth_tags}".encode(), digest_size=16)
    for frame in log.frames:
        digest.update(f"{frame.camera}\x1f{frame.t_ns}\x1f{files.name(frame.uri)}\x1f{frame.locator}\x1e".encode())
    if log.ego is not None:
        digest.update(log.ego.t_ns.tobytes() + log.ego.states.tobytes())
    for track in log.agents or ():
        digest.update(f"{track.track_id}\x1f{track.category}".encode() + track.t_ns.tobytes() + track.states.tobytes())
    return digest.hexdigest()
