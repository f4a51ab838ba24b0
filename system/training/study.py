"""What upgrades of one head do to its siblings: ours, beside three ways in which it is done elsewhere.

Every arm gives the head the same new reader and trains it on the same scenes, in the same order, with the same
settings. Arms differ in what else may learn:

    ours              nothing else.
    adapter_random    an adapter in the shared stream; the siblings' own weights are frozen.
    adapter_zero      the same, the adapter adding nothing at first.
    unfrozen          every weight of the model.

The linear part of the reader is fitted before, in every arm alike.

Legend: N scenes, K cells, D stream width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from system.backbones.loading import load_tower
from system.backbones.runtime import choose_runtime
from system.errors import ConfigError, DataError
from system.labels.table import PRESENT
from system.miner.bev import BevTokens
from system.miner.miner_config import HEADS
from system.miner.model import SceneMiner, Tower
from system.report.console import ConsoleProgress
from system.training.certificate import choose_probe
from system.training.config import TrainConfig
from system.training.examples import Examples, SourceConfig, decided_parts, gather, split_examples
from system.training.loop import Trainer
from system.training.metrics import (
    Interval,
    bootstrap,
    forecast_errors,
    mean_average_precision,
    retrieval_at,
    spearman,
)
from system.training.records import read_training
from system.training.run import Recipe
from system.training.study_folder import refuse_other_settings, write_json, write_settings
from system.training.summary_fit import fit_summary
from system.training.targets import TrainingSet
from system.training.task import HeadTask, Task

ARMS = ("ours", "adapter_random", "adapter_zero", "unfrozen")
# The field's figure of each head; of errors, less is better.
METRICS = {"embedding": "ndcg_at_10", "tags": "tag_map", "risk": "risk_spearman", "forecast": "min_ade_m"}
_ERRORS = frozenset({"min_ade_m"})
_RESULT, _PLOT = "study.json", "study.png"

Answers = dict[str, tuple[Tensor, ...]]


@dataclass(frozen=True)
class StudyConfig:
    """base: folder of the model. head: which head is upgraded. seeds: runs of each arm, numbered from 0."""

    base: str
    head: str
    arms: tuple[str, ...]
    seeds: int
    threads: int


@dataclass(frozen=True)
class Run:
    """One arm with one seed.

    max_abs_change: largest change of any sibling's answer on a test scene. before, after: figures of every head on the
    test scenes; NaN where they do not show it. moved: largest change of each sibling.
    """

    arm: str
    seed: int
    trained_parameters: int
    best_epoch: int
    max_abs_change: float
    moved: dict[str, float]
    before: dict[str, float]
    after: dict[str, float]

    def drop(self, head: str) -> float:
        """How much worse a head became: in points of a figure within [-1, 1], and as a share of an error in metres.

        NaN where the figure is not defined.
        """
        before, after = self.before[head], self.after[head]
        if METRICS[head] in _ERRORS:
            return (after - before) / max(before, 1e-9)
        return before - after


def study_interference(
    source: SourceConfig, study: StudyConfig, config: TrainConfig, out: Path, progress: ConsoleProgress
) -> dict[str, Any]:
    """Run every arm with every seed, or go on where an earlier call with the same settings stopped.

    Returns:
        What lies in study.json: per arm its figures over the seeds; beside it study.png.
    Raises:
        ConfigError: an unknown arm or head, or `out` holds a study with other settings. DataError: no test scene.
    """
    _check(study)
    torch.set_num_threads(study.threads)
    tower = load_tower(source.tower, choose_runtime(study.threads, use_gpu=False))
    taxonomy = SceneMiner.load(study.base, tower).taxonomy
    record = read_training(study.base)

    def divided(examples: Examples) -> dict[str, Examples]:
        parts = split_examples(examples, decided_parts(examples.labels, record), source.test_share)
        if not len(parts["test"]):
            raise DataError("no_scenes", "every group of these logs was learnt from by the base; add others to test on")
        return parts

    parts = divided(gather(source, taxonomy, progress, check=divided))
    _claim(out, study, config, parts)
    runs: list[Run] = []
    bench = _Bench(Recipe(source.tower, taxonomy, config, base=study.base, head=study.head), tower, parts)
    for seed in range(study.seeds):
        for arm in study.arms:
            file = out / f"{arm}-{seed}.json"
            if file.is_file():
                runs.append(Run(**json.loads(file.read_text("utf-8"))))
                continue
            progress.phase(f"{arm}, seed {seed}")
            run = bench.run(arm, seed)
            write_json(file, vars(run))
            runs.append(run)
    result = summarise(runs, study, {part: len(rows) for part, rows in parts.items()})
    write_json(out / _RESULT, result)
    _plot(result, out / _PLOT)
    return result


def summarise(runs: Sequence[Run], study: StudyConfig, scenes: Mapping[str, int]) -> dict[str, Any]:
    """Figures of each arm over its seeds, with 95 % intervals from drawing seeds."""
    arms = {}
    for arm in study.arms:
        mine = [run for run in runs if run.arm == arm]
        siblings = [head for head in HEADS if head != study.head and any(np.isfinite(run.before[head]) for run in mine)]
        drops = {head: np.array([run.drop(head) for run in mine]) for head in siblings}
        # The mean over the siblings whose figure is defined in that run.
        every = np.array([_mean_known([drop[n] for drop in drops.values()]) for n in range(len(mine))])
        gain = np.array([-run.drop(study.head) for run in mine])
        arms[arm] = {
            "max_abs_change": max(run.max_abs_change for run in mine),
            "sibling_metric_drop": _over_seeds(every),
            "siblings": {
                head: {
                    "metric": METRICS[head],
                    "before": mine[0].before[head],
                    "after": float(np.mean([run.after[head] for run in mine])),
                    "max_abs_change": max(run.moved[head] for run in mine),
                    "drop": _over_seeds(drops[head]),
                }
                for head in siblings
            },
            "head_metric_gain": _over_seeds(gain),
            "trained_parameters": mine[0].trained_parameters,
            "seeds": len(mine),
        }
    return {"head": study.head, "scenes": dict(scenes), "arms": arms}


class AdaptedStream(nn.Module):
    """A stream with a residual adapter behind it, which all heads then read."""

    def __init__(self, stream: nn.Module, dim: int, num_parameters: int, is_zero: bool) -> None:
        super().__init__()
        self.stream = stream
        hidden = max(1, (num_parameters - dim) // (2 * dim + 1))
        self.adapter = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        if is_zero:
            nn.init.zeros_(self.adapter[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.adapter[-1].bias)  # type: ignore[arg-type]

    def forward(self, tokens: BevTokens) -> Tensor:
        stream: Tensor = self.stream(tokens)
        return stream + self.adapter(stream)


class SharedTask(HeadTask):
    """The same upgrade without our guard: some weights that siblings read are trained too."""

    def __init__(self, miner: SceneMiner, head: str, parameters: dict[str, nn.Parameter], train: TrainingSet) -> None:
        self._head = head
        Task.__init__(self, miner, parameters, {head: 1.0}, fit_summary(miner, head, train))

    def prepare(self, data: TrainingSet) -> TrainingSet:
        """Nothing to be computed once: the stream itself learns."""
        return data


class _Bench:
    """The same data for every run."""

    def __init__(self, recipe: Recipe, tower: Tower, parts: Mapping[str, Examples]) -> None:
        self._recipe, self._tower = recipe, tower
        base = self._upgraded()
        self._sets = {part: recipe.training_set(base, examples) for part, examples in parts.items()}
        self._judge = _judge(base, parts["test"], tower)
        test = self._sets["test"].features
        self._before = base.answers(test)
        self._figures = self._judge(self._before)

    def run(self, arm: str, seed: int) -> Run:
        miner = self._upgraded()
        config = self._recipe.config.model_copy(update={"seed": seed})
        task = _task_of(arm, miner, str(self._recipe.head), seed, self._sets["train"])
        # A sibling's dropout or norms cannot be the reason: the model has none that learn or differ in training.
        progress = Trainer(task, self._sets["train"], self._sets["val"], config).run()
        with torch.no_grad():
            after = miner.answers(self._sets["test"].features)
        moved = {
            head: max(_largest_change(a, b) for a, b in zip(self._before[head], after[head], strict=True))
            for head in HEADS
            if head != self._recipe.head
        }
        return Run(
            arm=arm,
            seed=seed,
            trained_parameters=task.num_parameters,
            best_epoch=progress.best_epoch,
            max_abs_change=max(moved.values()),
            moved=moved,
            before=self._figures,
            after=self._judge(after),
        )

    def _upgraded(self) -> SceneMiner:
        return self._recipe.build(self._tower)


def _task_of(arm: str, miner: SceneMiner, head: str, seed: int, train: TrainingSet) -> Task:
    reader = miner.heads[head].readers[-1]
    if seed:  # seed 0 starts as jobs/finetune_head.py does
        _draw_reader(reader, seed)
    if arm == "ours":
        return HeadTask(miner, head, choose_probe(train.features), train)
    if arm == "unfrozen":
        return SharedTask(miner, head, dict(miner.named_parameters()), train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = miner.config.head_parameters
        stream = AdaptedStream(miner.stream, miner.config.stream_dim, size, is_zero=arm == "adapter_zero")
    miner.stream = stream  # type: ignore[assignment]
    learns = {id(p) for p in (*stream.adapter.parameters(), *reader.parameters())}
    return SharedTask(miner, head, {name: p for name, p in miner.named_parameters() if id(p) in learns}, train)


def _draw_reader(reader: nn.Module, seed: int) -> None:
    """Other starting values of the layers that do not start at zero."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in reader.modules():
            if isinstance(module, nn.Linear) and module.weight.any():
                module.reset_parameters()
        for name, parameter in reader.named_parameters():
            if name == "queries":
                parameter.copy_(0.02 * torch.randn_like(parameter))


