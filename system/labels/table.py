"""The label table: a Parquet file with one row a scene, and the arrays that training takes from it.

Legend: N scenes, K tags of a taxonomy, T steps of a forecast.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from system.errors import ConfigError, DataError
from system.labels.labelling import SceneLabels
from system.labels.rules import LabelRules
from system.miner.miner_config import SceneMinerConfig
from system.miner.taxonomy import Taxonomy

UNKNOWN, ABSENT, PRESENT = -1, 0, 1
_VOTE = pa.struct([pa.field("tag", pa.string()), pa.field("present", pa.bool_()), pa.field("rule", pa.string())])
SCHEMA = pa.schema(
    [
        pa.field("scene_id", pa.string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("log_id", pa.string()),
        pa.field("group", pa.string()),
        pa.field("has_pictures", pa.bool_()),
        pa.field("votes", pa.list_(_VOTE)),
        pa.field("risk", pa.float32()),
        pa.field("future", pa.list_(pa.float32())),
        pa.field("description", pa.string()),
    ]
)
MAX_CSV_BYTES = 256 << 20
_TRUE, _FALSE = {"1", "true", "yes", "present"}, {"0", "false", "no", "absent"}


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known of N scenes.

    Attributes:
        values_NK: int8, PRESENT, ABSENT or UNKNOWN.
        risk_N: float32, NaN where unknown.
        groups: what a split may not part.
        descriptions: the makers' words, or "".
        has_pictures_N: whether a model can see anything of a scene.
        future_NT2: float32, the ego's path after the scene in its own frame (m), NaN where unknown.
    """

    scene_ids: tuple[str, ...]
    log_ids: tuple[str, ...]
    sources: tuple[str, ...]
    groups: tuple[str, ...]
    descriptions: tuple[str, ...]
    values_NK: NDArray[np.int8]
    risk_N: NDArray[np.float32]
    has_pictures_N: NDArray[np.bool_]
    future_NT2: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scene_ids)

    def rows(self, keep: NDArray[np.intp]) -> Labels:
        """Some of the scenes."""
        return Labels(
            scene_ids=tuple(self.scene_ids[k] for k in keep),
            log_ids=tuple(self.log_ids[k] for k in keep),
            sources=tuple(self.sources[k] for k in keep),
            groups=tuple(self.groups[k] for k in keep),
            descriptions=tuple(self.descriptions[k] for k in keep),
            values_NK=self.values_NK[keep],
            risk_N=self.risk_N[keep],
            has_pictures_N=self.has_pictures_N[keep],
            future_NT2=self.future_NT2[keep],
        )


def taxonomy_hash(taxonomy: Taxonomy) -> str:
    """Of the tags' names in their order: what a column of labels means."""
    return hashlib.sha256("\x1f".join(taxonomy.names).encode()).hexdigest()[:16]


def write_labels(path: str | Path, rows: Iterable[SceneLabels], taxonomy: Taxonomy, rules: LabelRules) -> None:
    """Write a label table.

    Raises:
        ConfigError: it cannot be written there.
    """
    table = label_table(rows, taxonomy, rules)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


def label_table(rows: Iterable[SceneLabels], taxonomy: Taxonomy, rules: LabelRules) -> pa.Table:
    """Rows of SCHEMA, with what made them as metadata."""
    about = {"taxonomy": taxonomy_hash(taxonomy), "tags": list(taxonomy.names), "rules": rules.model_dump(mode="json")}
    return _table(rows).replace_schema_metadata({"nightminer.labels": json.dumps(about)})


