"""Whether two sets of features tell the same of the same places (CKA), and are spread alike whatever the place (MMD).

Both are estimated without bias from one picture's places, so that the mean over pictures estimates the corpus however
few places a picture has: CKA is the ratio of mean HSICs, not the mean of ratios (Nguyen et al., arXiv 2010.15327).
Legend: N pictures, P places, C channels.
Source: unbiased HSIC: Song et al., JMLR 2012, eq. 5; unbiased MMD: Gretton et al., JMLR 2012, lemma 6.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hsic(first_NPC: Tensor, second_NPC: Tensor) -> Tensor:
    """Unbiased HSIC of linear kernels, [N]; needs 4 places or more. Negative where chance has it so."""
    kernels = []
    for features in (first_NPC, second_NPC):
        gram = features @ features.transpose(1, 2)
        kernels.append(gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2)))
    k, other = kernels
    n = first_NPC.shape[1]
    sum_k, sum_other = k.sum(dim=2), other.sum(dim=2)
    trace = (k * other).sum(dim=(1, 2))
    product = sum_k.sum(dim=1) * sum_other.sum(dim=1) / ((n - 1) * (n - 2))
    return (trace + product - 2 * (sum_k * sum_other).sum(dim=1) / (n - 2)) / (n * (n - 3))


def squared_bandwidth(features_NPC: Tensor) -> Tensor:
    """Median squared distance between places, [N]: the width of the RBF kernel exp(-d^2 / median)."""
    distances = _squared_distances(features_NPC, features_NPC)
    n = features_NPC.shape[1]
    row, column = torch.triu_indices(n, n, offset=1, device=features_NPC.device)
    return distances[:, row, column].median(dim=1).values.clamp_min(1e-30)


def squared_mmd(first_NPC: Tensor, second_NPC: Tensor, bandwidth_N: Tensor) -> Tensor:
    """Unbiased squared MMD with an RBF kernel, [N]; exactly 0 for equal inputs, around 0 for equal distributions."""
    n = first_NPC.shape[1]
    width = bandwidth_N[:, None, None]
    within = _kernel(first_NPC, first_NPC, width) + _kernel(second_NPC, second_NPC, width)
    across = _kernel(first_NPC, second_NPC, width)
    h = within - across - across.transpose(1, 2)
    return (h.sum(dim=(1, 2)) - h.diagonal(dim1=1, dim2=2).sum(dim=1)) / (n * (n - 1))


def some_places(features_NCHW: Tensor, at_most: int) -> Tensor:
    """Places of a map as [N, P, C]; of more than `at_most`, evenly spaced ones."""
    places_NPC = features_NCHW.flatten(2).transpose(1, 2)
    count = places_NPC.shape[1]
    if count <= at_most:
        return places_NPC
    # From the middle of each of `at_most` equal stretches: an even step would always meet the same column.
    chosen = ((torch.arange(at_most, device=features_NCHW.device) + 0.5) * count / at_most).long()
    return places_NPC[:, chosen]


def _squared_distances(first_NPC: Tensor, second_NPC: Tensor) -> Tensor:
    norms = first_NPC.square().sum(dim=2)[:, :, None] + second_NPC.square().sum(dim=2)[:, None, :]
    return (norms - 2 * first_NPC @ second_NPC.transpose(1, 2)).clamp_min(0)


def _kernel(first_NPC: Tensor, second_NPC: Tensor, width: Tensor) -> Tensor:
    return (-_squared_distances(first_NPC, second_NPC) / width).exp()