def _judge(miner: SceneMiner, test: Examples, tower: Tower) -> Callable[[Answers], dict[str, float]]:
    """A function from answers on the test scenes to the figure of each head."""
    labels = test.labels
    seen = np.flatnonzero(labels.has_pictures_N)
    values = labels.values_NK[seen]
    judged = [k for k in range(values.shape[1]) if {0, PRESENT} <= set(values[:, k].tolist())]
    texts = [tower.text_prompt(tag.prompts[0]) for tag in miner.taxonomy.tags]
    queries = torch.nn.functional.normalize(tower.encode_texts(texts).float(), dim=-1)

    def figures(answers: Answers) -> dict[str, float]:
        embedding, tags, risk = (answers[head][0].numpy() for head in ("embedding", "tags", "risk"))
        paths, probability = (answer.numpy() for answer in answers["forecast"])
        known = np.isfinite(labels.future_NT2).all((1, 2)) & np.isfinite(paths).all((1, 2, 3))
        errors = forecast_errors(paths[known], probability[known], labels.future_NT2[known])["min_ade"]
        return {
            "embedding": retrieval_at((embedding[seen] @ queries.numpy().T).T, values.T)[0],
            "tags": mean_average_precision(tags[seen], values, judged),
            "risk": spearman(risk, labels.risk_N),
            "forecast": float(errors.mean()) if len(errors) else float("nan"),
        }

    return figures


