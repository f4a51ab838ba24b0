"""Distil an infrared backbone from RGB: corpora in, a published folder out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from system.backbones.cnn import is_cnn
from system.backbones.vit import load_vit
from system.drafts import new_draft, publish_draft, refuse_existing
from system.errors import ConfigError, DataError
from system.freqkd.distiller import DistillConfig, Distiller
from system.freqkd.student import facts_without_weights, load_trained_state, new_student, teacher_facts
from system.pairs.pixels import InfraredMapping
from system.pairs.registry import open_pairs
from system.pipelines.pair_stream import PairName
from system.pipelines.resources import check_workers, connect_to_ray
from system.report.console import ConsoleProgress
from system.store.runs import git_commit
from system.training.certificate import library_versions, now
from system.training.distill_publish import DistillRecord, write_student
from system.training.distill_run import DistillProgress, DistillRun, distill_on_ray, steps_of_epoch
from system.training.learnt import Marks, learnt_by_backbone, marks_of, write_learnt
from system.training.position import shown
from system.training.run import discard_run
from system.training.study_folder import read_settings, write_json

_SETTINGS = "settings.json"


@dataclass(frozen=True)
class PairSource:
    """uris: folders, lists or COCO files. reader: of `open_pairs`. licence: of the pictures, in the user's words.

    splits: parts of a corpus that are taken, as its layout names them; a pair that it puts in none is always taken.
    mapping: of infrared values to 8 bits.
    """

    uris: tuple[str, ...]
    reader: str = "auto"
    licence: str = "not stated"
    splits: tuple[str, ...] = ("train",)
    mapping: InfraredMapping = field(default_factory=InfraredMapping)


@dataclass(frozen=True)
class GatheredPairs:
    """names: in the order of the corpora. left_out: pictures without a partner and records that cannot be read.

    other_splits: pairs of a part that is not taken.
    """

    names: list[PairName]
    counts: dict[str, int]
    left_out: list[str]
    other_splits: dict[str, int]

    def sha256(self) -> str:
        """Of which pairs they are; not of their pixels."""
        listed = [[name.pair_id, name.rgb_uri, name.infrared_uri] for name in self.names]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def distill(
    source: PairSource, config: DistillConfig, run: DistillRun, out: Path, progress: ConsoleProgress
) -> dict[str, Any]:
    """Train and publish at `out`; what can be refused is refused before anything is computed.

    Returns:
        Keys of the job's last line: loss, seconds, images, images_per_s, checkpoint, skipped, left_out, resumed_from.
    Raises:
        ConfigError, DataError, ModelError.
    """
    refuse_existing(out)
    gathered = gather_pairs(source)
    refuse_settings(config)
    run_folder = out.with_name(f".{out.name}.training")
    _claim(run_folder, config, source.mapping, gathered)
    per_epoch = steps_of_epoch(config, len(gathered.names))
    progress.phase(f"distilling on {len(gathered.names)} pairs, {config.epochs} epochs of {per_epoch} steps")
    progress.expect(config.epochs * per_epoch)
    for line in gathered.left_out[:5]:
        progress.note(f"left out: {line}")
    for split, count in gathered.other_splits.items():
        progress.note(f"not learnt from: {count} pairs of the split {split!r} (--split)")
    connect_to_ray()
    check_workers(run.workers, run.threads, run.use_gpu, progress.note)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    with shown(run_folder, config.batch_size, "pairs", progress):
        state, trained = distill_on_ray(config, run, gathered.names, source.mapping, run_folder)
    if not trained.images:
        discard_run(run_folder)
        first = next(iter(trained.skipped.values()), "")
        raise DataError("no_readable_pair", f"none of {len(gathered.names)} pairs could be read, e.g. {first}")
    progress.phase("writing")
    student = new_student(config)
    load_trained_state(student, {k.removeprefix("now/"): v for k, v in state.items() if k.startswith("now/")})
    record = DistillRecord(
        config=config,
        uris=source.uris,
        licence=source.licence,
        mapping=source.mapping,
        pairs=gathered.counts,
        data_sha256=gathered.sha256(),
        skipped=tuple(trained.skipped.values()),
        left_out=len(gathered.left_out),
        loss=last_losses(trained),
        images=trained.images,
        seconds=trained.seconds,
        created=now(),
        commit=git_commit() or "",
        libraries=library_versions(),
    )
    folder = new_draft(out)
    write_student(folder, student.eval(), record, trained.history)
    write_learnt(folder, learnt_from(gathered, config, progress))
    publish_draft(folder, out)
    discard_run(run_folder)
    return {
        "loss": record.loss,
        "pairs": len(gathered.names),
        "epochs": config.epochs,
        "steps": config.epochs * per_epoch,
        "seconds": round(trained.seconds, 1),
        "images": trained.images,
        "images_per_s": round(trained.session_images / max(trained.session_seconds, 1e-9), 3),
        "checkpoint": str(out),
        "skipped": len(trained.skipped),
        "left_out": len(gathered.left_out),
        "resumed_from": trained.resumed_from,
    }


def learnt_from(gathered: GatheredPairs, config: DistillConfig, progress: ConsoleProgress) -> list[Marks]:
    """Marks of the infrared pictures, and of what teacher and student had learnt from before."""
    marks = marks_of([name.infrared_uri for name in gathered.names])
    for name in filter(None, (config.tower, config.teacher)):
        before = learnt_by_backbone(name)
        if before is None:
            progress.note(
                f"warning: {name} does not tell which pictures it learnt from; the list beside this student lacks them"
            )
        marks += before or []
    return marks


def gather_pairs(source: PairSource) -> GatheredPairs:
    """List the pairs of all corpora.

    Raises:
        FormatError, DataError: a corpus cannot be listed, or none of them holds a pair.
    """
    names: list[PairName] = []
    counts: dict[str, int] = {}
    left_out: list[str] = []
    other_splits: Counter[str] = Counter()
    if twice := [uri for uri, count in Counter(source.uris).items() if count > 1]:
        raise ConfigError(f"--pairs {twice[0]}: named twice; its pairs would count twice")
    for uri in source.uris:
        corpus = open_pairs(uri, source.reader)
        wanted = {"", *source.splits}
        taken = [pair for pair in corpus.pairs if pair.split in wanted]
        other_splits += Counter(pair.split for pair in corpus.pairs if pair.split not in wanted)
        names += [
            PairName(len(names) + k, pair.pair_id, pair.rgb_uri, pair.infrared_uri, pair.crop_rgb)
            for k, pair in enumerate(taken)
        ]
        counts[uri] = len(taken)
        left_out += [f"{uri}: no partner for {name}" for name in corpus.unmatched]
        left_out += [f"{uri}: {f.pair_id}: {f.code}: {f.message}" for f in corpus.faults if f.is_skipped]
    if not names and other_splits:
        raise DataError(
            "no_pairs",
            f"{', '.join(source.uris)}: all {other_splits.total()} pairs are of the splits "
            f"{', '.join(sorted(other_splits))}; name one with --split to learn from it",
        )
    if not names:
        why = f"; {len(left_out)} left out, e.g. {left_out[0]}" if left_out else ""
        raise DataError("no_pairs", f"{', '.join(source.uris)}: no pair of an RGB and an infrared picture{why}")
    return GatheredPairs(names, counts, left_out, dict(other_splits))


def refuse_settings(config: DistillConfig) -> None:
    """Find what does not fit before hours are spent: shapes before any weights are loaded, then the weights' own.

    Raises:
        ConfigError, ModelError: blocks, rank, teacher and student of other widths or patches.
    """
    if config.teacher is not None and not is_cnn(config.tower):
        _refuse_other_shape(config)
        load_vit(config.teacher)
    Distiller(new_student(config), config, 1)


def _refuse_other_shape(config: DistillConfig) -> None:
    ours, theirs = facts_without_weights(config.tower, config.blocks), teacher_facts(config)
    if (ours.width, ours.patch) != (theirs.width, theirs.patch):
        raise ConfigError(
            f"teacher {config.teacher} has width {theirs.width} and patch {theirs.patch}, student {config.tower} width "
            f"{ours.width} and patch {ours.patch}; features are matched one to one and need the same"
        )


def last_losses(progress: DistillProgress) -> dict[str, float]:
    """Means over the last epoch: every loss, and `low` and `high` over all blocks where there are such."""
    rows = [row for row in progress.history if row["epoch"] == progress.history[-1]["epoch"]]
    steps = sum(row["steps"] for row in rows)
    names = [name for name in rows[0] if name not in ("epoch", "step", "steps", "lr")]
    means = {name: sum(row[name] * row["steps"] for row in rows) / steps for name in names}
    bands: dict[str, list[float]] = {}
    for name, value in means.items():
        if "/" in name:
            bands.setdefault(name.split("/")[0], []).append(value)
    return {band: sum(values) / len(values) for band, values in bands.items()} | means


def _claim(folder: Path, config: DistillConfig, mapping: InfraredMapping, gathered: GatheredPairs) -> None:
    """Begin a run folder, or check that it is of this very training."""
    learnt = config.model_dump(mode="json", exclude={"merge_factor"}) | {"mapping": mapping.model_dump(mode="json")}
    settings = {"config": learnt, "data": gathered.sha256()}
    file = folder / _SETTINGS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        asked = json.loads(json.dumps(settings))
        before = read_settings(file) if file.is_file() else asked
        if before != asked:
            held = before.get("config", {})
            differing = sorted(key for key in asked["config"] if held.get(key) != asked["config"][key])
            differing += ["pairs"] if before.get("data") != asked["data"] else []
            raise ConfigError(
                f"{folder}: holds an unfinished training with other settings ({', '.join(differing)}); repeat that "
                "command, choose another --out, or delete the folder"
            )
        write_json(file, settings)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error
