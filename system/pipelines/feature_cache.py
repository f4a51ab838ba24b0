"""What a tower knows of scenes, kept beside the logs, so that every training and every evaluation reads pictures once.

    CACHE/<tower and windows>/<SHA-256 of the file>.safetensors    scenes of one batch; their ids in its header

Files never change and are found by what they hold; one that is being written is invisible. A file that is damaged is
named and ignored, and its scenes are computed again.
Legend: N scenes, M pictures, C channels of a patch, E embedding width, K = 32 cells.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import fs

from system.errors import ConfigError, DataError
from system.logs.windows import WindowConfig

if TYPE_CHECKING:
    from system.miner.lift import LiftedScenes

# Raise whenever the lift gives other features for the same pictures.
LIFT_VERSION = 1
_MAX_HEADER_BYTES = 64 << 20
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class CachedScenes:
    """What a cache holds: file and row of each scene. damaged: files that cannot be read, and why."""

    where: dict[str, tuple[str, int]]
    damaged: tuple[str, ...]


class FeatureCache:
    """Features of one tower and one way to cut windows, in a folder or at an object store's URI."""

    def __init__(self, root: str, tower_id: str, windows: WindowConfig) -> None:
        """Raises ConfigError: `root` is no path and no URI of a known store."""
        parts = json.dumps([LIFT_VERSION, tower_id, windows.model_dump()], sort_keys=True)
        try:
            self._filesystem, folder = fs.FileSystem.from_uri(root if "://" in root else str(Path(root).absolute()))
        except (ValueError, OSError) as error:
            raise ConfigError(f"--cache {root}: expected a folder or an object store's URI: {error}") from error
        self._folder = f"{folder.rstrip('/')}/{hashlib.sha256(parts.encode()).hexdigest()[:16]}"

    def scenes(self) -> CachedScenes:
        """List what is there; headers only are read."""
        where: dict[str, tuple[str, int]] = {}
        damaged = []
        for path in self._files():
            try:
                ids = self._ids(path)
            except DataError as error:
                damaged.append(str(error))
                continue
            where |= {scene_id: (path, row) for row, scene_id in enumerate(ids) if scene_id not in where}
        return CachedScenes(where, tuple(damaged))

    def write(self, scene_ids: Sequence[str], lifted: LiftedScenes) -> str:
        """Keep some scenes; returns the file's path.

        Raises:
            DataError: the cache cannot be written.
        """
        from safetensors.torch import save

        tensors = {name: tensor.cpu().contiguous() for name, tensor in _tensors(lifted).items()}
        content = save(tensors, metadata={"scene_ids": json.dumps(list(scene_ids))})
        name = hashlib.sha256(content).hexdigest()
        path, unfinished = f"{self._folder}/{name}{_SUFFIX}", f"{self._folder}/{name}.part"
        try:
            self._filesystem.create_dir(self._folder, recursive=True)
            with self._filesystem.open_output_stream(unfinished) as stream:
                stream.write(content)
            self._filesystem.move(unfinished, path)
        except OSError as error:
            raise DataError("cache_not_written", f"{path}: cannot be written: {error}") from error
        return path

    def read(self, scene_ids: Sequence[str]) -> LiftedScenes:
        """The features of some scenes, in their order.

        Raises:
            DataError: a scene is not there, or its file is damaged.
        """
        import torch

        from system.miner.bev import BevTokens
        from system.miner.lift import LiftedScenes

        held = self.scenes().where
        missing = [scene_id for scene_id in scene_ids if scene_id not in held]
        if missing:
            raise DataError("not_cached", f"{self._folder}: {len(missing)} scenes are not there, e.g. {missing[0]}")
        files: dict[str, dict[str, torch.Tensor]] = {}
        rows: list[dict[str, torch.Tensor]] = []
        for scene_id in scene_ids:
            path, row = held[scene_id]
            if path not in files:
                files[path] = self._load(path)
            rows.append(_row(files[path], row))
        whole = {
            name: torch.cat([part[name] for part in rows]) for name in (rows[0] if rows else {}) if name != "counts_N"
        }
        if not rows:
            raise DataError("no_scenes", f"{self._folder}: no scene was asked for")
        counts = torch.cat([part["counts_N"] for part in rows])
        cells = {field.name: whole.pop(field.name) for field in fields(BevTokens)}
        return LiftedScenes(counts_N=counts, tokens=BevTokens(**cells), **whole)

    def _files(self) -> Iterator[str]:
        found = self._filesystem.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        yield from sorted(info.path for info in found if info.path.endswith(_SUFFIX))

    def _ids(self, path: str) -> list[str]:
        """From the header alone: 8 bytes of its length, then JSON (the safetensors format)."""
        try:
            with self._filesystem.open_input_file(path) as file:
                (size,) = struct.unpack("<Q", file.read(8))
                if size > _MAX_HEADER_BYTES:
                    raise ValueError(f"a header of {size} bytes")
                header = json.loads(file.read(size))
                end = 8 + size + max(entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__")
                if file.size() != end:
                    raise ValueError(f"{file.size()} bytes, expected {end}")
                return [str(scene_id) for scene_id in json.loads(header["__metadata__"]["scene_ids"])]
        except (OSError, ValueError, KeyError, struct.error) as error:
            raise DataError("damaged_cache", f"{path}: expected cached features: {error}; delete it") from error

    def _load(self, path: str) -> dict[str, Any]:
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            with self._filesystem.open_input_file(path) as file:
                content = file.read()
            if hashlib.sha256(content).hexdigest() != path.rsplit("/", 1)[-1].removesuffix(_SUFFIX):
                raise DataError("damaged_cache", f"{path}: its content is not what its name says; delete it")
            return load(content)
        except (OSError, SafetensorError) as error:
            raise DataError("damaged_cache", f"{path}: expected cached features: {error}; delete it") from error


def _tensors(lifted: LiftedScenes) -> dict[str, Any]:
    return {name: value for name, value in vars(lifted).items() if name != "tokens"} | vars(lifted.tokens)


def _row(tensors: dict[str, Any], row: int) -> dict[str, Any]:
    """One scene of a file; of its pictures' embeddings those that are its own."""
    start = int(tensors["counts_N"][:row].sum())
    pictures = slice(start, start + int(tensors["counts_N"][row]))
    return {
        name: tensor[pictures] if name == "pooled_ME" else tensor[row : row + 1] for name, tensor in tensors.items()
    }
