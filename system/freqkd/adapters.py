"""Low-rank adapters on the wide layers of a vision transformer: W x + alpha/rank B A dropout(x), W frozen.

Source: LoRA (Hu et al., 2021), as FreqKD uses it: on `attn.qkv`, `mlp.fc1`, `mlp.fc2`; A Kaiming, B zero. Rank 0 stands
for the full matrix: W x + D x with D zero at the start, by which the paper's "full" is asked.

Legend: N pictures, P tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from system.errors import ConfigError, ModelError

ADAPTED = ("attn.qkv", "mlp.fc1", "mlp.fc2")
_OWN = (".lora_a", ".lora_b", ".delta")


class AdaptedLinear(nn.Linear):
    """A linear layer with an adapter; `weight` and `bias` keep their names and never change."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.rank, self.scale, self.dropout = rank, alpha / rank if rank else 1.0, dropout
        self.is_active = True
        self.dropout_generators: Sequence[torch.Generator] = ()
        where, dtype = base.weight.device, base.weight.dtype
        if not rank:
            self.delta = nn.Parameter(torch.zeros(self.out_features, self.in_features, device=where, dtype=dtype))
            return
        bound = math.sqrt(1 / self.in_features)  # kaiming_uniform with a = sqrt(5), as of nn.Linear
        start_RI = torch.empty(rank, self.in_features)
        if where.type != "meta":
            start_RI.uniform_(-bound, bound, generator=generator)
        self.lora_a = nn.Parameter(start_RI.to(where, dtype))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank, device=where, dtype=dtype))

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, P, I] -> [N, P, O]."""
        if not self.is_active:
            return F.linear(tokens, self.weight, self.bias)
        if not self.rank:
            return F.linear(tokens, self.weight + self.delta, self.bias)
        return F.linear(tokens, self.weight, self.bias) + self.scale * F.linear(
            F.linear(self._dropped(tokens), self.lora_a), self.lora_b
        )

    def update(self) -> Tensor:
        """What is added to `weight` at merge factor 1, [O, I]."""
        return self.scale * (self.lora_b @ self.lora_a) if self.rank else self.delta

    def _dropped(self, tokens: Tensor) -> Tensor:
        """Each picture has a generator of its own, so that a mask does not depend on who shares its batch."""
        if not self.training or not self.dropout:
            return tokens
        if not self.dropout_generators:
            return F.dropout(tokens, self.dropout)
        kept = torch.empty(tokens.shape, dtype=tokens.dtype, device=tokens.device)
        for row, generator in zip(kept, self.dropout_generators, strict=True):
            row.bernoulli_(1 - self.dropout, generator=generator)
        return tokens * kept.div_(1 - self.dropout)


def add_adapters(
    model: VisionTransformer,
    rank: int,
    alpha: float,
    dropout: float,
    seed: int,
    last_block: int | None = None,
) -> VisionTransformer:
    """Give a model adapters, in place, and freeze everything else; its answers stay what they were.

    Args:
        rank: 0 for full matrices.
        last_block: blocks beyond it are left alone.
    Raises:
        ConfigError: a rank below 0 or beyond the layers' width.
        ModelError: it has adapters already, or a layer is missing.
    """
    if not 0 <= rank <= model.embed_dim:
        raise ConfigError(f"rank {rank}: expected 1..{model.embed_dim}, or 0 for full matrices")
    if any(isinstance(module, AdaptedLinear) for module in model.modules()):
        raise ModelError("the model has adapters already; merge them first")
    model.requires_grad_(False)
    for block in range(len(model.blocks) if last_block is None else last_block + 1):
        for name in ADAPTED:
            parent = model.blocks[block].get_submodule(name.split(".")[0])
            child = name.split(".")[1]
            base = getattr(parent, child, None)
            if not isinstance(base, nn.Linear):
                raise ModelError(f"block {block} has no linear layer {name}: adapters need attn.qkv, mlp.fc1, mlp.fc2")
            # A layer's start depends on the seed and its name alone.
            digest = hashlib.sha256(f"{seed} {block} {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            setattr(parent, child, AdaptedLinear(base, rank, alpha, dropout, generator))
    return model


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLinear]:
    """The layers that have adapters, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if name.endswith(_OWN)}


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters alone: copies on the CPU."""
    return {name: parameter.detach().cpu().clone() for name, parameter in adapter_parameters(model).items()}


def load_adapter_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The inverse of `adapter_state`.

    Raises:
        ModelError: names or shapes are not those of the model's adapters.
    """
    own = adapter_parameters(model)
    if differing := sorted(set(own) ^ set(state)):
        raise ModelError(f"adapters: {differing[0]} is in one of the file and the model only ({len(differing)} differ)")
    with torch.no_grad():
        for name, parameter in own.items():
            if parameter.shape != state[name].shape:
                raise ModelError(
                    f"adapters: {name}: expected {tuple(parameter.shape)}, got {tuple(state[name].shape)}; "
                    "they were trained with another rank or another backbone"
                )
            parameter.copy_(state[name])


def merge(model: nn.Module, factor: float = 1.0) -> dict[str, Tensor]:
    """Weights of a plain model of the same architecture, W + factor alpha/rank B A; copies on the CPU."""
    layers = adapted_layers(model)
    merged = {
        name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items() if not name.endswith(_OWN)
    }
    with torch.no_grad():
        for name, layer in layers.items():
            merged[f"{name}.weight"] += factor * layer.update().detach().cpu()
    return merged


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The model that it grew from, for a while."""
    layers = adapted_layers(model).values()
    for layer in layers:
        layer.is_active = False
    try:
        yield
    finally:
        for layer in layers:
            layer.is_active = True
