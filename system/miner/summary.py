"""A scene in one row of numbers, and a linear reader of it: what a few hundred labels can teach.

A tag asks whether something is anywhere, so it reads the largest value of each channel over the cells, and how the ego
moves. Attention over the stream learns more from more labels.

Legend: N scenes, K = 32 cells, C channels of a patch, S numbers of a summary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from system.miner.bev import BevTokens

# Speed, yaw rate, acceleration, and yaw rate without its sign.
EGO_NUMBERS = 4
# One number against a thousand channels, whose evidence adds up; chosen by leaving out groups of training scenes.
_EGO_WEIGHT = 10.0
# What no training scene showed moves an answer no further than this many spreads would.
_FARTHEST = 5.0
# Of a token, whose own spread is 1, or of the ego in SI units: a number that hardly varies is not blown up.
_LEAST_SPREAD = 1e-3


def top_cells(tokens: BevTokens) -> Tensor:
    """The largest value of each channel over the cells that were seen, [N, C]; 0 where none was.

    Tokens are taken in their own mean and spread, so that neither depends on the tower's scale.
    """
    values_NKC = F.layer_norm(tokens.mean_NKC, tokens.mean_NKC.shape[-1:])
    seen_NK1 = tokens.is_seen_NK[..., None]
    top_NC = values_NKC.masked_fill(~seen_NK1, -torch.inf).amax(1)
    return top_NC.masked_fill(~seen_NK1.any(1), 0.0)


def summary(cells_NC: Tensor, ego_N3: Tensor) -> Tensor:
    """[N, S], S = C + EGO_NUMBERS; NaN where the ego's motion is unknown."""
    return torch.cat([cells_NC, ego_N3, ego_N3[:, 1:2].abs()], -1)


class SummaryReader(nn.Module):
    """[N, S] -> [N, outputs], zero at first. Each number counts in its own mean and spread over the training scenes.

    The unknown counts as the mean, so that it says nothing.
    """

    def __init__(self, cells: int, outputs: int) -> None:
        super().__init__()
        numbers = cells + EGO_NUMBERS
        self.centre: Tensor
        self.spread: Tensor
        self.register_buffer("centre", torch.zeros(numbers))
        self.register_buffer("spread", torch.ones(numbers))
        self.out = nn.Linear(numbers, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def standardise(self, summary_NS: Tensor) -> None:
        """Take mean and spread from these scenes."""
        known = summary_NS.isfinite()
        count = known.sum(0).clamp_min(1)
        centre = torch.where(known, summary_NS, 0.0).sum(0) / count
        variance = torch.where(known, summary_NS - centre, 0.0).square().sum(0) / count
        self.centre.copy_(centre)
        self.spread.copy_(variance.sqrt() + _LEAST_SPREAD)

    def inputs(self, summary_NS: Tensor) -> Tensor:
        """What the weights meet."""
        scaled = ((summary_NS - self.centre) / self.spread).nan_to_num(0.0).clamp(-_FARTHEST, _FARTHEST)
        cells = scaled.shape[-1] - EGO_NUMBERS
        return torch.cat([scaled[:, :cells], _EGO_WEIGHT * scaled[:, cells:]], -1)

    def forward(self, summary_NS: Tensor) -> Tensor:
        answer: Tensor = self.out(self.inputs(summary_NS))
        return answer
