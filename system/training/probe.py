"""Probe a backbone: what its infrared features know of objects, and whether they find their own RGB picture.

Legend: N pictures, H x W pixels, h x w patches, C channels, K classes, P patches of all pictures, B draws.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import Tensor

from system.backbones.cnn import is_cnn, load_network
from system.backbones.loading import DINOV2, TIMM
from system.backbones.runtime import device_of
from system.backbones.vit import vit_hash
from system.bootstrap import draw_pictures
from system.config import FrozenConfig
from system.errors import ConfigError, ModelError
from system.freqkd.probe import (
    PRESENT,
    STRENGTH,
    Floats,
    LinearProbe,
    average_precision,
    drawn_average_precision,
    fit_probe,
    retrieval_ranks,
)
from system.pairs.pixels import InfraredMapping
from system.training.distill_publish import DISTILL_NAME, MERGED_NAME, DistillRecord
from system.training.encoder import Encoder, batches, pooled
from system.training.learnt import count_seen, learnt_by_backbone, marks_of
from system.training.probe_set import ProbeSet, read_sets, shared_classes


class ProbeConfig(FrozenConfig):
    """block: whose output is probed, counted from 0. height, width: pictures are resized to it.

    max_train_pictures: more are thinned evenly, in their order, so that all their patches fit into memory; test
    pictures never are. rounds: bootstrap draws of test pictures. teacher: whose RGB features are to be found; None for
    the backbone's own where it is a folder of a distilled one, else for dinov2-packaged. mapping: of infrared values to
    8 bits; None for the one that a distilled backbone learnt with, else percentiles.
    threads: of torch; 0 for as many as there are CPUs.
    """

    block: int = Field(default=9, ge=0)
    height: int = Field(default=238, ge=14, le=8192)
    width: int = Field(default=322, ge=14, le=8192)
    classes: tuple[str, ...] = ()
    max_train_pictures: int = Field(default=1200, ge=2)
    rounds: int = Field(default=1000, ge=1, le=100_000)
    teacher: str | None = None
    mapping: InfraredMapping | None = None
    threads: int = Field(default=0, ge=0, le=1024)


@dataclass(frozen=True, eq=False)
class Judged:
    """What a probe said of the test pictures. scores_PK: logits. rank_N: where each found its own RGB picture."""

    classes: tuple[str, ...]
    scores_PK: Floats
    targets_PK: NDArray[np.int8]
    picture_P: NDArray[np.int64]
    rank_N: NDArray[np.int64]

    def precision(self) -> Floats:
        """Average precision [K]."""
        return np.array(
            [average_precision(self.scores_PK[:, k], self.targets_PK[:, k]) for k in range(len(self.classes))]
        )

    def drawn_precision(self, counts_BN: Floats) -> Floats:
        """Average precision [B, K] of bootstrap draws."""
        drawn = [
            drawn_average_precision(self.scores_PK[:, k], self.targets_PK[:, k], self.picture_P, counts_BN)
            for k in range(len(self.classes))
        ]
        return np.stack(drawn, 1)

    def recalled(self, k: int) -> Floats:
        """Which pictures [N] found their own among the first k: 1 or 0."""
        return (self.rank_N <= k).astype(float)


def probe_backbone(
    backbone: str,
    train: str,
    test: str,
    config: ProbeConfig,
    say: Callable[[str], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Fit a probe on the boxes of one set of pairs, read it on another.

    Args:
        backbone: of `load_network`, or the folder of a distilled one. train, test: of `open_pairs`; their classes are
            matched by name.
        say: told what happens now. note: told what stays, as that the backbone has learnt from test pictures.
    Returns:
        What jobs/probe_backbone.py prints; all figures in points of 100, intervals of 95 %.
    Raises:
        ConfigError: a block that the backbone lacks, a teacher of another width. DataError: no class that both show.
    """
    started_s = time.monotonic()
    if config.threads:
        torch.set_num_threads(config.threads)
    named = named_backbone(backbone)
    of_teacher = config.teacher or named.teacher
    device = device_of(torch.cuda.is_available())
    encoder = Encoder.of(load_network(named.name).to(device))
    teacher = encoder if of_teacher == named.name else Encoder.of(load_network(of_teacher).to(device))
    for asked in (encoder, teacher):
        asked.refuse_block(config.block)
    if (ours := encoder.width(config.block)) != (theirs := teacher.width(config.block)):
        raise ConfigError(
            f"{backbone} is {ours} wide and the teacher {of_teacher} {theirs}; name with --teacher the backbone that "
            "it was distilled from, or of a convolutional network the untouched one"
        )
    size = (config.height, config.width)
    say("reading pairs")
    mapping = config.mapping or named.mapping
    learn, judge = read_sets(train, test, size, mapping, config.max_train_pictures, note)
    uris = [pair.infrared_uri for pair in judge.pairs]
    learners = (
        ("the probe, from copies,", marks_of([pair.infrared_uri for pair in learn.pairs])),
        (f"the backbone {backbone}", learnt_by_backbone(backbone)),
    )
    seen = count_seen(uris, marks_of(uris), learners, note)
    classes = shared_classes(learn, judge, config.classes)
    say("encoding RGB")
    gallery_NC = pooled(teacher, judge.rgb_NHWC, config.block)
    say("encoding infrared")
    judged = judge_backbone(encoder, learn, judge, classes, config.block, gallery_NC)
    say("drawing test pictures")
    return {
        "backbone": backbone,
        "backbone_hash": vit_hash(encoder.model),
        "teacher": of_teacher,
        "block": config.block,
        "size": list(size),
        **figures(judged, draw_pictures(len(judge.pairs), config.rounds, seed=0)),
        "counts": {
            "train_pictures": len(learn.pairs),
            "test_pictures": len(judge.pairs),
            "test_patches": len(judged.scores_PK),
            "positive_test_patches": {
                name: int((judged.targets_PK[:, k] == PRESENT).sum()) for k, name in enumerate(classes)
            },
            "faults": len(learn.faults) + len(judge.faults),
        },
        "seen_in_training": seen,
        "penalty": STRENGTH,
        "faults": [*learn.faults, *judge.faults][:20],
        "seconds": round(time.monotonic() - started_s, 1),
    }


