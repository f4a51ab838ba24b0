"""Whether two sets of features tell the same of the same places (CKA), and are spread alike whatever the place (MMD).

Both are estimated without bias from one picture's places, so that the mean over pictures estimates the corpus however
few places a picture has: CKA is the ratio of mean HSICs, not the mean of ratios (Nguyen et al., arXiv 2010.15327).
Legend: N pictures, P places, C channels, K others that are compared with one.
Source: unbiased HSIC: Song et al., JMLR 2012, eq. 5; unbiased MMD: Gretton et al., JMLR 2012, lemma 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SIMILARITIES = ("hsic", "hsic_rgb", "hsic_other", "mmd")


def relate(rgb_NPC: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Unbiased linear HSICs of both, of RGB alone and of the other alone, and squared RBF-MMD, [N, K, 4].

    CKA is hsic / sqrt(hsic_rgb * hsic_other), of means over pictures. The kernel's width is the median distance between
    RGB's own places, the same for all others, so that their MMDs can be compared. Needs 4 places.
    """
    within = rgb_NPC @ rgb_NPC.transpose(1, 2)
    own = hsic(within, within)
    distances = _squared_distances(within, within, within)
    width = _median(distances)
    kernel = (-distances / width).exp()
    found = []
    for other_NPC in others:
        theirs = other_NPC @ other_NPC.transpose(1, 2)
        across = rgb_NPC @ other_NPC.transpose(1, 2)
        their_kernel = (-_squared_distances(theirs, theirs, theirs) / width).exp()
        cross_kernel = (-_squared_distances(across, within, theirs) / width).exp()
        found.append(
            torch.stack(
                [hsic(within, theirs), own, hsic(theirs, theirs), squared_mmd(kernel, their_kernel, cross_kernel)],
                dim=1,
            )
        )
    return torch.stack(found, dim=1)


def hsic(first_NPP: Tensor, second_NPP: Tensor) -> Tensor:
    """Unbiased HSIC of two kernels' matrices over the same places, [N]. Negative where chance has it so."""
    k, other = (kernel - torch.diag_embed(kernel.diagonal(dim1=1, dim2=2)) for kernel in (first_NPP, second_NPP))
    n = k.shape[1]
    sum_k, sum_other = k.sum(dim=2), other.sum(dim=2)
    trace = (k * other).sum(dim=(1, 2))
    product = sum_k.sum(dim=1) * sum_other.sum(dim=1) / ((n - 1) * (n - 2))
    return (trace + product - 2 * (sum_k * sum_other).sum(dim=1) / (n - 2)) / (n * (n - 3))


def squared_mmd(first_NPP: Tensor, second_NPP: Tensor, across_NPP: Tensor) -> Tensor:
    """Unbiased squared MMD from kernels within both sets and across, [N].

    Exactly 0 for equal sets, around 0 for equal distributions.
    """
    n = first_NPP.shape[1]
    h = first_NPP + second_NPP - across_NPP - across_NPP.transpose(1, 2)
    return (h.sum(dim=(1, 2)) - h.diagonal(dim1=1, dim2=2).sum(dim=1)) / (n * (n - 1))


def some_places(features_NCHW: Tensor, at_most: int) -> Tensor:
    """Places of a map as [N, P, C]; of more than `at_most`, evenly spaced ones."""
    places_NPC = features_NCHW.flatten(2).transpose(1, 2)
    count = places_NPC.shape[1]
    if count <= at_most:
        return places_NPC
    # The middle of each of `at_most` equal stretches.
    chosen = ((torch.arange(at_most, device=features_NCHW.device) + 0.5) * count / at_most).long()
    return places_NPC[:, chosen]


def _squared_distances(across_NPP: Tensor, first_NPP: Tensor, second_NPP: Tensor) -> Tensor:
    """From products across two sets and within each."""
    norms = first_NPP.diagonal(dim1=1, dim2=2)[:, :, None] + second_NPP.diagonal(dim1=1, dim2=2)[:, None, :]
    return (norms - 2 * across_NPP).clamp_min(0)


def _median(distances_NPP: Tensor) -> Tensor:
    """Between different places, [N, 1, 1]."""
    n = distances_NPP.shape[1]
    row, column = torch.triu_indices(n, n, offset=1, device=distances_NPP.device)
    return distances_NPP[:, row, column].median(dim=1).values.clamp_min(1e-30)[:, None, None]
