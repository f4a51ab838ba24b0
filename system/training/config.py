"""Everything that a training run can be told."""

from __future__ import annotations

from pydantic import Field

from system.config import FrozenConfig


class TrainConfig(FrozenConfig):
    """How to optimise.

    epochs: passes over the training scenes. patience: epochs without a lower validation loss after which it ends.
    batch_size: scenes of one step, over all workers together, so that their number does not change the result.
    learning_rate: peak, after a linear warm-up over `warmup_share` of the steps; then half a cosine down to zero.
    weight_decay: of AdamW. clip_norm: of the gradient of all parameters together.
    hidden_cells: share of the seen bird's-eye cells that attention may not read in a training step, another draw for
        each scene and step. Without it heads learn scenes by heart within three epochs.
    seed: of the order of the scenes and of the hidden cells.
    workers, threads_per_worker, use_gpu: of Ray Train. max_failures: dead workers until the run gives up.
    """

    epochs: int = Field(default=60, ge=1, le=100_000)
    patience: int = Field(default=15, ge=1)
    batch_size: int = Field(default=32, ge=1, le=65536)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0, le=10)
    clip_norm: float = Field(default=1.0, gt=0)
    hidden_cells: float = Field(default=0.5, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=1, ge=1, le=1024)
    threads_per_worker: int = Field(default=1, ge=1, le=256)
    use_gpu: bool = False
    max_failures: int = Field(default=3, ge=0)
