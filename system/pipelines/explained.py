"""From a row of the store to what a person reads of the scene."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from system.miner.explain import why_hard


def tag_chances(row: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, float]]:
    """(tag, probability) in the order of the taxonomy; where tracks decide a tag, theirs counts and not the model's.

    Args:
        row: with `tag_probabilities` and `track_tags` of the store. names: the tags of the row's model.
    """
    chances: dict[str, float] = {}
    if row["tag_probabilities"] is not None:
        chances.update(zip(names, row["tag_probabilities"], strict=True))
    chances.update(json.loads(row["track_tags"] or "{}"))
    return [(name, chances[name]) for name in names if name in chances]


def explained(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A search result: the row with its tag probabilities by name, and why it ranks where it does."""
    left_out = ("risk_detail", "tag_probabilities", "track_tags")
    result = {key: value for key, value in row.items() if key not in left_out}
    result["tag_probabilities"] = dict(tag_chances(row, names))
    result["why"] = why_hard(row, json.loads(row["risk_detail"] or "{}"))
    return result
