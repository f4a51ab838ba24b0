"""From a row of the store to what a person reads of the scene."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from system.miner.explain import tag_chances, why_hard


def explained(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A search result: the row with its tag probabilities by name, and why it ranks where it does."""
    left_out = ("risk_detail", "tag_probabilities", "track_tags")
    result = {key: value for key, value in row.items() if key not in left_out}
    result["tag_probabilities"] = dict(tag_chances(row, names))
    result["why"] = why_hard(row, json.loads(row["risk_detail"] or "{}"))
    return result
