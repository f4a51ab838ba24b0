"""Weights that come as pickles inside packages, converted once to safetensors and checked by hash."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from system.errors import ModelError


def cache_folder() -> Path:
    """Where converted weights lie: NIGHTMINER_CACHE, or ~/.cache/nightminer."""
    return Path(os.environ.get("NIGHTMINER_CACHE") or Path.home() / ".cache" / "nightminer")


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(
            f"{path}: weights cannot be read: {error.strerror}; install the package that ships them"
        ) from error


def converted_weights(
    source: Path, source_sha256: str, name: str, convert: Callable[[Path], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors of a packaged weights file, by way of a safetensors copy in the cache.

    Args:
        source: the package's file; refused before it is opened unless it has the hash that the code was written for.
        name: of the copy; the hash is added to it.
        convert: reads the checked source.
    Raises:
        ModelError: another file than expected, or a cache that cannot be written.
    """
    target = cache_folder() / f"{name}-{source_sha256[:16]}.safetensors"
    if target.is_file():
        return load_file(target)
    actual = sha256_of(source)
    if actual != source_sha256:
        raise ModelError(f"{source}: expected SHA-256 {source_sha256}, found {actual}; install the pinned package")
    tensors = {key: tensor.detach().clone().contiguous() for key, tensor in convert(source).items()}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and moved into place: of two processes that convert at once, both end with a whole file.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            draft = Path(folder) / target.name
            save_file(tensors, draft)
            os.replace(draft, target)
    except OSError as error:
        raise ModelError(f"{target}: cannot be written: {error}; set NIGHTMINER_CACHE to a folder that can") from error
    return tensors


def read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    """A state dict from a .pth file; nothing but tensors is unpickled."""
    return dict(torch.load(path, map_location="cpu", weights_only=True))
