"""Study which part of FreqKD does what: every arm at every drift with every seed, side by side on Ray, resumable."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from pydantic import Field

from system.backbones.cnn import STRIDES, is_cnn, load_network
from system.backbones.vit import architecture_of, build_vit, load_vit, vit_facts, vit_hash
from system.bootstrap import draw_pictures
from system.config import FrozenConfig
from system.errors import ConfigError
from system.freqkd.distiller import DistillConfig, Distiller, teacher_features
from system.freqkd.estimate import meta_student
from system.freqkd.probe import STRENGTH
from system.freqkd.registration import REGISTRATION_VERSION
from system.freqkd.student import new_student, refuse_stage_count, teacher_name
from system.pairs.pixels import InfraredMapping
from system.pipelines.resources import check_workers, connect_to_ray, tasks_at_once
from system.pipelines.task_results import as_they_end, result_of
from system.report.console import ConsoleProgress
from system.report.freqkd_study import study_markdown, write_plot
from system.training.encoder import Encoder
from system.training.freqkd_arms import Arm, compared_arm, parse_arms, refuse_drifts, refuse_first
from system.training.freqkd_run import (
    ADAPTERS,
    CACHE,
    Bench,
    Cell,
    fresh_network,
    pooled_gallery,
    prepare_plain,
    prepare_registered,
    run_cell,
)
from system.training.freqkd_summary import RunFigures, summarise
from system.training.learnt import Marks, count_seen, marks_of, write_learnt
from system.training.probe_set import ProbeSet, read_sets, shared_classes
from system.training.study_folder import (
    FINISHED_STAY,
    refuse_differing,
    refuse_other_settings,
    remove_partials,
    write_json,
    write_settings,
)

_RESULT, _PLOT, _TABLES = "study.json", "study.png", "study.md"
_TIMED_STEPS = 2
# A worker that was killed is tried again; a run that is refused is not.
_RETRIES = 3


class StudyConfig(FrozenConfig):
    """What is compared. arms: as of `parse_arms`. drifts: in pixels of the pictures as the backbone sees them.

    seeds: numbered from 0. ours: the arm that is compared with every other; None for `registered`, where it is there.
    mapping: of infrared values to 8 bits. probe_block: whose features are probed. max_train_pictures: as of a probe.
    rounds: of the bootstrap. distill: how every arm is trained, but for its loss and what its own name says.
    threads: of a run. use_gpu: every run has a GPU of its own.
    """

    train: str
    test: str
    arms: tuple[str, ...] = Field(min_length=1)
    drifts: tuple[int, ...] = (0, 4, 8, 14, 28)
    seeds: int = Field(default=3, ge=1, le=1000)
    ours: str | None = None
    mapping: InfraredMapping = InfraredMapping()
    probe_block: int = Field(default=9, ge=0)
    max_train_pictures: int = Field(default=1200, ge=2)
    rounds: int = Field(default=1000, ge=10, le=100_000)
    threads: int = Field(default=1, ge=1, le=256)
    use_gpu: bool = False
    distill: DistillConfig = DistillConfig()

    @property
    def resources(self) -> dict[str, float]:
        """What Ray gives a run."""
        return {"num_cpus": self.threads, "num_gpus": float(self.use_gpu)}


def default_block(config: DistillConfig) -> int:
    """What is probed if nothing is said: of a network of convolutions the stage whose places are next to a patch."""
    return 2 if is_cnn(config.tower) else 9


def study_freqkd(
    config: StudyConfig,
    out: Path,
    progress: ConsoleProgress,
    tell_budget: Callable[[dict[str, Any]], None] = lambda _: None,
    is_dry: bool = False,
) -> dict[str, Any]:
    """Do every run that `out` lacks, and sum up all that were asked for.

    Args:
        out: seen by every worker. Each finished run is a JSON file there; settings must stay, arms, drifts and seeds
            may be added.
        tell_budget: called before the first run. is_dry: end there.
    Returns:
        What lies in study.json, beside which lie study.png and study.md; only the budget where `is_dry`.
    Raises:
        ConfigError: an arm, drift or block that cannot be, or `out` holds a study with other settings. DataError: pairs
            that cannot be read. ModelError: a loss that is no number.
    """
    arms = parse_arms(config.arms)
    ours = compared_arm(config.ours, arms)
    if not is_cnn(config.distill.tower):
        refuse_first(arms)
    cells = list(_cells(arms, config))
    progress.phase("reading pairs")
    size = (config.distill.height, config.distill.width)
    train, test = read_sets(config.train, config.test, size, config.mapping, config.max_train_pictures, progress.note)
    classes = shared_classes(train, test)
    blocks = _refuse_blocks(config, arms)
    settings = _settings(config, arms, train, test)
    settings["recipes"] |= other_recipes(out, settings)
    torch.set_num_threads(config.threads)
    bench = Bench(
        out.absolute(), train, test, classes, config.probe_block, config.distill, config.rounds, torch.zeros(0),
        config.use_gpu,
    )  # fmt: skip
    missing = [cell for cell in cells if not (out / f"{cell.name}.json").is_file()]
    connect_to_ray()
    check_workers(1, config.threads, config.use_gpu, progress.note)
    learnt, seen = seen_copies(train, test, progress.note)
    progress.phase("timing a step")
    budget = _budget(bench, config, cells, missing)
    tell_budget(budget)
    if is_dry:
        return {"budget": budget}
    write_settings(out, settings)
    remove_partials(out, out / CACHE, out / ADAPTERS)
    write_learnt(out, learnt)
    if missing:
        _run(bench, config, missing, blocks, progress)
    seconds = [json.loads((out / f"{cell.name}.json").read_text("utf-8"))["seconds"] for cell in cells]
    budget["seconds_per_run"] = {
        part: round(float(np.mean([told[part] for told in seconds])), 1) for part in ("train", "judge")
    }
    counts_BN = draw_pictures(len(test.pairs), config.rounds, seed=0)
    runs = {
        (cell.arm.name, cell.drift_px, cell.seed): RunFigures.read(out / f"{cell.name}.npz", counts_BN)
        for cell in cells
    }
    result = summarise(runs, [arm.name for arm in arms], config.drifts, config.seeds, classes, ours)
    result |= {"budget": budget, "registration": _registration(out, config), "seen_in_training": seen}
    write_json(out / _RESULT, result)
    write_plot(result, out / _PLOT)
    (out / _TABLES).write_text(study_markdown(result, _PLOT), "utf-8")
    return result


def _cells(arms: Sequence[Arm], config: StudyConfig) -> Iterator[Cell]:
    """All arms of a seed come before the next seed, so that an unfinished study compares something."""
    refuse_drifts(config.drifts, config.distill.height, config.distill.width)
    yield from (Cell(arm, 0, 0) for arm in arms if arm.loss is None)
    for seed in range(config.seeds):
        for drift in config.drifts:
            yield from (Cell(arm, drift, seed) for arm in arms if arm.loss is not None)


def _refuse_blocks(config: StudyConfig, arms: Sequence[Arm]) -> tuple[int, ...]:
    """All blocks that any arm matches.

    Raises:
        ConfigError: the teacher lacks one of them, or the student the one that is probed; adapters that do not fit.
    """
    configs = [arm.config(config.distill, 0) for arm in arms if arm.loss is not None]
    blocks = sorted({block for arm_config in configs for block in arm_config.blocks})
    teacher, student = teacher_name(config.distill), config.distill.tower
    last = vit_facts(build_vit(architecture_of(teacher), device="meta")).num_blocks - 1
    probed, kind = (len(STRIDES) - 1, "stages") if is_cnn(student) else (last, "blocks")
    for block in blocks:
        if not 0 <= block <= last:
            raise ConfigError(f"block {block}: {teacher} has blocks 0..{last}")
    if not config.probe_block <= probed:
        raise ConfigError(f"--block {config.probe_block}: {student} has {kind} 0..{probed}")
    for arm_config in configs:
        if len(set(arm_config.blocks)) < len(arm_config.blocks):
            raise ConfigError(f"blocks {', '.join(map(str, arm_config.blocks))}: expected each once")
        if is_cnn(student):
            refuse_stage_count(arm_config.blocks)
        else:
            meta_student(arm_config)
    return tuple(blocks)


def _budget(bench: Bench, config: StudyConfig, cells: Sequence[Cell], missing: Sequence[Cell]) -> dict[str, Any]:
    """What the study costs, from steps and pictures timed on a worker."""
    count = len(bench.train.pairs)
    steps = config.distill.epochs * math.ceil(count / config.distill.batch_size)
    timed = _timed.options(**config.resources).remote(ray.put(bench), config.threads)
    step_s, picture_s = result_of(timed, FINISHED_STAY)
    at_once = tasks_at_once(config.threads, config.use_gpu)
    trained = [cell for cell in missing if cell.arm.loss is not None]
    judge_s = picture_s * (count + len(bench.test.pairs))
    registered = len({(cell.drift_px, cell.seed) for cell in trained if cell.arm.is_registered})
    seconds = len(missing) * judge_s + len(trained) * steps * step_s + (2 + 3 * registered) * count * picture_s
    return {
        "runs": len(cells),
        "runs_done": len(cells) - len(missing),
        "at_once": at_once,
        "images_per_run": config.distill.epochs * count,
        "steps_per_run": steps,
        "batch_size": config.distill.batch_size,
        "epochs": config.distill.epochs,
        "size": [config.distill.height, config.distill.width],
        "train_pictures": count,
        "test_pictures": len(bench.test.pairs),
        "estimated_seconds_per_run": round(steps * step_s + judge_s, 1),
        "estimated_hours": round(seconds / at_once / 3600, 2),
    }


@ray.remote
def _timed(bench: Bench, threads: int) -> tuple[float, float]:
    """(seconds of a step, seconds of a picture that is judged)."""
    torch.set_num_threads(threads)
    config = bench.config
    pictures = np.resize(bench.train.infrared_NHWC, (config.batch_size, *bench.train.infrared_NHWC.shape[1:]))
    plain = Encoder.of(fresh_network(config.tower, bench.device), config)
    plain(pictures, bench.probe_block)
    started_s = time.monotonic()
    plain(pictures, bench.probe_block)
    picture_s = (time.monotonic() - started_s) / len(pictures)
    teacher = load_vit(teacher_name(config)).to(bench.device)
    features = teacher_features(teacher, torch.from_numpy(pictures.copy()), config.blocks)
    distiller = Distiller(new_student(config, fresh_network(config.tower, bench.device)), config, 100)
    distiller.step(torch.from_numpy(pictures), features, None)
    started_s = time.monotonic()
    for _ in range(_TIMED_STEPS):
        distiller.step(torch.from_numpy(pictures), features, None)
    return (time.monotonic() - started_s) / _TIMED_STEPS, picture_s


@ray.remote(max_retries=_RETRIES)
def _prepared(bench: Bench, blocks: Sequence[int], threads: int) -> Any:
    torch.set_num_threads(threads)
    if blocks:
        prepare_plain(bench, blocks)
    return pooled_gallery(bench.config, bench.test, bench.probe_block, bench.device)


@ray.remote(max_retries=_RETRIES)
def _registered(bench: Bench, drift_px: int, seed: int, blocks: Sequence[int], threads: int) -> None:
    torch.set_num_threads(threads)
    prepare_registered(bench, drift_px, seed, blocks)


@ray.remote(max_retries=_RETRIES)
def _cell(bench: Bench, cells: Sequence[Cell], threads: int, _after: Any) -> list[str]:
    """Runs of one training; `_after` is what must have been prepared."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return [run_cell(bench, cell)["arm"] for cell in cells]


