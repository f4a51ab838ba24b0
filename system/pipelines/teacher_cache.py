"""What the teacher sees in a picture, kept on disk for the next epoch: found by its pixels, bounded in size.

    CACHE/<teacher, blocks and precision>/<first two digits>/<SHA-256 of the pixels>.safetensors

The pixels are those that the teacher is given: resized, shifted, mirrored. So nothing has to be forgotten when one of
these changes. Several workers may share a folder: a file is moved into place whole, one that another worker removed is
computed again, one that is damaged is replaced. Beyond the bound, the files that were not read for longest are removed.
Legend: C channels, h x w patches.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from system.errors import ConfigError

_SUFFIX, _DRAFT = ".safetensors", ".part"
_DRAFT_LIVES_S = 600.0
# A worker looks at the folder's size after it has written this share of the bound, removes files where more than _HIGH
# of it is in use, and stops at _LOW: a few workers that look at different times stay below the bound together.
_LOOK_AFTER, _HIGH, _LOW = 0.01, 0.9, 0.8


class TeacherCache:
    """Tensors of one picture or pair each, under a key."""

    def __init__(self, root: Path, space: str, max_bytes: int) -> None:
        """
        Args:
            space: everything besides the pixels that the tensors depend on.
            max_bytes: bound on `root` as a whole; 0 keeps nothing.
        Raises:
            ConfigError: `root` cannot be written.
        """
        self._root, self._max_bytes = root, max_bytes
        self._folder = root / hashlib.sha256(space.encode()).hexdigest()[:16]
        self._unseen_bytes = max_bytes  # nothing is known of the folder yet
        if max_bytes:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"--cache {root}: cannot be written: {error.strerror}") from error

    def get(self, key: str) -> list[Tensor] | None:
        """The tensors of a key, or None where they are not there."""
        path = self._path(key)
        try:
            tensors = load(path.read_bytes()) if self._max_bytes else {}
            found = [tensors[str(k)] for k in range(len(tensors))]
            if found:
                os.utime(path)
        except (OSError, SafetensorError, KeyError):
            found = []
        return found or None

    def put(self, key: str, tensors: Sequence[Tensor]) -> None:
        """Keep tensors; where the disk is full, they are not kept."""
        content = save({str(k): tensor.cpu().contiguous() for k, tensor in enumerate(tensors)})
        if len(content) > _LOW * self._max_bytes:
            return
        if self._unseen_bytes + len(content) > _LOOK_AFTER * self._max_bytes:
            self._make_room()
        path = self._path(key)
        with suppress(OSError):
            # Also where somebody removed the folder meanwhile.
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=_DRAFT)
            try:
                with os.fdopen(handle, "wb") as draft:
                    draft.write(content)
                os.replace(name, path)
            except OSError:
                os.unlink(name)
                raise
            self._unseen_bytes += len(content)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}{_SUFFIX}"

    def _make_room(self) -> None:
        held = []
        for path in self._root.glob("*/??/*"):
            with suppress(OSError):
                status = path.stat()
                if path.suffix == _DRAFT and time.time() - status.st_mtime > _DRAFT_LIVES_S:
                    path.unlink()  # of a process that was killed
                    continue
                held.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in held)
        if total > _HIGH * self._max_bytes:
            for _, size, path in sorted(held):
                if total <= _LOW * self._max_bytes:
                    break
                path.unlink(missing_ok=True)
                total -= size
        self._unseen_bytes = 0


def key_of(*pictures: Tensor) -> str:
    """SHA-256 of uint8 pictures and their shapes."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{tuple(picture.shape)}".encode())
        digest.update(picture.contiguous().numpy().data)
    return digest.hexdigest()


def kept_as(features: Sequence[Tensor]) -> list[Tensor]:
    """Half precision, as the cache keeps it: a student learns from these, whether they come from the cache or not.

    What is no number, or endless, stays no number.
    """
    largest = torch.finfo(torch.float16).max
    return [tensor.clamp(-largest, largest).masked_fill(~tensor.isfinite(), torch.nan).half() for tensor in features]
