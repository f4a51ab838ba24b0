"""Zero-shot tags: how much nearer a picture's embedding is to the words for a tag than to the words for its absence.

Several tags may hold at once, so that each has its own probability: sigmoid(scale * (cos(picture, prompts) -
cos(picture, opposites))). For CLIP that is the softmax over the two sides at its own temperature.

Legend: N scenes, M pictures, K tags, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from system.miner.taxonomy import Taxonomy

# Logits a unit of cosine. CLIP and SigLIP were trained at about 100 (Radford et al., 2021; Zhai et al., 2023).
CONTRASTIVE_SCALE = 100.0
# The packaged tower mixes class names in a sentence encoder's space, where contrasts are wider.
PACKAGED_SCALE = 20.0
# Of the tags that some pictures show, this share of a scene's pictures is averaged, the likeliest ones.
TOP_SHARE = 0.25


class TextTower(Protocol):
    """The part of an image+text tower that prompts need."""

    def text_prompt(self, words: str) -> str: ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class TagWords:
    """Embedded prompts of a taxonomy, float32 of length 1: [K, E] each; seen_in_some_K: bool."""

    prompts_KE: Tensor
    opposites_KE: Tensor
    seen_in_some_K: Tensor


def tag_scale(tower_name: str, configured: float | None) -> float:
    """Logits a unit of cosine contrast: the configured one, or the tower's."""
    if configured is not None:
        return configured
    return PACKAGED_SCALE if tower_name == "packaged" else CONTRASTIVE_SCALE


def embed_taxonomy(tower: TextTower, taxonomy: Taxonomy) -> TagWords:
    """Embed every prompt once; the phrases of a side are averaged on the sphere, as CLIP's prompt ensembles are."""
    phrases = [words for tag in taxonomy.tags for words in tag.prompts + tag.opposites]
    embedded = iter(tower.encode_texts([tower.text_prompt(words) for words in phrases]).float())

    def side(count: int) -> Tensor:
        return F.normalize(torch.stack([next(embedded) for _ in range(count)]).mean(0), dim=-1)

    sides = [(side(len(tag.prompts)), side(len(tag.opposites))) for tag in taxonomy.tags]
    prompts, opposites = (torch.stack(column) for column in zip(*sides, strict=True))
    some = torch.tensor([tag.seen_in == "some" for tag in taxonomy.tags], device=prompts.device)
    return TagWords(prompts, opposites, some)


def zero_shot_logits(pooled_ME: Tensor, counts: Sequence[int], words: TagWords, scale: float) -> Tensor:
    """Tag logits of scenes, from the tower alone.

    Args:
        pooled_ME: embeddings of length 1 of all pictures, those of scene 0 first.
        counts: pictures of each scene; their sum is M.
    Returns:
        [N, K]; NaN for a scene without pictures. Tags that most pictures show are averaged over the scene's pictures,
        the others over the quarter of them (at least one) that show it best.
    """
    contrast_MK = pooled_ME @ words.prompts_KE.T - pooled_ME @ words.opposites_KE.T
    rows = []
    for contrast in contrast_MK.split(list(counts)):
        best = contrast.topk(-(-len(contrast) // round(1 / TOP_SHARE)), dim=0).values
        rows.append(torch.where(words.seen_in_some_K, best.mean(0), contrast.mean(0)))
    return scale * torch.stack(rows)