@dataclass(frozen=True)
class NamedBackbone:
    """name: for `load_network`. mapping: of the infrared values that it learnt with.

    teacher: whose RGB features it is to find; of a convolutional network, which is not as wide as its teacher, the
    untouched network.
    """

    name: str
    teacher: str
    mapping: InfraredMapping


def named_backbone(text: str) -> NamedBackbone:
    """From a name, or a folder that jobs/distill_freqkd.py wrote.

    Raises:
        ModelError: the folder does not hold a distilled backbone.
    """
    folder = Path(text)
    if not folder.is_dir():
        return NamedBackbone(text, text if is_cnn(text) else DINOV2, InfraredMapping())
    try:
        record = DistillRecord.parse(json.loads((folder / DISTILL_NAME).read_text("utf-8")), str(folder))
        with safe_open(folder / MERGED_NAME, "pt") as held:
            architecture = (held.metadata() or {})["architecture"]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: expected {DISTILL_NAME} and {MERGED_NAME} of jobs/distill_freqkd.py: {error}"
        ) from error
    tower = record.config.tower
    teacher = tower if is_cnn(tower) else record.config.teacher or tower
    return NamedBackbone(f"{TIMM}{architecture}@{folder / MERGED_NAME}", teacher, record.mapping)


def figures(judged: Judged, counts_BN: Floats) -> dict[str, Any]:
    """patch_ap per class and their mean, retrieval, and intervals over draws of test pictures; points of 100."""
    precision_K, drawn_BK = judged.precision(), judged.drawn_precision(counts_BN)
    mean_B = np.nanmean(np.where(np.isfinite(drawn_BK).any(1, keepdims=True), drawn_BK, 0), 1)
    drawn = dict(zip(judged.classes, drawn_BK.T, strict=True)) | {"mean": mean_B}
    values = dict(zip(judged.classes, precision_K, strict=True)) | {"mean": np.nanmean(precision_K)}
    recalled = {k: judged.recalled(k) for k in (1, 5)}
    return {
        "patch_ap": {name: _points(value) for name, value in values.items()},
        "patch_ap_interval": {name: _interval(values_B) for name, values_B in drawn.items()},
        **{f"retrieval_r{k}": _points(found.mean()) for k, found in recalled.items()},
        **{
            f"retrieval_r{k}_interval": _interval(counts_BN @ found / counts_BN.sum(1)) for k, found in recalled.items()
        },
    }


def judge_backbone(
    encoder: Encoder,
    train: ProbeSet,
    test: ProbeSet,
    classes: Sequence[str],
    block: int,
    gallery_NC: Tensor,
) -> Judged:
    """Fit a probe to infrared features of `train`, score those of `test`, and let them find `gallery_NC`."""
    probe = _fit(encoder, train, classes, block)
    scores, means = [], []
    for images_NHWC in batches(test.infrared_NHWC):
        features_NChw = encoder(images_NHWC, block)
        scores.append(probe.scores(_rows(features_NChw)))
        means.append(features_NChw.mean((2, 3)))
    targets_NhwK = test.targets(classes, encoder.patch)
    return Judged(
        classes=tuple(classes),
        scores_PK=np.concatenate(scores),
        targets_PK=targets_NhwK.reshape(-1, len(classes)),
        picture_P=_pictures(targets_NhwK),
        rank_N=retrieval_ranks(torch.cat(means), gallery_NC),
    )


def _fit(encoder: Encoder, train: ProbeSet, classes: Sequence[str], block: int) -> LinearProbe:
    features = torch.cat([_rows(encoder(images, block)) for images in batches(train.infrared_NHWC)])
    targets_NhwK = train.targets(classes, encoder.patch)
    return fit_probe(features, targets_NhwK.reshape(-1, len(classes)))


def _rows(features_NChw: Tensor) -> Tensor:
    """[P, C]."""
    return features_NChw.permute(0, 2, 3, 1).flatten(0, 2)


def _pictures(targets_NhwK: NDArray[np.int8]) -> NDArray[np.int64]:
    """The picture of each patch [P]."""
    count, rows, columns, _ = targets_NhwK.shape
    return np.repeat(np.arange(count), rows * columns)


def _points(value: float) -> float | None:
    return round(100 * float(value), 2) if np.isfinite(value) else None


def _interval(values_B: Floats) -> dict[str, float | None]:
    if not np.isfinite(values_B).any():
        return {"low": None, "high": None}
    low, high = np.nanpercentile(values_B, [2.5, 97.5])
    return {"low": _points(low), "high": _points(high)}
