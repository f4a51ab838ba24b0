"""What each head is trained to: sums over what is known, and how much that is.

Every loss returns (sum, count), so that the mean over a batch is the same however many workers share it. Of tags, -1
is unknown and adds nothing to either. Legend: N scenes, K tags, L own tags, M modes, T steps, E embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

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
    """The loss of one head on some scenes.

    Only scenes with something known are asked: the NaN of another's answer would reach the gradient through a zero.
    """
    known = known_of(head, data).nonzero().flatten()
    if not len(known):
        nothing = data.features.ego_N3.new_zeros(())
        return nothing, nothing
    data = data.rows(known)
    features, targets = data.features, data.targets
    stream = miner.stream(features.tokens) if data.stream_NKD is None else data.stream_NKD
    is_read = readable(features.tokens.is_seen_NK)
    if head == "embedding":
        embedding = miner.embedding(stream, is_read, features.mean_embedding_NE)
        return embedding_loss(embedding, features.mean_embedding_NE, targets.tags_NK, miner.words)
    if head == "forecast":
        paths, probability = miner.forecast(stream, is_read, features.ego_N3)
        return forecast_loss(paths, probability, targets.future_NT2)
    if head == "risk":
        return risk_loss(miner.risk.logits(stream, is_read, features.ego_N3), targets.risk_N)
    return tag_loss(miner.tag_logits(head, stream, features), tags_of(head, targets))


def known_of(head: str, data: TrainingSet) -> Tensor:
    """Scenes [N] of which the head can learn something."""
    targets, features = data.targets, data.features
    if head == "risk":
        return targets.risk_N.isfinite()
    if head == "forecast":
        return targets.future_NT2.isfinite().all((1, 2)) & ~features.ego_N3[:, 0].isnan()
    if head in ("tags", "embedding"):
        return (targets.tags_NK >= 0).any(-1)
    return (targets.own_NL >= 0).any(-1)


def tags_of(head: str, targets: Targets) -> Tensor:
    """The labels of the taxonomy's tags or of those of a user's own head."""
    return targets.tags_NK if head == "tags" else targets.own_NL


def tag_loss(logits_NK: Tensor, tags_NK: Tensor) -> Summed:
    """Binary cross-entropy of the known tags; -1 is unknown."""
    known = tags_NK >= 0
    return F.binary_cross_entropy_with_logits(logits_NK[known], tags_NK[known].float(), reduction="sum"), known.sum()


def risk_loss(logits_N: Tensor, risk_N: Tensor) -> Summed:
    """Smooth absolute difference of logits, so that a tenfold risk counts alike wherever it lies."""
    wanted = risk_N.clamp(1e-9, 1 - 1e-6).logit().clamp(*_RISK_LOGIT_RANGE)
    return F.smooth_l1_loss(logits_N, wanted, reduction="sum"), _count(wanted)


def forecast_loss(paths_NMT2: Tensor, probability_NM: Tensor, future_NT2: Tensor) -> Summed:
    """Half the best mode's mean distance from the path driven (m), half the mean over the modes by probability."""
    difference = paths_NMT2 - future_NT2[:, None]
    distance_NM = F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none").sum(-1).mean(-1)
    expected = (probability_NM * distance_NM).sum(-1)
    return 0.5 * (distance_NM.min(-1).values + expected).sum(), _count(expected)


def embedding_loss(embedding_NE: Tensor, tower_NE: Tensor, tags_NK: Tensor, words: TagWords) -> Summed:
    """Each known tag: nearer to its words than to its opposite's where it is present; and near the tower's answer."""
    contrast = embedding_NE @ (words.prompts_KE - words.opposites_KE).T
    tags, count = tag_loss(words.scale_K * (contrast - words.midpoint_K), tags_NK)
    drift = 1.0 - (embedding_NE * F.normalize(tower_NE, dim=-1)).sum(-1)
    # The drift of a scene counts as its tags together do.
    return tags + _ANCHOR_WEIGHT * (drift * (tags_NK >= 0).sum(-1)).sum(), count


def reconstruction_loss(decoded_NKC: Tensor, features: SceneFeatures) -> Summed:
    """How well the stream still tells what its cells held: mean squares of the tokens in their own spread.

    Heads that nobody has thought of yet will read the stream, so that it must keep what the first heads do not need.
    """
    seen = features.tokens.is_seen_NK
    tokens = features.tokens.mean_NKC[seen]
    wanted = F.layer_norm(tokens, tokens.shape[-1:])
    return (decoded_NKC[seen] - wanted).square().mean(-1).sum(), seen.sum()


def _count(of: Tensor) -> Tensor:
    return torch.tensor(float(len(of)), device=of.device)