def read_labels(path: str | Path, taxonomy: Taxonomy) -> Labels:
    """The arrays of a label table.

    Raises:
        DataError: it cannot be read, or was made with another taxonomy.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError("damaged_labels", f"{path}: expected a label table (Parquet): {error}") from error
    about = json.loads((table.schema.metadata or {}).get(b"nightminer.labels", b"{}"))
    if not about or not set(SCHEMA.names) <= set(table.column_names):
        raise DataError("damaged_labels", f"{path}: expected a label table of jobs/label_scenes.py")
    if about["taxonomy"] != taxonomy_hash(taxonomy):
        changed = sorted(set(about["tags"]) ^ set(taxonomy.names)) or ["their order"]
        raise DataError(
            "other_taxonomy", f"{path}: made with another taxonomy (differs in {', '.join(changed)}); label again"
        )
    return _arrays(table, taxonomy)


def labels_of(rows: Iterable[SceneLabels], taxonomy: Taxonomy) -> Labels:
    """The arrays of labels that are in no table."""
    return _arrays(_table(rows), taxonomy)


def _table(rows: Iterable[SceneLabels]) -> pa.Table:
    names = [field.name for field in SCHEMA if field.name != "votes"]
    records = [{name: getattr(row, name) for name in names} | {"votes": [vars(v) for v in row.votes]} for row in rows]
    return pa.Table.from_pylist(records, schema=SCHEMA)


def _arrays(table: pa.Table, taxonomy: Taxonomy) -> Labels:
    column = {name: k for k, name in enumerate(taxonomy.names)}
    values = np.full((len(table), len(column)), UNKNOWN, np.int8)
    for n, votes in enumerate(table["votes"].to_pylist()):
        for vote in reversed(votes):
            values[n, column[vote["tag"]]] = PRESENT if vote["present"] else ABSENT
    steps = SceneMinerConfig().forecast_steps
    unknown = [float("nan")] * 2 * steps
    future = np.array([path or unknown for path in table["future"].to_pylist()], np.float32)
    words = {name: tuple(table[name].to_pylist()) for name in ("scene_id", "log_id", "source", "group", "description")}
    return Labels(
        scene_ids=words["scene_id"],
        log_ids=words["log_id"],
        sources=words["source"],
        groups=words["group"],
        descriptions=words["description"],
        values_NK=values,
        risk_N=table["risk"].to_numpy(zero_copy_only=False).astype(np.float32),
        has_pictures_N=table["has_pictures"].to_numpy(zero_copy_only=False).astype(np.bool_),
        future_NT2=future.reshape(-1, steps, 2),
    )


def read_given(path: str | Path, tags: Sequence[str]) -> dict[str, dict[str, bool]]:
    """A user's own labels: a CSV with the columns scene_id, tag, value (1 or 0).

    Args:
        tags: that may be named.
    Returns:
        scene or log id -> tag -> present. A log's id labels all of its scenes.
    Raises:
        DataError: a column is missing, a tag unknown, a value neither yes nor no, or two lines contradict: which line.
    """
    try:
        size = Path(path).stat().st_size
        if size > MAX_CSV_BYTES:
            raise DataError("too_large", f"{path}: {size} bytes, expected at most {MAX_CSV_BYTES}")
        rows = list(csv.DictReader(Path(path).read_text("utf-8-sig").splitlines()))
    except OSError as error:
        raise DataError("damaged_labels", f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("damaged_labels", f"{path}: expected a CSV table in UTF-8: {error}") from error
    given: dict[str, dict[str, bool]] = defaultdict(dict)
    for line, row in enumerate(rows, start=2):
        if not {"scene_id", "tag", "value"} <= row.keys():
            raise DataError("missing_column", f"{path}: expected the columns scene_id, tag, value; found {list(row)}")
        if row["tag"] not in tags:
            known = ", ".join(tags)
            raise DataError("unknown_tag", f"{path} line {line}: unknown tag {row['tag']!r}; known are {known}")
        word = (row["value"] or "").strip().lower()
        if word not in _TRUE | _FALSE:
            raise DataError("impossible_value", f"{path} line {line}: value {word!r}, expected 1 or 0")
        earlier = given[row["scene_id"]].setdefault(row["tag"], word in _TRUE)
        if earlier != (word in _TRUE):
            told = f"{row['tag']} of {row['scene_id']} is {word!r}, and an earlier line says otherwise"
            raise DataError("contradiction", f"{path} line {line}: {told}")
    if not given:
        raise DataError("damaged_labels", f"{path}: expected rows of scene_id, tag, value below the header; found none")
    return dict(given)


def tag_counts(labels: Labels, taxonomy: Taxonomy) -> dict[str, dict[str, int]]:
    """tag -> {present, absent, unknown}."""
    return {
        name: {
            "present": int((labels.values_NK[:, k] == PRESENT).sum()),
            "absent": int((labels.values_NK[:, k] == ABSENT).sum()),
            "unknown": int((labels.values_NK[:, k] == UNKNOWN).sum()),
        }
        for k, name in enumerate(taxonomy.names)
    }


def disagreements(rows: Sequence[SceneLabels]) -> list[dict[str, int | str]]:
    """For every tag and pair of rules that label the same scenes: how often which says what."""
    counts: dict[tuple[str, str, str], Counter[tuple[bool, bool]]] = defaultdict(Counter)
    for row in rows:
        for k, first in enumerate(row.votes):
            for second in row.votes[k + 1 :]:
                if first.tag == second.tag:
                    counts[first.tag, first.rule, second.rule][first.present, second.present] += 1
    return [
        {
            "tag": tag, "first": first, "second": second,
            "both_present": count[True, True], "only_first": count[True, False],
            "only_second": count[False, True], "both_absent": count[False, False],
        }
        for (tag, first, second), count in sorted(counts.items())
    ]  # fmt: skip
