"""Low-rank adapters on the wide layers of a vision transformer: W x + alpha/rank B A dropout(x), W frozen.

Source: LoRA (Hu et al., 2021), as FreqKD uses it: on `attn.qkv`, `mlp.fc1`, `mlp.fc2`; A Kaiming, B zero. Rank 0 stands
for the full matrix: W x + D x with D zero at the start, by which the paper's "full" is asked.

Legend: N pictures, P tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

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
        if not self.rank:
            return F.linear(tokens, self.weight + self.delta, self.bias)
        drops = self.training and self.dropout > 0
        kept = self._kept(tokens) if drops else None
        scale = self.scale / (1 - self.dropout) if drops else self.scale
        given = [tokens, self.weight, self.bias, self.lora_a, self.lora_b]
        if torch.is_autocast_enabled(tokens.device.type):
            dtype = torch.get_autocast_dtype(tokens.device.type)
            given = [tensor if tensor is None else tensor.to(dtype) for tensor in given]
        answer: Tensor = _LowRankUpdate.apply(*given, kept, scale)
        return answer

    def update(self) -> Tensor:
        """What is added to `weight` at merge factor 1, [O, I]."""
        return self.scale * (self.lora_b @ self.lora_a) if self.rank else self.delta

    def _kept(self, tokens: Tensor) -> Tensor:
        """Which inputs are not dropped, bool [N, P, I].

        Each picture has a generator of its own, so that its mask does not depend on who shares its batch. A number of
        64 bits decides four inputs: a fourth of the time of Bernoulli draws; the share is exact to 2^-16.
        """
        count = tokens[0].numel()
        bound = round(self.dropout * 65536) - 32768
        kept = torch.empty(tokens.shape, dtype=torch.bool, device=tokens.device)
        generators: Sequence[torch.Generator | None] = self.dropout_generators or [None] * len(tokens)
        for row, generator in zip(kept, generators, strict=True):
            bits = torch.empty(-(-count // 4), dtype=torch.int64, device=tokens.device)
            bits.random_(-(2**63), None, generator=generator)
            torch.ge(bits.view(torch.int16)[:count].view(row.shape), bound, out=row)
        return kept


class _LowRankUpdate(torch.autograd.Function):
    """W x + b + scale B A (kept * x) with a gradient for x, A and B: a tenth faster than what autograd would derive.

    The frozen W gets none, so that x itself is not kept; sums go into matrix products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        kept: Tensor | None,
        scale: float,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        seen = rows if kept is None else rows * kept.view(rows.shape)
        low = seen @ a.t()
        answer = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        answer.addmm_(low, b.t(), alpha=scale)
        ctx.save_for_backward(seen, low, kept, weight, a, b)
        ctx.scale = scale
        return answer.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        seen, low, kept, weight, a, b = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, weight.shape[0])
        to_low = (gradient @ b).mul_(ctx.scale)
        to_b = (gradient.t() @ low).mul_(ctx.scale)
        to_a = to_low.t() @ seen
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = to_low @ a
            if kept is not None:
                to_x.mul_(kept.view(to_x.shape))
            to_x.addmm_(gradient, weight)
            to_x = to_x.view(*gradients[0].shape[:-1], -1)
        return to_x, None, None, to_a, to_b, None, None


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
    load_parameters(adapter_parameters(model), state)


def load_parameters(own: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
    """Copy a state into the trained parameters of a student.

    Raises:
        ModelError: names or shapes differ.
    """
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