def _run(
    bench: Bench, config: StudyConfig, missing: Sequence[Cell], blocks: Sequence[int], progress: ConsoleProgress
) -> None:
    """Raises NightminerError: what a run raised, or that Ray lost it; runs that are done stay done."""
    progress.phase("encoding RGB pictures")
    threads, resources = config.threads, config.resources
    needs = tuple(sorted({*blocks, *config.distill.blocks})) if any(cell.arm.loss for cell in missing) else ()
    gallery = result_of(_prepared.options(**resources).remote(ray.put(bench), needs, threads), FINISHED_STAY)
    shared = ray.put(Bench(**(vars(bench) | {"gallery_NC": gallery})))
    pending: list[Any] = []
    trainings: dict[tuple[str, int, int], list[Cell]] = {}
    for cell in missing:
        trainings.setdefault((cell.arm.trained_as, cell.drift_px, cell.seed), []).append(cell)
    registered: dict[tuple[int, int], Any] = {}
    for cells in trainings.values():
        drift, seed = cells[0].drift_px, cells[0].seed
        if cells[0].arm.is_registered and (drift, seed) not in registered:
            task = _registered.options(**resources)
            registered[drift, seed] = task.remote(shared, drift, seed, needs, threads)
        after = registered.get((drift, seed)) if cells[0].arm.is_registered else None
        pending.append(_cell.options(**resources).remote(shared, cells, threads, after))
    progress.phase(f"{len(missing)} runs")
    progress.expect(len(missing))
    for _, names in as_they_end(pending, FINISHED_STAY):
        progress.advanced(len(names), 0, 0)


