"""The banded loss of one block by orthogonal projectors, with its gradient worked out in the same pass.

Low: ||c_S - c_T||^2 of the coefficients, by Parseval without an inverse transform. High: what the projector leaves.
With z = (x - mean) / ||x - mean||, projector P and its coefficients c, the gradient with regard to z is

    g + P(2 low_weight (z_S - z_T) - g),    g = high_weight * d high / d (z - P z),

and passes through the standardisation. Nothing of it is kept for a backward pass but the gradient itself, tensors are
reused in place, and channels stay last, as transformers give them, so that every product is one large matrix product.

Legend: B pictures, H x W tokens, C channels, K, L coefficients of rows and columns (`system.freqkd.bands`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from system.freqkd.bands import LowBand

# Of a place's norm: where there is nothing (a constant map), nothing is blown up.
MIN_NORM = 1e-6


@dataclass(frozen=True, eq=False)
class BandLossTerms:
    """band: the projector. low_weight, high_weight: None where a band does not count. has_log: high bands are compared
    by log1p|x|, with their sign if is_signed, else as they are."""

    band: LowBand
    low_weight: float | None
    high_weight: float | None
    has_log: bool
    is_signed: bool


class BandLoss(torch.autograd.Function):
    """(student_BCHW, teacher_BCHW, valid_BHW or None, terms) -> (total, low, high); total alone is differentiable."""

    @staticmethod
    def forward(
        ctx: Any, student_BCHW: Tensor, teacher_BCHW: Tensor, valid_BHW: Tensor | None, terms: BandLossTerms
    ) -> tuple[Tensor, Tensor, Tensor]:
        valid_BHW1 = None if valid_BHW is None else valid_BHW[..., None].to(student_BCHW.dtype)
        places_B111 = _places(student_BCHW, valid_BHW1)
        share_B111 = 1.0 / (places_B111 * student_BCHW.shape[1] * len(student_BCHW))
        ours, norms_BHW1 = _standardised(student_BCHW, valid_BHW1, places_B111)
        theirs, _ = _standardised(teacher_BCHW, valid_BHW1, places_B111)
        band, zero = terms.band, student_BCHW.new_zeros(())
        c_ours, c_theirs = _coefficients(ours, band), _coefficients(theirs, band)
        low = high = total = zero
        gradient, pull = None, None
        if terms.low_weight is not None:
            difference = c_ours - c_theirs
            low = (difference.square().sum(dim=(1, 2, 3), keepdim=True) * share_B111).sum()
            total = total + terms.low_weight * low
            pull = difference.mul_(2 * terms.low_weight * share_B111)
        if terms.high_weight is not None:
            high_ours, high_theirs = _subtract(ours, c_ours, band), _subtract(theirs, c_theirs, band)
            difference, slope = _compare(high_ours, high_theirs, terms)
            if valid_BHW1 is not None:
                difference.mul_(valid_BHW1)
            high = (difference.flatten(1).square().sum(dim=1).view(-1, 1, 1, 1) * share_B111).sum()
            total = total + terms.high_weight * high
            if ctx.needs_input_grad[0]:
                gradient = difference.mul_(2 * terms.high_weight * share_B111)
                gradient = gradient.mul_(slope) if slope is not None else gradient
        if ctx.needs_input_grad[0]:
            gradient = _through_band(gradient, pull, band)
            gradient = _through_standardisation(gradient, ours, norms_BHW1, valid_BHW1, places_B111)
            ctx.save_for_backward(gradient.permute(0, 3, 1, 2))
        ctx.mark_non_differentiable(low, high)
        return total, low, high

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        (gradient_BCHW,) = ctx.saved_tensors
        return gradient_BCHW * gradients[0], None, None, None


def _places(features_BCHW: Tensor, valid_BHW1: Tensor | None) -> Tensor:
    """How many places of each picture count."""
    if valid_BHW1 is None:
        count = float(features_BCHW.shape[2] * features_BCHW.shape[3])
        return features_BCHW.new_full((len(features_BCHW), 1, 1, 1), count)
    return valid_BHW1.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1)


def _standardised(features_BCHW: Tensor, valid_BHW1: Tensor | None, places_B111: Tensor) -> tuple[Tensor, Tensor]:
    """(features_BHWC in memory of its own, the norms that they were divided by)."""
    features_BHWC = features_BCHW.permute(0, 2, 3, 1)
    given = features_BHWC if valid_BHW1 is None else features_BHWC * valid_BHW1
    z_BHWC = torch.empty(features_BHWC.shape, dtype=features_BHWC.dtype, device=features_BHWC.device)
    torch.sub(features_BHWC, given.sum(dim=(1, 2), keepdim=True) / places_B111, out=z_BHWC)
    if valid_BHW1 is not None:
        z_BHWC.mul_(valid_BHW1)
    norms_BHW1 = torch.linalg.vector_norm(z_BHWC, dim=3, keepdim=True).clamp_min_(MIN_NORM)
    return z_BHWC.div_(norms_BHW1), norms_BHW1


def _coefficients(z_BHWC: Tensor, band: LowBand) -> Tensor:
    """[B, K, L, C]; those outside the band are 0."""
    B, H, W, C = z_BHWC.shape
    rows = (band.rows_HK.T @ z_BHWC.view(B, H, W * C)).view(B, -1, W, C)
    found = band.columns_WL.T @ rows
    return found if band.mask_KL is None else found.mul_(band.mask_KL[:, :, None])


def _lift(c_BKLC: Tensor, band: LowBand, onto_BHWC: Tensor | None, factor: float) -> Tensor:
    """onto + factor * (what the coefficients stand for), [B, H, W, C]."""
    B, K, _, C = c_BKLC.shape
    H, W = len(band.rows_HK), len(band.columns_WL)
    rows = (band.columns_WL @ c_BKLC).view(B, K, W * C)
    if onto_BHWC is None:
        return (band.rows_HK @ rows).mul_(factor).view(B, H, W, C)
    basis = band.rows_HK.expand(B, H, K)
    return torch.baddbmm(onto_BHWC.view(B, H, W * C), basis, rows, alpha=factor).view(B, H, W, C)


def _subtract(z_BHWC: Tensor, c_BKLC: Tensor, band: LowBand) -> Tensor:
    return _lift(c_BKLC, band, z_BHWC, -1.0)


def _compare(ours: Tensor, theirs: Tensor, terms: BandLossTerms) -> tuple[Tensor, Tensor | None]:
    """(f(ours) - f(theirs), f'(ours) or None for 1); both arguments are used up."""
    if not terms.has_log:
        return ours.sub_(theirs), None
    if terms.is_signed:
        slope = ours.abs().add_(1).reciprocal_()
        return _signed_log(ours).sub_(_signed_log(theirs)), slope
    sign, size, other = ours.sign(), ours.abs_(), theirs.abs_()
    # log1p(a) - log1p(b) = log1p((a - b) / (1 + b)): one logarithm for two, and no cancellation.
    difference = (size - other).div_(other.add_(1)).log1p_()
    return difference, sign.div_(size.add_(1))


def _signed_log(values: Tensor) -> Tensor:
    return values.abs().log1p_().copysign_(values)


def _through_band(gradient_BHWC: Tensor | None, pull_BKLC: Tensor | None, band: LowBand) -> Tensor:
    if gradient_BHWC is None:
        assert pull_BKLC is not None
        return _lift(pull_BKLC, band, None, 1.0)
    inside = _coefficients(gradient_BHWC, band).neg_()
    return _lift(inside if pull_BKLC is None else inside.add_(pull_BKLC), band, gradient_BHWC, 1.0)


def _through_standardisation(
    gradient_BHWC: Tensor, z_BHWC: Tensor, norms_BHW1: Tensor, valid_BHW1: Tensor | None, places_B111: Tensor
) -> Tensor:
    """What comes out of z, as what goes into x; `z_BHWC` is used up."""
    along_BHW1 = torch.linalg.vecdot(gradient_BHWC, z_BHWC)[..., None]
    # A norm that was bounded does not depend on x.
    along_BHW1.mul_(norms_BHW1 > MIN_NORM)
    gradient_BHWC.sub_(z_BHWC.mul_(along_BHW1)).div_(norms_BHW1)
    if valid_BHW1 is not None:
        gradient_BHWC.mul_(valid_BHW1)
    mean = gradient_BHWC.sum(dim=(1, 2), keepdim=True) / places_B111
    return gradient_BHWC.sub_(mean if valid_BHW1 is None else mean * valid_BHW1)
