"""What a backbone's patches know: a linear probe for objects, and retrieval across modalities. Pure maths.

Legend: N pictures, P patches of all pictures, C channels, K classes, h x w patches of one picture, B draws,
D = C + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from system.errors import DataError

PRESENT, ABSENT, IGNORED = 1, 0, -1
# Of the penalty, beside the mean log loss of standardised features; for every backbone alike. An untouched DINOv2 has
# its best mean over five contiguous folds of MSRS's training pictures there: 47.9; 47.0 at 3e-2 and 46.7 at 3e-3.
STRENGTH = 1e-2
_MAX_STEPS, _LEAST_GAIN, _BENDS_LEAST = 50, 1e-6, 0.02
_LEAST_SPREAD = 1e-6
_DRAWS_AT_ONCE = 64

Floats = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Logistic regression for each class on standardised features.

    mean_C, spread_C: of the training patches. weights_CK, bias_K: of the logits.
    """

    mean_C: Tensor
    spread_C: Tensor
    weights_CK: Tensor
    bias_K: Tensor

    def scores(self, features_PC: Tensor) -> Floats:
        """Logits [P, K]."""
        standardised_PC = (features_PC - self.mean_C) / self.spread_C
        found: Floats = (standardised_PC @ self.weights_CK + self.bias_K).numpy()
        return found


