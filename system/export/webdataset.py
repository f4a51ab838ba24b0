"""WebDataset shards: tar files whose members <key>.jpg and <key>.json follow each other, one key a picture.

The key is <scene>-<camera>_<time>. The JSON holds the scene's tags, risk and ids, the camera's calibration and boxes.
Names and contents depend on the scenes alone: no times and owners of files.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from system.export.projection import project_boxes
from system.export.scene import Added, SceneExport, scene_facts
from system.miner.sightings import kind_of

SHARD_BYTES = 256 * 1024**2


class WebDatasetWriter:
    reads_pictures = needs_pictures = True

    def __init__(self, folder: Path, provenance: Mapping[str, Any], shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._shard_bytes = folder, shard_bytes
        self._shard: tarfile.TarFile | None = None
        self._count = 0

    def add(self, scene: SceneExport) -> Added:
        facts = scene_facts(scene.row)
        boxes = 0
        for picture in scene.pictures:
            frame, file = picture.frame, picture.file
            found = project_boxes(frame, file.width, file.height, scene.window.ego, scene.window.agents)
            boxes += len(found)
            told = {
                **facts,
                "camera": frame.camera,
                "t_ns": frame.t_ns,
                "width": file.width,
                "height": file.height,
                "intrinsics": frame.intrinsics,
                "ego_from_camera": frame.ego_from_camera,
                "boxes": [asdict(box) | {"kind": kind_of(box.category)} for box in found],
            }
            shard = self._open_shard()
            key = f"{scene.scene_id}-{picture.stem}"
            _add_member(shard, key + file.suffix, file.data)
            _add_member(shard, key + ".json", json.dumps(told, allow_nan=False).encode())
        return Added(len(scene.pictures), boxes)

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def abandon(self) -> None:
        self.close()

    def _open_shard(self) -> tarfile.TarFile:
        """The shard in hand, or the next one where that is full."""
        if self._shard is not None and self._shard.offset >= self._shard_bytes:
            self.close()
        if self._shard is None:
            # USTAR, because headers of other forms are members of their own to some readers.
            path = self._folder / f"shard-{self._count:06d}.tar"
            self._shard = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by `close`
            self._count += 1
        # A tar file remembers its members to be listed, which nobody asks.
        self._shard.members = []  # type: ignore[attr-defined]
        return self._shard


def _add_member(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    shard.addfile(member, io.BytesIO(data))
