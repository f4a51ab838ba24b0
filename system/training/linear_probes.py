"""What a model has to beat: logistic regressions on the tower's own features, one for each tag.

Legend: N scenes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from system.miner.lift import LiftedScenes
from system.training.metrics import Floats, average_precision

_STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0)


def probe_features(lifted: LiftedScenes) -> dict[str, Floats]:
    """Inputs [N, ...] of the probes: mean pooled embedding, mean patch token; zero without pictures."""
    pooled = [part.mean(0) for part in lifted.pooled_ME.split(lifted.counts_N.tolist())]
    return {"pooled": torch.stack(pooled).nan_to_num().numpy(), "patches": lifted.mean_patch_NC.numpy()}


def fit_probe(
    features: Floats, values: NDArray[np.int8], train: NDArray[np.intp], val: NDArray[np.intp]
) -> Callable[[Floats], Floats]:
    """A logistic regression of one tag, its strength chosen on validation; constant where nothing teaches it."""
    fit = train[values[train] >= 0]
    if len(set(values[fit].tolist())) < 2:
        return lambda inputs: np.full(len(inputs), np.nan)
    best: tuple[float, Any] | None = None
    for strength in _STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features[fit], values[fit])
        score = average_precision(model.predict_proba(features[val])[:, 1], values[val]) if len(val) else np.nan
        score = -1.0 if np.isnan(score) else score
        if best is None or score > best[0]:
            best = (score, model)
    assert best is not None
    chosen = best[1]
    return lambda inputs: chosen.predict_proba(inputs)[:, 1]
