"""Zero-shot tags: how much nearer a picture's embedding is to the words for a tag than to the words for its absence.

Several tags may hold at once, so that each has its own probability: sigmoid(scale * (contrast - midpoint)), where the
contrast is cos(picture, prompts) - cos(picture, opposites). With midpoint 0 and CLIP's scale, that is CLIP's softmax
over the two sides; a taxonomy may hold another line for a tower that needs one.

Legend: N scenes, M pictures, K tags, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from system.miner.taxonomy import Calibration, Taxonomy

# Of the tags that some pictures show, this share of a scene's pictures is averaged, the likeliest ones.
TOP_SHARE = 0.25


class TextTower(Protocol):
    """The part of an image+text tower that prompts need."""

    @property
    def name(self) -> str: ...

    def text_prompt(self, words: str) -> str: ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class TagWords:
    """Embedded prompts of a taxonomy, float32 of length 1: [K, E] each; seen_in_some_K: bool."""

    prompts_KE: Tensor
    opposites_KE: Tensor
    seen_in_some_K: Tensor
    midpoint_K: Tensor
    scale_K: Tensor


def phrases_of(taxonomy: Taxonomy) -> list[str]:
    """What a tower is asked for, tag by tag: prompts, then opposites."""
    return [words for tag in taxonomy.tags for words in tag.prompts + tag.opposites]


def embed_taxonomy(tower: TextTower, taxonomy: Taxonomy, default_scale: float) -> TagWords:
    """Embed every prompt once; the phrases of a side are averaged on the sphere, as CLIP's prompt ensembles are.

    Args:
        default_scale: logits a unit of contrast where the taxonomy has no calibration for the tower.
    """
    embedded = iter(tower.encode_texts([tower.text_prompt(words) for words in phrases_of(taxonomy)]).float())

    def side(count: int) -> Tensor:
        return F.normalize(torch.stack([next(embedded) for _ in range(count)]).mean(0), dim=-1)

    sides = [(side(len(tag.prompts)), side(len(tag.opposites))) for tag in taxonomy.tags]
    prompts, opposites = (torch.stack(column) for column in zip(*sides, strict=True))
    some = torch.tensor([tag.seen_in == "some" for tag in taxonomy.tags], device=prompts.device)
    plain = Calibration(midpoint=0.0, scale=default_scale)
    lines = [tag.calibration.get(tower.name, plain) for tag in taxonomy.tags]
    midpoint = torch.tensor([line.midpoint for line in lines], device=prompts.device)
    return TagWords(prompts, opposites, some, midpoint, torch.tensor([line.scale for line in lines]).to(midpoint))


def zero_shot_logits(pooled_ME: Tensor, counts: Sequence[int], words: TagWords) -> Tensor:
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
    return words.scale_K * (torch.stack(rows) - words.midpoint_K)
