"""Gather what a training or an evaluation needs: labels, cached features, and a split that parts no group."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from system.backbones.loading import describe_tower
from system.config import FrozenConfig
from system.errors import DataError
from system.labels.rules import load_rules
from system.labels.split import split_by_group
from system.labels.table import ABSENT, PRESENT, UNKNOWN, Labels, labels_of, read_given, read_labels
from system.logs.windows import WindowConfig
from system.miner.miner_config import OwnHead
from system.miner.taxonomy import Taxonomy
from system.pipelines.feature_cache import FeatureCache
from system.pipelines.features import cache_features
from system.pipelines.labelling import label_logs
from system.report.console import ConsoleProgress
from system.training.records import TrainingRecord, furthest

# Of the scenes that are not kept for tests.
_VALIDATION_SHARE = 0.15 / 0.85

if TYPE_CHECKING:
    from system.miner.lift import LiftedScenes


class SourceConfig(FrozenConfig):
    """Where scenes and labels come from.

    labels: a table of jobs/label_scenes.py; without it the scenes are labelled by `rules`, or by ours.
    own_labels: CSV with scene_id (or log id), tag, value, for a user's own head.
    test_share: of the scenes, kept for evaluation; 0 where that is done on other logs.
    cache: folder or URI where the tower's features are kept; all workers must see it.
    """

    logs: tuple[str, ...]
    tower: str = "packaged"
    labels: str | None = None
    rules: str | None = None
    own_labels: str | None = None
    cache: str = "out/features"
    test_share: float = Field(default=0.15, ge=0, le=0.5)
    windows: WindowConfig = WindowConfig()


@dataclass(frozen=True, eq=False)
class Examples:
    """N scenes with labels and cached features. own_NL: int8, of a user's own tags."""

    labels: Labels
    own_NL: NDArray[np.int8]
    cache: FeatureCache
    faults: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, keep: NDArray[np.intp]) -> Examples:
        """Some of the scenes."""
        return Examples(self.labels.rows(keep), self.own_NL[keep], self.cache, self.faults)

    def lifted(self) -> LiftedScenes:
        """What the tower knows of them, from the cache."""
        return self.cache.read(self.labels.scene_ids)

    def sha256(self) -> str:
        """Of the scenes' ids and of everything that is known of them."""
        labels = self.labels
        digest = hashlib.sha256("\x1f".join(labels.scene_ids).encode())
        for array in (labels.values_NK, self.own_NL, labels.risk_N, labels.future_NT2):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def gather(
    source: SourceConfig,
    taxonomy: Taxonomy,
    progress: ConsoleProgress,
    own_head: OwnHead | None = None,
    check: Callable[[Examples], object] = lambda _: None,
) -> Examples:
    """Label the logs, fill the feature cache, and keep the scenes that have both.

    Args:
        check: asked of all labelled scenes before any picture is read, so that what labels alone can tell to be wrong
            is told at once.

    Raises:
        ConfigError, DataError: a log, table or tag is wrong; no scene is left.
    """
    progress.phase("labelling")
    own = read_given(source.own_labels, own_head.tags) if own_head is not None and source.own_labels else {}
    if source.labels is None:
        rules = load_rules(source.rules, taxonomy)
        labelled = label_logs(source.logs, source.windows, rules, taxonomy, {})
        labels, faults = labels_of(labelled.rows, taxonomy), [f"{where}: {why}" for where, why in labelled.faults]
    else:
        labels, faults = read_labels(source.labels, taxonomy), []
    _refuse_unknown_ids(own, labels, source.own_labels)
    cache = FeatureCache(source.cache, describe_tower(source.tower).tower_id, source.windows)
    check(Examples(labels, _own_values(labels, own, own_head), cache, ()))
    progress.phase("computing the tower's features")
    cached = cache_features(source.logs, source.windows, source.tower, cache, progress)
    faults += cached.faults
    for fault in faults:
        progress.note(f"left out: {fault}")
    held = cache.scenes().where
    # The cache is shared: it holds the scenes of other logs too.
    named = [n for n, scene_id in enumerate(labels.scene_ids) if scene_id in cached.scene_ids]
    keep = np.array([n for n in named if labels.scene_ids[n] in held], dtype=np.intp)
    if len(named) < len(labels):
        progress.note(f"{len(labels) - len(named)} of {len(labels)} labelled scenes are of other logs and are left out")
    if not len(keep):
        raise DataError(
            "no_scenes",
            f"none of the {len(labels)} labelled scenes is among the scenes of {', '.join(source.logs)}; "
            "label with the same logs and window options",
        )
    labels = labels.rows(keep)
    return Examples(labels, _own_values(labels, own, own_head), cache, tuple(faults))


