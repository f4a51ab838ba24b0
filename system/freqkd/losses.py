"""What the student pays for differing from the teacher: FreqKD's losses and their rivals. Pure torch.

    mse        full-band mean squared error of standardised features
    cosine     1 - cosine over channels of raw features, mean over places (standardised, it would be `mse` times C/2)
    response   KL(teacher || student) of softmax over channels at every place of the last matched block: a backbone has
               no classes, so the channels of its output, normalised over channels, stand for logits
    low, high  one band alone
    freqkd     low_weight * MSE of the low bands + high_weight * MSE of log1p|.| of the high bands

`mse` also tells how much of it lies in the low and how much in the high band. Standardised: each channel's mean over
places is subtracted, then each place is divided by its norm over channels. Blocks are summed with their weights. All is
computed in float32 at least, whatever the features are.
Legend: B pictures, C channels, H x W tokens.
Source: FreqKD, arXiv 2606.11572.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from system.config import FrozenConfig
from system.errors import ConfigError, ModelError
from system.freqkd.band_loss import MIN_NORM, BandLoss, BandLossTerms
from system.freqkd.bands import BandShape, low_band, split_bands

_BANDED = ("low", "high", "freqkd")


class LossConfig(FrozenConfig):
    """Which loss, and its values.

    bands: as `system.freqkd.bands`. high: how high bands are matched, by logarithm of magnitudes or as they are.
    signed_log: sign(x) log1p|x| instead of log1p|x|, which forgets the sign. cutoff: share of each axis called low.
    register_pairs: each pair is registered before it is matched, see `system.freqkd.registration`.
    """

    kind: Literal["mse", "cosine", "response", "low", "high", "freqkd"] = "freqkd"
    bands: BandShape = "symmetric"
    signed_log: bool = False
    high: Literal["log", "mse"] = "log"
    cutoff: float = Field(default=0.5, gt=0, le=1)
    low_weight: float = Field(default=1.0, ge=0)
    high_weight: float = Field(default=0.1, ge=0)
    register_pairs: bool = False

    def with_cutoff(self, cutoff: float) -> LossConfig:
        """The same loss with bands that part elsewhere.

        Raises:
            ConfigError: it has no bands, or the cutoff is out of range.
        """
        if self.kind not in _BANDED:
            raise ConfigError(f"cutoff {cutoff:g}: a loss of kind {self.kind!r} has no bands and hence no cutoff")
        return LossConfig.parse(self.model_dump() | {"cutoff": cutoff}, f"a loss of kind {self.kind!r}")


@dataclass(frozen=True, eq=False)
class LossTerms:
    """total: differentiable. parts: detached, e.g. `low/0` and `high/0` of the first block, unweighted; `mse/0` is the
    sum of its own two."""

    total: Tensor
    parts: dict[str, Tensor]


def _banded(bands: BandShape, signed_log: bool = False) -> LossConfig:
    return LossConfig(kind="freqkd", bands=bands, signed_log=signed_log)


RECIPES: dict[str, LossConfig | None] = {
    "none": None,
    "mse": LossConfig(kind="mse"),
    "cosine": LossConfig(kind="cosine"),
    "response": LossConfig(kind="response"),
    "low_only": LossConfig(kind="low", bands="reference"),
    "high_only": LossConfig(kind="high", bands="reference", high_weight=1.0),
    "reference": _banded("reference"),
    "symmetric": _banded("symmetric"),
    "radial": _banded("radial"),
    "reference_signed": _banded("reference", signed_log=True),
    "symmetric_signed": _banded("symmetric", signed_log=True),
    "radial_signed": _banded("radial", signed_log=True),
    "registered": LossConfig(kind="mse", register_pairs=True),
}


def distillation_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    config: LossConfig,
    valid_BHW: Tensor | None = None,
    block_weights: Sequence[float] | None = None,
) -> LossTerms:
    """The loss of matched blocks; a mean over pictures of means over each picture's valid places.

    Args:
        student, teacher: [B, C, H, W] for each block.
        valid_BHW: bool, places that count; all, if None. Others are zero where bands are split.
        block_weights: one for each block; 1 each, if None.
    Raises:
        ConfigError: another number of weights than of blocks. ModelError: shapes differ, or a feature is no number.
    """
    weights = _weights(student, teacher, valid_BHW, block_weights)
    parts: dict[str, Tensor] = {}
    total = torch.zeros((), device=student[0].device)
    with torch.autocast(student[0].device.type, enabled=False):
        for block, (ours, theirs, weight) in enumerate(zip(student, teacher, weights, strict=True)):
            # The response is that of the last block alone.
            if config.kind == "response" and block + 1 < len(student):
                continue
            value, terms = _block_loss(_precise(ours), _precise(theirs).detach(), config, valid_BHW)
            total = total + weight * value
            parts |= {f"{name}/{block}": part.detach() for name, part in terms.items()}
    if not torch.isfinite(total):
        _name_culprit(student, teacher)
    return LossTerms(total, parts)


def standardise(features_BCHW: Tensor, valid_BHW: Tensor | None = None) -> Tensor:
    """Subtract each channel's mean over places, then divide each place by its norm over channels; invalid places: 0."""
    if valid_BHW is None:
        centred = features_BCHW - features_BCHW.mean(dim=(2, 3), keepdim=True)
    else:
        valid = valid_BHW[:, None].to(features_BCHW.dtype)
        mean = (features_BCHW * valid).sum(dim=(2, 3), keepdim=True) / valid.sum(dim=(2, 3), keepdim=True).clamp_min(1)
        centred = (features_BCHW - mean) * valid
    return centred / torch.linalg.vector_norm(centred, dim=1, keepdim=True).clamp_min(MIN_NORM)