def patch_targets(
    boxes_xyxy: Floats,
    labels: NDArray[np.integer],
    is_ignored: NDArray[np.bool_],
    num_classes: int,
    size: tuple[int, int],
    patch: int,
) -> NDArray[np.int8]:
    """Which patches show which class, [h, w, K].

    A patch is PRESENT for a class when boxes of the class cover at least half of it, or when the centre of one lies in
    it, so that objects smaller than half a patch count too. It is IGNORED when that holds of ignored boxes of the class
    alone, and where its own centre lies outside the picture (the last row and column of a padded one). Else ABSENT.

    Args:
        boxes_xyxy: [N, 4] in pixels of the picture that the backbone sees. labels: [N] in 0..num_classes-1; boxes of
            others are left out.
        size: of that picture, (height, width).
    """
    height, width = size
    rows, columns = -(-height // patch), -(-width // patch)
    targets = np.zeros((rows, columns, num_classes), np.int8)
    for label in range(num_classes):
        of_class = labels == label
        ignored = _touched(boxes_xyxy[of_class & is_ignored], rows, columns, patch)
        present = _touched(boxes_xyxy[of_class & ~is_ignored], rows, columns, patch)
        targets[..., label] = np.where(present, PRESENT, np.where(ignored, IGNORED, ABSENT))
    targets[(np.arange(rows) + 0.5) * patch > height] = IGNORED
    targets[:, (np.arange(columns) + 0.5) * patch > width] = IGNORED
    return targets


def _touched(boxes_xyxy: Floats, rows: int, columns: int, patch: int) -> NDArray[np.bool_]:
    """Patches [h, w] of which boxes cover at least half, counted in pixel centres, or that hold a box's centre."""
    covered = np.zeros((rows * patch, columns * patch), bool)
    touched = np.zeros((rows, columns), bool)
    for x0, y0, x1, y1 in boxes_xyxy:
        if x1 <= x0 or y1 <= y0:
            continue
        left, top, right, bottom = (max(0, int(np.ceil(edge - 0.5))) for edge in (x0, y0, x1, y1))
        covered[top:bottom, left:right] = True
        row, column = int((y0 + y1) / 2 // patch), int((x0 + x1) / 2 // patch)
        if 0 <= row < rows and 0 <= column < columns:
            touched[row, column] = True
    return touched | (covered.reshape(rows, patch, columns, patch).mean((1, 3)) >= 0.5)


def fit_probe(features_PC: Tensor, targets_PK: NDArray[np.int8], strength: float = STRENGTH) -> LinearProbe:
    """Fit a logistic regression for each class; no chance is in it.

    Args:
        features_PC: float32. targets_PK: PRESENT, ABSENT or IGNORED.
        strength: of the penalty on half the squared weights, beside the mean log loss.
    Raises:
        DataError: features that are no numbers, or a class without any patch.
    """
    if not bool(features_PC.isfinite().all()):
        raise DataError("not_finite", "features that are to be probed hold NaN or infinity: the backbone is broken")
    for label in range(targets_PK.shape[1]):
        if not (targets_PK[:, label] == PRESENT).any():
            raise DataError("no_positive", f"no training patch shows class {label}: it cannot be probed")
    mean_C, spread_C = features_PC.mean(0), features_PC.std(0).clamp_min(_LEAST_SPREAD)
    standardised_PC = (features_PC - mean_C) / spread_C
    rows_PD = torch.cat([standardised_PC, torch.ones(len(standardised_PC), 1)], 1)
    second_DD = rows_PD.T @ rows_PD / len(rows_PD)
    weights_DK = torch.stack(
        [_fit_class(rows_PD, second_DD, targets_PK[:, k], strength) for k in range(targets_PK.shape[1])], 1
    )
    return LinearProbe(mean_C, spread_C, weights_DK[:-1], weights_DK[-1])


def _fit_class(rows_PD: Tensor, second_DD: Tensor, targets_P: NDArray[np.int8], strength: float) -> Tensor:
    """Weights [D], the bias last, which is not penalised.

    Newton's method. Its matrix is exact for the patches that bend the loss most; the many that hardly do enter as the
    mean of all patches. That costs a tenth of the time and no accuracy: gradient and loss are exact.
    """
    known_P = torch.from_numpy(targets_P != IGNORED).float()
    known_P /= known_P.sum().clamp_min(1)
    wanted_P = torch.from_numpy(targets_P == PRESENT).float()
    penalty_D = torch.full((rows_PD.shape[1],), strength)
    penalty_D[-1] = 0.0
    ridge_DD = torch.diag(penalty_D + _LEAST_SPREAD).double()

    def loss_of(weights_D: Tensor, logits_P: Tensor) -> float:
        errors_P = F.binary_cross_entropy_with_logits(logits_P, wanted_P, reduction="none")
        return float((errors_P * known_P).double().sum() + (weights_D.square() * penalty_D).double().sum() / 2)

    weights_D = torch.zeros(rows_PD.shape[1])
    weights_D[-1] = torch.logit((wanted_P * known_P).sum().clamp(1e-6, 1 - 1e-6))
    logits_P = rows_PD @ weights_D
    loss = loss_of(weights_D, logits_P)
    for _ in range(_MAX_STEPS):
        chance_P = logits_P.sigmoid()
        gradient_D = rows_PD.T @ ((chance_P - wanted_P) * known_P) + penalty_D * weights_D
        bend_P = chance_P * (1 - chance_P) * known_P
        # At the start all bend alike, and the mean of all is exact.
        bends_most = bend_P > _BENDS_LEAST * bend_P.max() if weights_D[:-1].any() else torch.zeros_like(bend_P).bool()
        most_MD = rows_PD[bends_most]
        hessian_DD = most_MD.T @ (most_MD * bend_P[bends_most, None]) + bend_P[~bends_most].sum() * second_DD
        step_D = torch.linalg.solve(hessian_DD.double() + ridge_DD, gradient_D.double()).float()
        change_P, length = rows_PD @ step_D, 1.0
        while (new := loss_of(weights_D - length * step_D, logits_P - length * change_P)) > loss and length > 1e-3:
            length /= 2
        if loss - new < _LEAST_GAIN * loss:
            break
        weights_D, logits_P, loss = weights_D - length * step_D, logits_P - length * change_P, new
    return weights_D


def average_precision(scores_P: Floats, targets_P: NDArray[np.int8]) -> float:
    """Average precision over all patches that are not ignored; NaN where none is present."""
    return float(drawn_average_precision(scores_P, targets_P, np.zeros(len(scores_P), int), np.ones((1, 1)))[0])


def drawn_average_precision(
    scores_P: Floats, targets_P: NDArray[np.int8], picture_P: NDArray[np.integer], counts_BN: Floats
) -> Floats:
    """Average precision [B] with each picture taken so many times; NaN where a draw shows none.

    As of sklearn: the sum of precision times the step in recall, patches of the same score taken together.

    Args:
        picture_P: the picture of each patch, counted from 0. counts_BN: how often draw b holds picture n.
    """
    known = targets_P != IGNORED
    scores, wanted, picture = scores_P[known], targets_P[known] == PRESENT, picture_P[known]
    order = np.argsort(-scores, kind="stable")
    scores, wanted, picture = scores[order], wanted[order], picture[order]
    # The last patch of each run of equal scores, where its precision is read.
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    places = np.flatnonzero(wanted)
    if not len(places):
        return np.full(len(counts_BN), np.nan)
    last = ends[np.searchsorted(ends, places)]
    found = np.empty(len(counts_BN))
    for start in range(0, len(counts_BN), _DRAWS_AT_ONCE):
        drawn = counts_BN[start : start + _DRAWS_AT_ONCE][:, picture]
        hits = np.cumsum(drawn * wanted, 1)[:, last]
        shown = np.cumsum(drawn, 1)[:, last]
        gained = drawn[:, places]
        total = gained.sum(1)
        precision = np.divide(hits, shown, out=np.zeros_like(hits, dtype=float), where=shown > 0)
        with np.errstate(invalid="ignore"):
            found[start : start + len(drawn)] = (gained * precision).sum(1) / total
    return found


def retrieval_ranks(query_NC: Tensor, gallery_NC: Tensor) -> NDArray[np.int64]:
    """At which place, from 1, each query finds the gallery's row of its own number, by cosine.

    Each side is centred by its own mean first, so that what all pictures of a modality share does not decide. Of rows
    that are equally near, its own counts as the last.
    """
    query = F.normalize(query_NC - query_NC.mean(0), dim=1)
    gallery = F.normalize(gallery_NC - gallery_NC.mean(0), dim=1)
    near_NN = query @ gallery.T
    found: NDArray[np.int64] = (near_NN >= near_NN.diagonal()[:, None]).sum(1).numpy()
    return found
