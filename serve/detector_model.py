"""A detector that is exchanged while it serves: put another one into its folder, and the next batch is its. No Ray."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from serve.services import DetectorFacts
from system.backbones.runtime import device_of
from system.infrared.detections import Detections
from system.infrared.detector import CONFIG_NAME, Detector, detector_id

log = logging.getLogger("nightminer.serve")
# How often the folder is looked at.
_LOOK_EVERY_S = 1.0


class DetectorModel:
    """Methods block; one batch at a time."""

    def __init__(self, folder: str, threads: int = 1, look_every_s: float = _LOOK_EVERY_S) -> None:
        """
        Raises:
            ModelError, ConfigError: there is no detector, it is damaged, or its settings are.
        """
        torch.set_num_threads(threads)
        self._folder, self._look_every_s = Path(folder), look_every_s
        self._device = device_of(torch.cuda.is_available())
        self._stamp = self._stamp_now()
        # One value, so that no thread sees one detector with the facts of another.
        self._loaded = self._load()
        self._looked_s = time.monotonic()
        self._refreshing = threading.Lock()

    def facts(self) -> DetectorFacts:
        """Of the detector that the next batch goes to."""
        self._refresh()
        return self._loaded[1]

    def detect(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[DetectorFacts, Detections]]:
        """(the detector, detections) of each picture, uint8 [H, W] of any size, as one batch."""
        self._refresh()
        detector, facts = self._loaded
        return [(facts, found) for found in detector.detect(pictures)]

    def _refresh(self) -> None:
        """Load what is new; whoever comes meanwhile goes on with the old one.

        A folder that is half written, damaged, or too large for the memory leaves the detector that works, and is not
        tried again before it changes.
        """
        if not self._refreshing.acquire(blocking=False):
            return
        try:
            now_s = time.monotonic()
            if now_s - self._looked_s < self._look_every_s:
                return
            self._looked_s = now_s
            stamp = self._stamp_now()
            if stamp == self._stamp:
                return
            self._stamp = stamp
            try:
                self._loaded = self._load()
                log.info("detector %s of %s serves now", self._loaded[1].detector_id, self._folder)
            except Exception:  # whatever it is, the old one works
                log.exception("%s cannot be loaded; detector %s goes on", self._folder, self._loaded[1].detector_id)
        finally:
            self._refreshing.release()

    def _load(self) -> tuple[Detector, DetectorFacts]:
        identity = detector_id(self._folder)
        detector = Detector.load(self._folder).to(self._device)
        config = detector.config
        return detector, DetectorFacts(identity, config.classes, detector.size, config.mapping)

    def _stamp_now(self) -> tuple[tuple[int, int, int], ...]:
        stamps = []
        for file in (self._folder / CONFIG_NAME, *sorted(self._folder.glob("*.safetensors"))):
            try:
                told = file.stat()
            except OSError:
                continue
            stamps.append((told.st_mtime_ns, told.st_size, told.st_ino))
        return tuple(stamps)
