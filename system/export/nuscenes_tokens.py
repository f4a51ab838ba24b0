"""nuScenes sample tokens: sample_tokens.json, a list to select samples of the data set that the reader has already, and
scenes.jsonl, which says what scene each belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from system.errors import DataError
from system.export.json_arrays import JsonList
from system.export.scene import Added, SceneExport, scene_facts
from system.logs.nuscenes import NuScenesReader, sample_tokens

TOKENS_NAME, SCENES_NAME = "sample_tokens.json", "scenes.jsonl"


def tokens_of(scene: SceneExport) -> list[str]:
    """The scene's sample tokens.

    Raises:
        DataError: `not_nuscenes`, `no_samples`.
    """
    log = scene.window.ref.log
    if log.reader != NuScenesReader.name:
        told = f"{log.uri}: scene {scene.scene_id} was read as {log.reader!r}; expected nuScenes tables"
        raise DataError("not_nuscenes", f"{told}. Take another --format, or --source")
    _, tokens = sample_tokens(log.uri, log.log_id, scene.window.ref.t_start_ns, scene.window.ref.t_end_ns)
    if not tokens:
        raise DataError("no_samples", f"{log.uri}: scene {scene.scene_id}: expected samples in its time, found none")
    return tokens


class NuScenesTokensWriter:
    reads_pictures = needs_pictures = False

    def __init__(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        self._tokens = JsonList(folder / TOKENS_NAME)
        self._scenes = (folder / SCENES_NAME).open("w", encoding="utf-8")
        self._log, self._written = "", set[str]()

    def add(self, scene: SceneExport) -> Added:
        tokens = tokens_of(scene)
        if self._log != (log := f"{scene.window.ref.log.uri} {scene.window.ref.log.log_id}"):
            self._log, self._written = log, set()
        # Windows may overlap, and a token is listed once.
        for token in tokens:
            if token not in self._written:
                self._written.add(token)
                self._tokens.add(token)
        about = {"sample_tokens": tokens, "scene_name": scene.window.ref.log.log_id} | scene_facts(scene.row)
        self._scenes.write(json.dumps(about, allow_nan=False) + "\n")
        return Added()

    def abandon(self) -> None:
        self._tokens.abandon()
        self._scenes.close()

    def close(self) -> None:
        self._tokens.close()
        self._scenes.close()
