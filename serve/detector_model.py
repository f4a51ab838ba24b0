"""A detector that is exchanged while it serves: put another one into its folder, and the next batch is its. No Ray."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from serve.services import DetectorFacts
from system.backbones.runtime import device_of
from system.errors import ModelError
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
            ModelError: there is no detector, or it is damaged.
        """
        torch.set_num_threads(threads)
        self._folder, self._look_every_s = Path(folder), look_every_s
        self._device = device_of(torch.cuda.is_available())
        self._stamp = self._stamp_now()
        self._detector, self._facts = self._load()
        self._looked_s = time.monotonic()

    def facts(self) -> DetectorFacts:
        """Of the detector that the next batch goes to."""
        self._refresh()
        return self._facts

    def detect(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[DetectorFacts, Detections]]:
        """(the detector, detections) of each picture, uint8 [H, W] of any size, as one batch."""
        self._refresh()
        return [(self._facts, found) for found in self._detector.detect(pictures)]

    def _refresh(self) -> None:
        """Load what is new. A folder that is half written, or damaged, leaves the detector that works."""
        now_s = time.monotonic()
        if now_s - self._looked_s < self._look_every_s:
            return
        self._looked_s = now_s
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        try:
            self._detector, self._facts = self._load()
            log.info("detector %s of %s serves now", self._facts.detector_id, self._folder)
        except ModelError as error:
            log.error("%s; detector %s goes on", error, self._facts.detector_id)
        self._stamp = stamp

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
