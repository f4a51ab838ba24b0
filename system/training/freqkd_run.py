"""One run of a FreqKD study: train a student as an arm says on drifted pairs, merge it, probe it. No Ray.

What runs share is computed once and kept in files: the teacher's features of every RGB picture and of its mirror
image, and, for arms that register pairs, those of the RGB picture moved to where the infrared one was found.

Legend: N pairs, H x W pixels, h x w patches, C channels, K classes, B draws.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from system.backbones.cnn import is_cnn, load_network
from system.backbones.runtime import device_of
from system.backbones.vit import load_vit, vit_facts
from system.bootstrap import draw_pictures
from system.errors import ModelError
from system.freqkd.distiller import DistillConfig, Distiller, is_flipped, order_of, teacher_features
from system.freqkd.registration import register_pair, shift_picture, valid_tokens
from system.freqkd.student import merged_network, new_student, teacher_name, trained_state
from system.training.encoder import Encoder, pooled
from system.training.freqkd_arms import Arm, drift_shifts, drifted
from system.training.probe import figures, judge_backbone
from system.training.probe_set import ProbeSet
from system.training.study_folder import partial_of, write_json

CACHE, ADAPTERS = "cache", "adapters"
_PICTURES_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Bench:
    """What all runs of a study have in common.

    out: folder of the study, seen by every worker. gallery_NC: the teacher's pooled RGB features of the test pictures.
    rounds: bootstrap draws of test pictures, the same for every run. use_gpu: every run has been given one.
    """

    out: Path
    train: ProbeSet
    test: ProbeSet
    classes: tuple[str, ...]
    probe_block: int
    config: DistillConfig
    rounds: int
    gallery_NC: Tensor
    use_gpu: bool = False

    @property
    def device(self) -> str:
        """Where networks compute; what they tell lies on the CPU."""
        return device_of(self.use_gpu)


@dataclass(frozen=True)
class Cell:
    """One run: an arm, a drift in pixels, a seed. An arm without training has drift and seed 0."""

    arm: Arm
    drift_px: int
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.arm.name}-d{self.drift_px}-s{self.seed}"


@functools.lru_cache(maxsize=1)
def _loaded(tower: str, device: str) -> VisionTransformer:
    return load_vit(tower).to(device)


@functools.lru_cache(maxsize=1)
def _network(tower: str, device: str) -> nn.Module:
    return load_network(tower).to(device)


def fresh_network(tower: str, device: str = "cpu") -> nn.Module:
    """A copy to change; the weights are read once in a process."""
    return copy.deepcopy(_network(tower, device))


def run_cell(bench: Bench, cell: Cell) -> dict[str, Any]:
    """Train, merge, probe; leaves `<name>.npz` with what intervals are made from, then `<name>.json`, and returns it.

    Raises:
        ModelError: the loss is no number.
    """
    started_s = time.monotonic()
    told: dict[str, Any] = {"arm": cell.arm.name, "drift_px": cell.drift_px, "seed": cell.seed}
    if cell.arm.loss is None:
        model = _network(bench.config.tower, bench.device)
    else:
        state, trained = _adapters(bench, cell)
        told |= trained
        config = cell.arm.config(bench.config, cell.seed)
        model = merged_network(config, state, config.merge_factor).to(bench.device)
    trained_s = time.monotonic()
    encoder = Encoder.of(model, bench.config)
    judged = judge_backbone(encoder, bench.train, bench.test, bench.classes, bench.probe_block, bench.gallery_NC)
    counts_BN = draw_pictures(len(bench.test.pairs), bench.rounds, seed=0)
    told |= figures(judged, counts_BN) | {
        "rank": judged.rank_N.tolist(),
        "seconds": {"train": round(trained_s - started_s, 1), "judge": round(time.monotonic() - trained_s, 1)},
    }
    file = bench.out / f"{cell.name}.npz"
    partial = partial_of(bench.out / cell.name, ".npz")
    np.savez(
        partial,
        precision_K=judged.precision(),
        drawn_precision_BK=judged.drawn_precision(counts_BN).astype(np.float32),
        rank_N=judged.rank_N,
        scores_PK=judged.scores_PK,
    )
    partial.replace(file)
    write_json(bench.out / f"{cell.name}.json", told)
    return told


def _adapters(bench: Bench, cell: Cell) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trained ones of this arm, drift and seed, from a file where an arm merged with another factor left them."""
    file = bench.out / ADAPTERS / f"{cell.arm.trained_as}-d{cell.drift_px}-s{cell.seed}.safetensors"
    log = file.with_suffix(".json")
    if log.is_file():
        return load_file(file), json.loads(log.read_text("utf-8"))
    state, told = train(bench, cell)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(file)
    save_file(state, partial)
    partial.replace(file)
    write_json(log, told)
    return state, told


