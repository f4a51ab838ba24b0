"""Splits by group: scenes of one town, sequence or log stay together, so that no test scene was seen in training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from system.errors import ConfigError
from system.labels.table import ABSENT, PRESENT, Labels


def split_by_group(
    labels: Labels,
    shares: Mapping[str, float],
    seed: int = 0,
    fixed: Mapping[str, str] | None = None,
    own_NL: NDArray[np.int8] | None = None,
) -> dict[str, NDArray[np.intp]]:
    """Divide scenes into parts.

    Groups are dealt out one by one, those with the rarest things to learn from first, each to the part that lacks most
    of what the group holds, so that rare tags, risk and paths reach every part where there are enough groups. A part
    takes no group that is larger than what it still has room for, where another has the room. Deterministic.

    Args:
        shares: part -> share of the scenes; they sum to 1.
        fixed: group -> part, where an earlier split has decided. The shares are of the other groups' scenes.
        own_NL: values of a user's own tags.
    Returns:
        part -> rising indices of its scenes.
    Raises:
        ConfigError: the shares are no shares.
    """
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1.0) > 1e-6:
        raise ConfigError(f"shares {dict(shares)}: expected positive numbers that sum to 1")
    members: dict[str, list[int]] = {}
    for n, group in enumerate(labels.groups):
        members.setdefault(group, []).append(n)
    decided = {group: part for group, part in (fixed or {}).items() if group in members}
    parts: dict[str, list[int]] = {part: [] for part in (*shares, *decided.values())}
    for group, part in decided.items():
        parts[part] += members.pop(group)
    kinds_NF = _kinds(labels, own_NL)
    held = {group: kinds_NF[rows].sum(0) for group, rows in members.items()}
    total = np.maximum(np.sum(list(held.values()), axis=0), 1) if held else np.ones(1)
    got = {part: np.zeros_like(total, dtype=np.float64) for part in shares}
    order = sorted(members, key=lambda group: (-float((held[group] / total).max()), _draw(group, seed)))
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        # How empty a part is, relative to what it should hold: so a tag of three groups reaches three parts.
        weight = held[group] / total
        lack = {part: float((weight * (1 - got[part] / (share * total))).sum()) for part, share in shares.items()}
        empty = [part for part in shares if not got[part][0]]
        roomy = [part for part, share in shares.items() if (got[part] + held[group] <= share * total)[:2].all()]
        among = empty if left <= len(empty) else roomy or list(shares)
        chosen = max(among, key=lambda part: (lack[part], part))
        got[chosen] += held[group]
        parts[chosen] += members[group]
    return {part: np.array(sorted(rows), dtype=np.intp) for part, rows in parts.items()}


def _kinds(labels: Labels, own_NL: NDArray[np.int8] | None) -> NDArray[np.bool_]:
    """What can be learnt from each scene, [N, F]; what no picture shows teaches neither tags nor risk."""
    seen = labels.has_pictures_N[:, None]
    risk = np.isfinite(labels.risk_N).reshape(-1, 1)
    path = np.isfinite(labels.future_NT2).all((1, 2)).reshape(-1, 1)
    present = labels.values_NK == PRESENT
    kinds = [np.ones_like(seen), seen, seen & risk, path, seen & present]
    if own_NL is not None:
        kinds += [seen & (own_NL == PRESENT), seen & (own_NL == ABSENT)]
    return np.concatenate(kinds, axis=1)


def _draw(group: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\x1f{group}".encode()).hexdigest()
