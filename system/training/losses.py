"""What each head is trained to: sums over what is known, and how much that is.

Every loss returns (sum, count), so that the mean over a batch is the same however many workers share it. What is
unknown adds nothing to either. Legend: N scenes, K tags, L own tags, M modes, T steps, E embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from system.miner.heads import OwnTagHead
from system.miner.model import SceneMiner
from system.miner.scene_batch import SceneFeatures
from system.miner.stream import readable
from system.miner.tags import TagWords
from system.training.targets import Targets, TrainingSet

Summed = tuple[Tensor, Tensor]
# Physics risk spans many orders of magnitude; its logit is learnt between these. Below lies nothing that matters.
_RISK_LOGIT_RANGE = (-8.0, 4.0)
# An embedding that forgets what the tower knew would only find what the tags name.
_ANCHOR_WEIGHT = 2.0


def head_loss(miner: SceneMiner, head: str, data: TrainingSet) -> Summed:
    """The loss of one head on some scenes."""
    stream = miner.stream(data.features.tokens) if data.stream_NKD is None else data.stream_NKD
    is_read = readable(data.features.tokens.is_seen_NK)
    if head in _LOSSES:
        return _LOSSES[head](miner, stream, is_read, data.features, data.targets)
    own = cast(OwnTagHead, miner.own[head])
    return tag_loss(own.logits(stream, is_read), data.targets.own_NL)


def tag_loss(logits_NK: Tensor, tags_NK: Tensor) -> Summed:
    """Binary cross-entropy of the known tags; -1 is unknown."""
    known = tags_NK >= 0
    # Selected before the loss: a NaN that is only masked afterwards would still reach the gradient.
    return F.binary_cross_entropy_with_logits(logits_NK[known], tags_NK[known].float(), reduction="sum"), known.sum()


def risk_loss(logits_N: Tensor, risk_N: Tensor) -> Summed:
    """Smooth absolute difference of logits, so that a tenfold risk counts alike wherever it lies."""
    known = risk_N.isfinite()
    wanted = risk_N[known].clamp(1e-9, 1 - 1e-6).logit().clamp(*_RISK_LOGIT_RANGE)
    return F.smooth_l1_loss(logits_N[known], wanted, reduction="sum"), known.sum()


def forecast_loss(paths_NMT2: Tensor, probability_NM: Tensor, future_NT2: Tensor) -> Summed:
    """Half the best mode's mean distance from the path driven (m), half the mean over the modes by probability."""
    known = future_NT2.isfinite().all((1, 2)) & paths_NMT2.isfinite().all((1, 2, 3))
    difference = paths_NMT2[known] - future_NT2[known][:, None]
    distance_NM = F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none").sum(-1).mean(-1)
    expected = (probability_NM[known] * distance_NM).sum(-1)
    best = distance_NM.min(-1).values if len(distance_NM) else expected
    return 0.5 * (best + expected).sum(), known.sum()


def embedding_loss(embedding_NE: Tensor, tower_NE: Tensor, tags_NK: Tensor, words: TagWords) -> Summed:
    """Each known tag: nearer to its words than to its opposite's where it is present; and near the tower's answer."""
    known = (tags_NK >= 0) & embedding_NE.isfinite().all(-1, keepdim=True)
    seen = known.any(-1)
    kept = embedding_NE[seen]
    contrast = kept @ (words.prompts_KE - words.opposites_KE).T
    tags, count = tag_loss(words.scale_K * (contrast - words.midpoint_K), torch.where(known, tags_NK, -1)[seen])
    drift = 1.0 - (kept * F.normalize(tower_NE[seen], dim=-1)).sum(-1)
    # The drift of a scene counts as its tags together do.
    return tags + _ANCHOR_WEIGHT * (drift * known[seen].sum(-1)).sum(), count


def reconstruction_loss(decoded_NKC: Tensor, features: SceneFeatures) -> Summed:
    """How well the stream still tells what its cells held: mean squares of the tokens in their own spread.

    Heads that nobody has thought of yet will read the stream, so that it must keep what the first heads do not need.
    """
    seen = features.tokens.is_seen_NK
    tokens = features.tokens.mean_NKC[seen]
    wanted = F.layer_norm(tokens, tokens.shape[-1:])
    return (decoded_NKC[seen] - wanted).square().mean(-1).sum(), seen.sum()


def _tags(miner: SceneMiner, stream: Tensor, is_read: Tensor, features: SceneFeatures, targets: Targets) -> Summed:
    return tag_loss(miner.tags.logits(stream, is_read, features.zero_shot_logits_NK), targets.tags_NK)


def _risk(miner: SceneMiner, stream: Tensor, is_read: Tensor, features: SceneFeatures, targets: Targets) -> Summed:
    return risk_loss(miner.risk.logits(stream, is_read), targets.risk_N)


def _forecast(miner: SceneMiner, stream: Tensor, is_read: Tensor, features: SceneFeatures, targets: Targets) -> Summed:
    paths, probability = miner.forecast(stream, is_read, features.ego_N3)
    return forecast_loss(paths, probability, targets.future_NT2)


def _embedding(miner: SceneMiner, stream: Tensor, is_read: Tensor, features: SceneFeatures, targets: Targets) -> Summed:
    embedding = miner.embedding(stream, is_read, features.mean_embedding_NE)
    return embedding_loss(embedding, features.mean_embedding_NE, targets.tags_NK, miner.words)


_LOSSES: dict[str, Callable[[SceneMiner, Tensor, Tensor, SceneFeatures, Targets], Summed]] = {
    "embedding": _embedding,
    "tags": _tags,
    "risk": _risk,
    "forecast": _forecast,
}