def _largest_change(before: Tensor, after: Tensor) -> float:
    known = before.isfinite()
    return float((before - after)[known].abs().max()) if known.any() else 0.0


def _mean_known(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _over_seeds(values: Any) -> dict[str, float | None]:
    interval: Interval = bootstrap(lambda draw: float(np.mean(values[draw])), len(values))
    told = interval.as_json()
    return {"mean": told["value"], "low": told["low"], "high": told["high"]}


def _check(study: StudyConfig) -> None:
    unknown = [arm for arm in study.arms if arm not in ARMS]
    if unknown or not study.arms:
        raise ConfigError(f"--arms {', '.join(unknown) or 'none'}: expected some of {', '.join(ARMS)}")
    if study.head not in HEADS:
        raise ConfigError(f"--head {study.head}: expected one of {', '.join(HEADS)}")


def _claim(out: Path, study: StudyConfig, config: TrainConfig, parts: Mapping[str, Examples]) -> None:
    """Begin a folder, or check that it holds runs with the same settings; arms and seeds may be added."""
    model = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in Path(study.base).glob("*.safetensors")
    }
    settings = {
        "model": model,
        "head": study.head,
        "config": config.model_dump(mode="json", include={"epochs", "patience", "batch_size", "learning_rate"}),
        "data": {part: examples.sha256() for part, examples in parts.items()},
    }
    refuse_other_settings(out, settings)
    write_settings(out, settings)


def _plot(result: Mapping[str, Any], file: Path) -> None:
    """Per arm, how much worse each sibling became and how much better the head."""
    from matplotlib.figure import Figure

    arms = result["arms"]
    bars = {result["head"] + " (upgraded)": {arm: row["head_metric_gain"] for arm, row in arms.items()}}
    for head in next(iter(arms.values()))["siblings"]:
        drops = {arm: row["siblings"][head]["drop"] for arm, row in arms.items()}
        bars[head] = {
            arm: {"mean": -d["mean"], "low": -d["high"], "high": -d["low"]} if d["mean"] is not None else d
            for arm, d in drops.items()
        }
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(arms)
    for n, arm in enumerate(arms):
        shown = [(k, bar[arm]) for k, bar in enumerate(bars.values()) if bar[arm]["mean"] is not None]
        where = [k + (n - (len(arms) - 1) / 2) * width for k, _ in shown]
        means = np.array([100 * bar["mean"] for _, bar in shown])
        reach = np.abs([[100 * bar[side] for _, bar in shown] - means for side in ("low", "high")])
        axis.bar(where, means, width * 0.9, yerr=reach, capsize=2, label=arm, error_kw={"linewidth": 1})
    axis.axhline(0, color="0.3", linewidth=0.8)
    axis.set_xticks(range(len(bars)), [f"{head}\n{METRICS[head.split(' ')[0]]}" for head in bars])
    axis.set_ylabel("change for the better (points of 100; of errors %)")
    axis.set_title(f"An upgrade of head {result['head']!r}: mean and 95 % over seeds")
    axis.legend(frameon=False)
    figure.savefig(file, dpi=110)