def train(bench: Bench, cell: Cell) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a student learnt that saw every pair once an epoch, and how it went."""
    config = cell.arm.config(bench.config, cell.seed)
    count = len(bench.train.pairs)
    steps = math.ceil(count / config.batch_size)
    student = new_student(config, fresh_network(config.tower, bench.device))
    distiller = Distiller(student, config, config.epochs * steps)
    teacher = TeacherFeatures.of_run(bench, cell)
    infrared_NHWC = drifted(bench.train.infrared_NHWC, drift_shifts(cell.drift_px, cell.seed, count))
    history, started_s = [], time.monotonic()
    for epoch in range(config.epochs):
        order = order_of(cell.seed, epoch, count)
        sums: dict[str, float] = {}
        for start in range(0, count, config.batch_size):
            batch = order[start : start + config.batch_size]
            flips = [config.flip and is_flipped(cell.seed, epoch, pair) for pair in batch]
            pictures = np.stack(
                [infrared_NHWC[n][:, ::-1] if flip else infrared_NHWC[n] for n, flip in zip(batch, flips, strict=True)]
            )
            features, valid_NHW = teacher.rows(batch, flips)
            losses = distiller.step(torch.from_numpy(pictures), features, valid_NHW)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value * len(batch) / count
        history.append({name: round(value, 6) for name, value in sums.items() if name != "lr"})
    told = {
        "steps": distiller.steps_done,
        "images": count * config.epochs,
        "train_seconds": round(time.monotonic() - started_s, 1),
        "losses": history,
    }
    return trained_state(distiller.student), told


@dataclass(frozen=True, eq=False)
class TeacherFeatures:
    """Features that lie in files, [2, N, C, h, w] for each block: of the pictures, then of their mirror images.

    They are float16: of the student's own size, rounded by less than a thousandth. valid_2NHW: patches that count.
    """

    maps: tuple[NDArray[np.float16], ...]
    valid_2NHW: NDArray[np.bool_] | None

    @classmethod
    def of_run(cls, bench: Bench, cell: Cell) -> TeacherFeatures:
        """Those that a run is matched with; they must have been prepared."""
        blocks = cell.arm.config(bench.config, cell.seed).blocks
        kind = registered_name(cell.drift_px, cell.seed) if cell.arm.is_registered else PLAIN
        maps = tuple(np.load(_feature_file(bench.out, kind, block), mmap_mode="r") for block in blocks)
        return cls(maps, np.load(bench.out / CACHE / f"{kind}-valid.npy") if cell.arm.is_registered else None)

    def rows(self, pairs: Sequence[int], flips: Sequence[bool]) -> tuple[list[Tensor], Tensor | None]:
        """([n, C, h, w] of each block, valid [n, h, w] or None) of some pairs."""
        side = [int(flip) for flip in flips]
        features = [torch.from_numpy(np.stack([m[f, n] for f, n in zip(side, pairs, strict=True)])) for m in self.maps]
        if self.valid_2NHW is None:
            return [f.float() for f in features], None
        return [f.float() for f in features], torch.from_numpy(self.valid_2NHW[side, list(pairs)])


PLAIN = "rgb"


def registered_name(drift_px: int, seed: int) -> str:
    """Of the files of RGB features that were registered to drifted infrared pictures."""
    return f"registered-d{drift_px}-s{seed}"


def prepare_plain(bench: Bench, blocks: Sequence[int]) -> None:
    """Encode every RGB picture and its mirror image, for blocks whose files are missing."""
    missing = [block for block in blocks if not _feature_file(bench.out, PLAIN, block).is_file()]
    if missing:
        teacher = _loaded(teacher_name(bench.config), bench.device)
        with _FeatureFiles(bench, PLAIN, missing) as files:
            for start in range(0, len(bench.train.pairs), _PICTURES_AT_ONCE):
                rows = list(range(start, min(start + _PICTURES_AT_ONCE, len(bench.train.pairs))))
                for side in (0, 1):
                    files.put(side, rows, _encoded(teacher, _sided(bench.train.rgb_NHWC[rows], side), missing))


def prepare_registered(bench: Bench, drift_px: int, seed: int, blocks: Sequence[int]) -> dict[str, Any]:
    """Find each drifted pair's shift from features and edges, and encode the RGB pictures moved by it.

    Pairs whose shift is none keep the features of `prepare_plain`. The patches that count are there before the
    features, and these before the log: a kill between them costs no more than finding the shifts again.

    Returns:
        What was found, beside what had been injected.
    """
    kind = registered_name(drift_px, seed)
    log = bench.out / CACHE / f"{kind}.json"
    missing = [block for block in blocks if not _feature_file(bench.out, kind, block).is_file()]
    if not missing and log.is_file():
        found: dict[str, Any] = json.loads(log.read_text("utf-8"))
        return found
    count, config = len(bench.train.pairs), bench.config
    teacher = _loaded(teacher_name(config), bench.device)
    patch = vit_facts(teacher).patch
    plain = {
        block: np.load(_feature_file(bench.out, PLAIN, block), mmap_mode="r") for block in {*blocks, *config.blocks}
    }
    injected_N2 = drift_shifts(drift_px, seed, count)
    infrared_NHWC = drifted(bench.train.infrared_NHWC, injected_N2)
    estimated_N2, confident_N = np.zeros((count, 2), int), np.zeros(count, bool)
    grid = plain[blocks[0]].shape[3:]
    valid_2NHW = np.ones((2, count, *grid), bool)
    with _FeatureFiles(bench, kind, missing) as files:
        for start in range(0, count, _PICTURES_AT_ONCE):
            rows = list(range(start, min(start + _PICTURES_AT_ONCE, count)))
            infrared = _encoded(teacher, infrared_NHWC[rows], config.blocks)
            moved = bench.train.rgb_NHWC[rows].copy()
            for k, n in enumerate(rows):
                shift = register_pair(
                    torch.from_numpy(moved[k]),
                    torch.from_numpy(infrared_NHWC[n]),
                    [torch.from_numpy(plain[block][0, n].astype(np.float32)) for block in config.blocks],
                    [features[k] for features in infrared],
                    patch,
                )
                confident_N[n] = shift.is_confident
                estimated_N2[n] = shift.dy_px, shift.dx_px
                picture, valid_HW = shift_picture(torch.from_numpy(moved[k]), *map(int, estimated_N2[n]))
                moved[k] = picture.numpy()
                for side, valid in enumerate((valid_HW, valid_HW.flip(1))):
                    valid_2NHW[side, n] = valid_tokens(valid, patch).numpy()
            still = [n for n in rows if not estimated_N2[n].any()]
            others = [n for n in rows if estimated_N2[n].any()]
            for side in (0, 1):
                files.put(side, still, [plain[block][side][still] for block in missing])
                if others and missing:
                    pictures = _sided(moved[[n - start for n in others]], side)
                    files.put(side, others, _encoded(teacher, pictures, missing))
        _save_array(bench.out / CACHE / f"{kind}-valid.npy", valid_2NHW)
    off_N = np.abs(estimated_N2 - injected_N2).max(1)
    found = {
        "confident_share": float(confident_N.mean()),
        "moved_share": float(estimated_N2.any(1).mean()),
        "error_px": {f"p{q}": float(np.percentile(off_N, q)) for q in (50, 90)},
        "injected_px": {f"p{q}": float(np.percentile(np.abs(injected_N2).max(1), q)) for q in (50, 90)},
    }
    write_json(log, found)
    return found


def pooled_gallery(config: DistillConfig, test: ProbeSet, block: int, device: str = "cpu") -> Tensor:
    """Pooled RGB features of the test pictures [N, C], in which students find their own.

    Of the teacher; of the untouched network where students are convolutional networks, whose width no teacher has.
    """
    name = config.tower if is_cnn(config.tower) else teacher_name(config)
    return pooled(Encoder.of(_network(name, device), config), test.rgb_NHWC, block)


class _FeatureFiles:
    """Files of features that are being written; they take their names when all is in them."""

    def __init__(self, bench: Bench, kind: str, blocks: Sequence[int]) -> None:
        (bench.out / CACHE).mkdir(parents=True, exist_ok=True)
        facts = vit_facts(_loaded(teacher_name(bench.config), bench.device))
        height, width = facts.padded(*bench.train.rgb_NHWC.shape[1:3])
        shape = (2, len(bench.train.pairs), facts.width, height // facts.patch, width // facts.patch)
        self._files = [_feature_file(bench.out, kind, block) for block in blocks]
        self._partial = [partial_of(file) for file in self._files]
        self._maps = [np.lib.format.open_memmap(partial, "w+", np.float16, shape) for partial in self._partial]

    def __enter__(self) -> _FeatureFiles:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for values, partial, file in zip(self._maps, self._partial, self._files, strict=True):
            values.flush()
            if kind is None:
                partial.replace(file)
            else:
                partial.unlink(missing_ok=True)

    def put(self, side: int, rows: Sequence[int], features: Sequence[Any]) -> None:
        """Write some pairs' features of every block."""
        for values, block_features in zip(self._maps, features, strict=True):
            half = np.asarray(block_features, np.float16)
            if not np.isfinite(half).all():
                raise ModelError("the teacher's features are not finite in float16: they are NaN or beyond 65504")
            values[side, list(rows)] = half


def _save_array(file: Path, values: NDArray[np.bool_]) -> None:
    """Whole or not at all."""
    partial = partial_of(file)
    with partial.open("wb") as opened:
        np.save(opened, values)
    partial.replace(file)


def _feature_file(out: Path, kind: str, block: int) -> Path:
    return out / CACHE / f"{kind}-b{block}.npy"


def _encoded(model: VisionTransformer, images_NHWC: NDArray[np.uint8], blocks: Sequence[int]) -> list[Tensor]:
    features = teacher_features(model, torch.from_numpy(np.ascontiguousarray(images_NHWC)), blocks)
    return [block_features.cpu() for block_features in features]


def _sided(images_NHWC: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """As they are (0) or mirrored (1)."""
    return images_NHWC[:, :, ::-1] if side else images_NHWC
