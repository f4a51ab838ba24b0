"""The shape of a SceneMiner. Free of torch, so that the driver of a run can name a model without loading it."""

from __future__ import annotations

from pydantic import Field, model_validator

from system.config import FrozenConfig


class SceneMinerConfig(FrozenConfig):
    """Sizes and constants of the model; part of its id.

    stream_dim: width D of the shared stream.
    stream_blocks, attention_heads: its transformer blocks, and the heads of every attention.
    head_hidden: hidden width of a head; 400 gives a head of one output 102 177 parameters of its own.
    tag_scale: logits a unit of cosine contrast in the zero-shot tags, where the taxonomy has no calibration for the
        tower; 100, the temperature that CLIP and SigLIP were trained to (Radford et al., 2021; Zhai et al., 2023).
    forecast_horizon_s, forecast_steps: of the ego forecast, 2 Hz by default.
    seed: of the initial weights that are not zero.
    """

    stream_dim: int = Field(default=128, ge=8, le=4096)
    stream_blocks: int = Field(default=2, ge=0, le=64)
    attention_heads: int = Field(default=4, ge=1, le=64)
    head_hidden: int = Field(default=400, ge=1, le=65536)
    tag_scale: float = Field(default=100.0, gt=0, le=10_000)
    forecast_horizon_s: float = Field(default=3.0, gt=0, le=60)
    forecast_steps: int = Field(default=6, ge=1, le=600)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _heads_divide_the_stream(self) -> SceneMinerConfig:
        if self.stream_dim % self.attention_heads:
            raise ValueError(
                f"stream_dim {self.stream_dim} is not a multiple of attention_heads {self.attention_heads}"
            )
        return self