def _block_loss(
    student: Tensor, teacher: Tensor, config: LossConfig, valid_BHW: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """(what is minimised, its parts without their weights)."""
    if config.kind in ("low", "high", "freqkd"):
        return _banded_loss(student, teacher, config, valid_BHW)
    if config.kind == "mse":
        difference = standardise(student, valid_BHW) - standardise(teacher, valid_BHW)
        value = _mean(difference.square(), valid_BHW)
        low = _low_share(difference.detach(), config, valid_BHW)
        return value, {"mse": value, "low": low, "high": value - low}
    if config.kind == "cosine":
        values = 1 - torch.nn.functional.cosine_similarity(student, teacher, dim=1, eps=MIN_NORM)[:, None]
    else:
        values = _divergence(student, teacher)
    value = _mean(values if valid_BHW is None else values * valid_BHW[:, None], valid_BHW)
    return value, {config.kind: value}


def _banded_loss(
    student: Tensor, teacher: Tensor, config: LossConfig, valid_BHW: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    low_weight = None if config.kind == "high" else config.low_weight
    high_weight = None if config.kind == "low" else config.high_weight
    if config.bands == "reference":
        total, low, high = _published_loss(student, teacher, config, valid_BHW, low_weight, high_weight)
    else:
        band = low_band(*student.shape[2:], config.cutoff, config.bands, student.dtype, student.device)
        terms = BandLossTerms(band, low_weight, high_weight, config.high == "log", config.signed_log)
        total, low, high = BandLoss.apply(student, teacher, valid_BHW, terms)
    parts = {"low": low} if low_weight is not None else {}
    return total, parts | ({"high": high} if high_weight is not None else {})


def _published_loss(
    student: Tensor,
    teacher: Tensor,
    config: LossConfig,
    valid_BHW: Tensor | None,
    low_weight: float | None,
    high_weight: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    (low_s, high_s), (low_t, high_t) = (
        split_bands(standardise(features, valid_BHW), config.cutoff, config.bands) for features in (student, teacher)
    )
    total = low = high = student.new_zeros(())
    if low_weight is not None:
        low = _mean((low_s - low_t).square(), valid_BHW)
        total = total + low_weight * low
    if high_weight is not None:
        if config.high == "log":
            high_s, high_t = (_compressed(band, config.signed_log) for band in (high_s, high_t))
        difference = high_s - high_t
        high = _mean((difference if valid_BHW is None else difference * valid_BHW[:, None]).square(), valid_BHW)
        total = total + high_weight * high
    return total, low, high


def _low_share(difference_BCHW: Tensor, config: LossConfig, valid_BHW: Tensor | None) -> Tensor:
    """What lies in the low band of the mean square of a difference; the band's projector is orthogonal."""
    shape: BandShape = "symmetric" if config.bands == "reference" else config.bands
    height, width = difference_BCHW.shape[2:]
    band = low_band(height, width, config.cutoff, shape, difference_BCHW.dtype, difference_BCHW.device)
    coefficients_BCKL = band.rows_HK.T @ difference_BCHW @ band.columns_WL
    if band.mask_KL is not None:
        coefficients_BCKL = coefficients_BCKL * band.mask_KL
    squares_B = coefficients_BCKL.square().sum(dim=(1, 2, 3))
    return (squares_B / _counts(difference_BCHW, valid_BHW)).mean()


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) at each place, [B, 1, H, W]."""
    ours, theirs = (
        torch.nn.functional.layer_norm(f.movedim(1, -1), f.shape[1:2]).log_softmax(dim=-1) for f in (student, teacher)
    )
    return (theirs.exp() * (theirs - ours)).sum(-1)[:, None]


def _compressed(high: Tensor, is_signed: bool) -> Tensor:
    # One of the two logarithms is zero; unlike sign(x) log1p|x|, their slope at zero is not lost.
    return high.clamp_min(0).log1p() - (-high).clamp_min(0).log1p() if is_signed else high.abs().log1p()


def _mean(values_BCHW: Tensor, valid_BHW: Tensor | None) -> Tensor:
    """Over pictures, of the sum over places divided by the number of valid ones."""
    if valid_BHW is None:
        return values_BCHW.mean()
    return (values_BCHW.sum(dim=(1, 2, 3)) / _counts(values_BCHW, valid_BHW)).mean()


def _counts(values_BCHW: Tensor, valid_BHW: Tensor | None) -> Tensor | int:
    """Values of each picture that count, [B] where pictures differ."""
    channels, height, width = values_BCHW.shape[1:]
    if valid_BHW is None:
        return channels * height * width
    return valid_BHW.sum(dim=(1, 2)).clamp_min(1) * channels


def _precise(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()


def _weights(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    valid_BHW: Tensor | None,
    block_weights: Sequence[float] | None,
) -> Sequence[float]:
    if not student or len(student) != len(teacher):
        raise ModelError(
            f"{len(student)} feature maps of the student and {len(teacher)} of the teacher; expected as many"
        )
    for block, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
        if ours.ndim != 4 or ours.shape != theirs.shape:
            raise ModelError(
                f"matched block {block}: student {list(ours.shape)}, teacher {list(theirs.shape)}; expected both "
                "[pictures, channels, rows, columns] of the same width and grid"
            )
        if valid_BHW is not None and valid_BHW.shape != (ours.shape[0], *ours.shape[2:]):
            raise ModelError(
                f"matched block {block}: valid places {list(valid_BHW.shape)} for features {list(ours.shape)}"
            )
    if block_weights is not None and len(block_weights) != len(student):
        raise ConfigError(f"{len(block_weights)} block weights for {len(student)} blocks; expected one for each")
    return [1.0] * len(student) if block_weights is None else block_weights


def _name_culprit(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    for side, maps in (("student", student), ("teacher", teacher)):
        for block, features in enumerate(maps):
            bad = int((~torch.isfinite(features)).sum())
            if bad:
                raise ModelError(
                    f"matched block {block}: {bad} of {features.numel()} features of the {side} are NaN or infinite; "
                    "look for broken pictures, or try a lower learning rate or precision fp32"
                )