def split_examples(
    examples: Examples, fixed: Mapping[str, str], test_share: float, seed: int = 0
) -> dict[str, Examples]:
    """train, val and test by group; groups that the base has seen keep their part.

    Args:
        test_share: of the scenes. Of the others, 15 : 70 are for validation.

    Raises:
        DataError: there are too few groups for three parts.
    """
    validation = (1 - test_share) * _VALIDATION_SHARE
    shares = {"train": 1 - test_share - validation, "val": validation} | ({"test": test_share} if test_share else {})
    parts = {"test": np.zeros(0, np.intp)} | split_by_group(examples.labels, shares, seed, fixed, examples.own_NL)
    if not len(parts["train"]) or not len(parts["val"]):
        raise DataError(
            "too_few_groups",
            f"the {len(examples)} scenes belong to {len(set(examples.labels.groups))} groups (towns, sequences or "
            "logs); expected at least two, so that training is judged by scenes that it has not seen: add logs",
        )
    return {part: examples.rows(rows) for part, rows in parts.items()}


def groups_of(parts: Mapping[str, Examples]) -> dict[str, str]:
    """group -> part."""
    return {group: part for part, examples in parts.items() for group in examples.labels.groups}


def logs_of(parts: Mapping[str, Examples]) -> dict[str, str]:
    """Name of a log -> part."""
    return {name: part for part, examples in parts.items() for name in _log_names(examples.labels)}


def decided_parts(labels: Labels, record: TrainingRecord | None) -> dict[str, str]:
    """group -> part, for the groups of which a model has seen anything, whatever rules named its groups then."""
    if record is None:
        return {}
    by_group, by_log = record.parts(), record.log_parts()
    decided: dict[str, str] = {}
    for group, log in zip(labels.groups, _log_names(labels), strict=True):
        for part in (by_group.get(group), by_log.get(log)):
            if part is not None:
                decided[group] = furthest(decided.get(group, part), part)
    return decided


def known_scenes(head: str, examples: Examples, is_own: bool = False) -> int:
    """How many scenes tell a head anything."""
    labels = examples.labels
    if head == "risk":
        return int((np.isfinite(labels.risk_N) & labels.has_pictures_N).sum())
    if head == "forecast":
        return int(np.isfinite(labels.future_NT2).all((1, 2)).sum())
    values = examples.own_NL if is_own else labels.values_NK
    return int(((values != UNKNOWN).any(1) & labels.has_pictures_N).sum())


def _log_names(labels: Labels) -> list[str]:
    """`source/log`, without the digest of where a list of pictures lies: a moved one is no other."""
    pairs = zip(labels.sources, labels.log_ids, strict=True)
    return [f"{source}/{log_id.partition('@')[0]}" for source, log_id in pairs]


def _own_values(labels: Labels, own: Mapping[str, Mapping[str, bool]], head: OwnHead | None) -> NDArray[np.int8]:
    tags = head.tags if head is not None else ()
    values = np.full((len(labels), len(tags)), UNKNOWN, np.int8)
    for n, (scene_id, log_id) in enumerate(zip(labels.scene_ids, labels.log_ids, strict=True)):
        for key in (log_id, scene_id):  # what is said of the scene itself counts more
            for tag, present in own.get(key, {}).items():
                values[n, tags.index(tag)] = PRESENT if present else ABSENT
    return values


def _refuse_unknown_ids(own: Mapping[str, object], labels: Labels, path: str | None) -> None:
    unknown = sorted(own.keys() - {*labels.scene_ids, *labels.log_ids})
    if unknown:
        raise DataError(
            "unknown_id", f"{path}: {len(unknown)} ids are in none of the logs, e.g. {', '.join(unknown[:3])}"
        )
