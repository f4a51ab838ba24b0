"""The shape of a SceneMiner. Free of torch, so that the driver of a run can name a model without loading it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from system.config import FrozenConfig

# Heads that every model has, in the order of their answers.
HEADS = ("embedding", "tags", "risk", "forecast")


class OwnHead(FrozenConfig):
    """A head for questions of a user's own.

    name: what it is called in commands. tags: its yes-or-no questions, named like the tags of a taxonomy.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    tags: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _names_are_new(self) -> OwnHead:
        if self.name in HEADS:
            raise ValueError(f"head {self.name!r} exists in every model; choose another name")
        if len(set(self.tags)) < len(self.tags):
            raise ValueError(f"head {self.name!r}: a tag is named twice")
        return self


class SceneMinerConfig(FrozenConfig):
    """Sizes and constants of the model; part of its id.

    stream_dim: width D of the shared stream.
    stream_blocks, attention_heads: its transformer blocks, and the heads of every attention.
    head_parameters: what one reader of a head may have; its hidden width follows from that and the head's outputs.
    tag_scale: logits a unit of cosine contrast in the zero-shot tags, where the taxonomy has no calibration for the
        tower; 100, the temperature that CLIP and SigLIP were trained to (Radford et al., 2021; Zhai et al., 2023).
    forecast_horizon_s, forecast_steps: of the ego forecast, 2 Hz by default.
    seed: of the initial weights that are not zero.
    """

    stream_dim: int = Field(default=128, ge=8, le=4096)
    stream_blocks: int = Field(default=2, ge=0, le=64)
    attention_heads: int = Field(default=4, ge=1, le=64)
    head_parameters: int = Field(default=102_000, ge=1, le=1 << 30)
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
