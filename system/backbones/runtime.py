"""Device, type, batch size and threads of a tower, from what its process was given. Free of torch until asked."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from system.config import FrozenConfig

# Set where GPUs are logical only, as on the cluster of one machine (`cluster/local.py`): what is given one then
# computes on the CPU. Nowhere else: a machine whose GPU does not work must say so.
LOGICAL_GPUS = "NIGHTMINER_LOGICAL_GPUS"


class Runtime(FrozenConfig):
    """How a tower computes.

    device: "cpu" or "cuda". dtype: of the arithmetic under autocast; answers are float32 always.
    threads: of torch on a CPU. batch_size: pictures at a time. compile: by torch.compile, which pays after minutes.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = Field(default=1, ge=1)
    batch_size: int = Field(default=4, ge=1)
    compile: bool = False


def device_of(use_gpu: bool) -> Literal["cpu", "cuda"]:
    """Where a process computes that was given a GPU or none."""
    return "cuda" if use_gpu and os.environ.get(LOGICAL_GPUS) != "1" else "cpu"


def choose_runtime(num_cpus: int, use_gpu: bool, compile_model: bool = False) -> Runtime:
    """The runtime for an actor with so many CPUs, and a GPU or none.

    On a CPU four pictures at a time stay in its cache (the packaged tower: 74 images/s, but 47 with 32 at a time); on a
    GPU bfloat16 is taken where the card computes it, else float16.
    """
    if device_of(use_gpu) == "cpu":
        return Runtime(threads=max(1, num_cpus), compile=compile_model)
    import torch

    dtype: Literal["bfloat16", "float16"] = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return Runtime(device="cuda", dtype=dtype, threads=max(1, num_cpus), batch_size=128, compile=compile_model)
