"""Scenes to learn from: what the heads read, and what is known of each.

Legend: N scenes, K tags of the taxonomy, L tags of a user's own head, T steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from system.labels.table import Labels
from system.miner.lift import LiftedScenes
from system.miner.scene_batch import SceneFeatures


@dataclass(frozen=True, eq=False)
class Targets:
    """What is known. Tags are 1 present, 0 absent, -1 unknown (int8); risk and future are NaN where unknown.

    A scene without pictures has no known tag and no known risk: a model cannot learn them from nothing.
    """

    tags_NK: Tensor
    own_NL: Tensor
    risk_N: Tensor
    future_NT2: Tensor

    def rows(self, keep: Tensor) -> Targets:
        """Some of the scenes."""
        return Targets(**{name: tensor[keep] for name, tensor in vars(self).items()})


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Features and targets of the same N scenes. stream_NKD: where the stream is frozen, its value, computed once."""

    features: SceneFeatures
    targets: Targets
    stream_NKD: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, keep: Tensor) -> TrainingSet:
        """Some of the scenes."""
        stream = None if self.stream_NKD is None else self.stream_NKD[keep]
        return TrainingSet(self.features.rows(keep), self.targets.rows(keep), stream)

    def with_hidden_cells(self, share: float, draw_NK: Tensor) -> TrainingSet:
        """The same, each seen cell hidden from attention with a probability; a scene keeps at least one.

        Args:
            draw_NK: uniform in [0, 1).
        """
        tokens = self.features.tokens
        seen = tokens.is_seen_NK
        kept = seen & (draw_NK.to(seen.device) >= share)
        kept = torch.where(kept.any(-1, keepdim=True), kept, seen)
        return replace(self, features=replace(self.features, tokens=replace(tokens, is_seen_NK=kept)))

    def to(self, device: torch.device) -> TrainingSet:
        """The same in another memory."""
        targets = Targets(**{name: tensor.to(device) for name, tensor in vars(self.targets).items()})
        return TrainingSet(self.features.map(lambda tensor: tensor.to(device)), targets)

    def with_stream(self, stream: Callable[[SceneFeatures], Tensor], batch: int = 256) -> TrainingSet:
        """The same with the stream of every scene computed."""
        with torch.no_grad():
            parts = [stream(self.features.rows(slice(k, k + batch))) for k in range(0, len(self), batch)]
        return replace(self, stream_NKD=torch.cat(parts))


def make_targets(labels: Labels, own_NL: NDArray[np.int8], lifted: LiftedScenes) -> Targets:
    """The targets of some scenes; what pictures would have to show is unknown where there are none."""
    has_pictures = lifted.counts_N > 0
    unknown = torch.tensor(-1, dtype=torch.int8)
    return Targets(
        tags_NK=torch.where(has_pictures[:, None], torch.from_numpy(labels.values_NK), unknown),
        own_NL=torch.where(has_pictures[:, None], torch.from_numpy(own_NL), unknown),
        risk_N=torch.where(has_pictures, torch.from_numpy(labels.risk_N), torch.nan),
        future_NT2=torch.where(lifted.ego_N3[:, :1, None].isnan(), torch.nan, torch.from_numpy(labels.future_NT2)),
    )
