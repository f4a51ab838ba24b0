"""Gather what workers measured: sums over all pairs, by light and by misalignment."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from system.freqkd.spectrum import BANDS, METRICS, PREPARATIONS, radial_bands
from system.pairs.records import Pair
from system.pipelines.spectrum_measure import RELATIONS as RELATION_NAMES
from system.pipelines.spectrum_stream import MEASURED, MeasureSettings
from system.pipelines.spectrum_summary import summarise
from system.pipelines.spectrum_sums import DISTANCES, RELATIONS, PairSums, draw_weights
from system.report.spectrum import SpectrumExample

# In patches: a shift of one moves every feature to another token.
_SHIFT_BINS = ((0.0, 0.25), (0.25, 0.5), (0.5, 1.0), (1.0, math.inf))


class GatheredPairs:
    """Sums, splits and examples of the pairs seen so far; only the pairs' names grow with the corpus."""

    def __init__(
        self, chosen: Sequence[tuple[int, Pair]], settings: MeasureSettings, patch: int, draws: int, seed: int
    ) -> None:
        self.pairs = dict(chosen)
        self.comparisons = ("infrared", *(control.name for control in settings.controls))
        self.sums, self.skipped, self.guessed_light = PairSums(), Counter[str](), 0
        self.examples: list[SpectrumExample] = []
        self._settings, self._draws, self._seed = settings, draws, seed
        self._bands = radial_bands(*(side // patch for side in settings.size))
        edges = [(low * patch, high * patch) for low, high in _SHIFT_BINS]
        self._bins = {_bin_name(low, high): (low, high) for low, high in edges}
        self._splits: dict[str, dict[str, PairSums]] = {
            "light": {"day": PairSums(), "night": PairSums()},
            "misalignment": {**{name: PairSums() for name in self._bins}, "not clear": PairSums()},
        }

    def add(self, row: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Count one measured pair; returns its figures without the axis of pairs."""
        k, blocks, radii = len(self.comparisons), len(self._settings.blocks), len(self._bands.radii_R)
        shapes = (
            (len(PREPARATIONS), k, blocks, len(BANDS), len(METRICS)),
            (k, blocks, len(BANDS), len(RELATION_NAMES)),
            (k, blocks, radii, 3),
        )
        figures = {
            name: np.frombuffer(row[name], np.float32).reshape(shape)
            for name, shape in zip(MEASURED, shapes, strict=True)
        }
        weights = draw_weights([row["number"]], self._draws, self._seed)
        self.sums.add({name: values[None] for name, values in figures.items()}, weights)
        few = {name: figures[name][None] for name in (DISTANCES, RELATIONS)}
        few = {DISTANCES: few[DISTANCES][:, :, :1], RELATIONS: few[RELATIONS][:, :1]}
        for part in (self._splits["light"][row["light"]], self._splits["misalignment"][self._bin(row)]):
            part.add(few, weights)
        self.guessed_light += int(row["is_light_guessed"])
        if row["pictures"]:
            pair = self.pairs[row["number"]]
            title = f"{pair.corpus} / {pair.pair_id} ({row['light']})"
            self.examples.append(SpectrumExample(title, tuple(row["pictures"])))
        return figures

    def skip(self, code: str) -> None:
        self.skipped[code] += 1

    def summary(self) -> dict[str, Any]:
        return summarise(self.sums, self._splits, self.comparisons, self._settings.blocks, self._bands.radii_R.tolist())

    def _bin(self, row: Mapping[str, Any]) -> str:
        if not row["is_shift_confident"]:
            return "not clear"
        shift_px = math.hypot(row["dx_px"], row["dy_px"])
        return next(name for name, (low, high) in self._bins.items() if low <= shift_px < high)


def _bin_name(low_px: float, high_px: float) -> str:
    return f"{low_px:g} px or more" if math.isinf(high_px) else f"{low_px:g} to {high_px:g} px"