def seen_copies(train: ProbeSet, test: ProbeSet, note: Callable[[str], None]) -> tuple[list[Marks], int | None]:
    """Warn of copies of training pictures among those that are judged.

    Returns:
        (the marks of what is learnt from, how many of `test` are copies).
    """
    learnt = marks_of([pair.infrared_uri for pair in train.pairs])
    uris = [pair.infrared_uri for pair in test.pairs]
    return learnt, count_seen(uris, marks_of(uris), [("the students of this study, from copies,", learnt)], note)


def _registration(out: Path, config: StudyConfig) -> dict[str, Any]:
    """What registering found, for each drift of the first seed where it was done."""
    files = {drift: out / CACHE / f"registered-d{drift}-s0.json" for drift in config.drifts}
    return {str(drift): json.loads(file.read_text("utf-8")) for drift, file in files.items() if file.is_file()}


def _settings(config: StudyConfig, arms: Sequence[Arm], train: ProbeSet, test: ProbeSet) -> dict[str, Any]:
    """What all runs of a folder have in common; arms, drifts and seeds may be added."""
    recipes = {arm.name: None if arm.loss is None else arm.loss.model_dump(mode="json") for arm in arms}
    return {
        "distill": json.loads(config.distill.model_dump_json(exclude={"loss", "seed"})),
        "backbone": vit_hash(load_network(config.distill.tower)),
        "recipes": recipes,
        "registration": REGISTRATION_VERSION,
        "mapping": config.mapping.model_dump(mode="json"),
        "probe": {"block": config.probe_block, "penalty": STRENGTH, "rounds": config.rounds},
        "data": {"train": train.sha256(), "test": test.sha256()},
    }


def other_recipes(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The recipes of the folder's other arms.

    Raises:
        ConfigError: as `refuse_other_settings`; an arm of the same name has another recipe.
    """
    known = refuse_other_settings(out, settings, may_differ=("recipes",)).get("recipes", {})
    recipes = settings["recipes"]
    refuse_differing(out, [f"recipe of {arm}" for arm in sorted(recipes.keys() & known) if recipes[arm] != known[arm]])
    return {arm: loss for arm, loss in known.items() if arm not in recipes}
