"""Judge a SceneMiner on scenes that it has not learnt from, beside what needs no training of ours.

Baselines: the tower alone (zero-shot), and linear probes on the tower's pooled embedding and on its mean patch token,
trained on the same scenes and labels as the model and chosen on the same validation scenes.
Legend: N scenes, K tags, E embedding width.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from system.backbones.loading import load_tower
from system.backbones.runtime import choose_runtime
from system.errors import ConfigError, DataError
from system.labels.table import ABSENT, PRESENT
from system.miner.forecast import ambiguity_m
from system.miner.hardness import HardnessWeights, fuse, percentile_ranks
from system.miner.lift import LiftedScenes
from system.miner.miner_config import OwnHead
from system.miner.model import SceneMiner
from system.report.console import ConsoleProgress
from system.training.examples import Examples, SourceConfig, decided_parts, gather
from system.training.linear_probes import fit_probe, probe_features
from system.training.metrics import (
    Floats,
    Interval,
    average_precision,
    bootstrap,
    choose_thresholds,
    forecast_errors,
    mean_average_precision,
    micro_f1,
    retrieval_at,
    roc_area,
    spearman,
    top_decile_share,
)
from system.training.records import read_training

# Intervals come from drawing whole groups where there are so many; fewer say too little, and scenes are drawn.
_FEWEST_GROUPS = 10
_BATCH = 256


@dataclass
class Evaluation:
    """Figures of one set of scenes.

    draw_groups: whether the intervals come from drawing whole groups, or single scenes. tags: per tag counts and AP of
    every method; own_tags: the same of users' own heads, of the model alone. notes: what could not be judged.
    """

    group_N: tuple[str, ...]
    draw_groups: bool
    rounds: int
    figures: dict[str, Interval] = field(default_factory=dict)
    tags: dict[str, dict[str, Any]] = field(default_factory=dict)
    own_tags: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def scenes(self) -> int:
        return len(self.group_N)

    @property
    def groups(self) -> int:
        return len(set(self.group_N))

    def figure(self, of: Callable[..., float], rows: NDArray[np.intp], *arrays: NDArray[Any]) -> Interval:
        """A figure of arrays that hold these rows of the scenes, with its interval."""
        groups = [self.group_N[n] for n in rows] if self.draw_groups else None
        return bootstrap(lambda draw: of(*(array[draw] for array in arrays)), len(rows), self.rounds, groups=groups)

    def as_json(self) -> dict[str, Any]:
        figures = {name: interval.as_json() for name, interval in self.figures.items()}
        drawn = "groups" if self.draw_groups else "scenes"
        head = {"scenes": self.scenes, "groups": self.groups, "intervals_over": drawn}
        return {**head, **figures, "tags": self.tags, "own_tags": self.own_tags, "notes": self.notes}


@dataclass(frozen=True, eq=False)
class Answers:
    """What the methods say of N scenes; NaN where one does not answer."""

    tags: dict[str, Floats]
    own_NL: Floats
    embeddings: dict[str, Floats]
    risk_N: Floats
    paths_NMT2: Floats
    probability_NM: Floats
    constant_velocity_NT2: Floats
    ambiguity_N: Floats


class Evaluator:
    """Holds a model, and the probes that were trained on its own training scenes."""

    def __init__(self, model: str, source: SourceConfig, progress: ConsoleProgress, rounds: int, threads: int) -> None:
        """Raises ModelError: the model is damaged or made for another tower."""
        torch.set_num_threads(threads)
        self._tower = load_tower(source.tower, choose_runtime(threads, use_gpu=False))
        self._miner = SceneMiner.load(model, self._tower)
        self._source, self._progress, self._rounds = source, progress, rounds
        self._record = read_training(model)
        self._probes: dict[str, list[Any]] = {}
        self._thresholds: dict[str, Floats] = {}
        self._taught: list[int] = []
        self._notes: list[str] = []
        self._learn()

    def judge(self, logs: Sequence[str], critical: str | None = None) -> Evaluation:
        """Judge the scenes of some logs that belong to no group of training or validation.

        Args:
            critical: CSV with log_id (or benchmark_id) and tags, to judge hardness by the logs tagged `critical`.
        Raises:
            DataError: no scene is left.
        """
        source, miner = self._source.model_copy(update={"logs": tuple(logs)}), self._miner
        own = OwnHead(name="own", tags=miner.own_tags) if source.own_labels and miner.own_tags else None
        whole = gather(source, miner.taxonomy, self._progress, own)
        parts = decided_parts(whole.labels, self._record)
        fresh = [n for n, group in enumerate(whole.labels.groups) if parts.get(group, "test") == "test"]
        if not fresh:
            raise DataError("no_scenes", f"the model has learnt from every group of {', '.join(logs)}; none is left")
        examples = whole.rows(np.array(fresh, dtype=np.intp))
        self._progress.phase(f"judging {len(examples)} of {len(whole)} scenes that the model has not learnt from")
        lifted = examples.lifted()
        answers = self._answers(lifted)
        labels = examples.labels
        groups = len(set(labels.groups))
        result = Evaluation(labels.groups, groups >= _FEWEST_GROUPS, self._rounds, notes=list(self._notes))
        if not result.draw_groups:
            result.notes.append(f"{groups} groups are too few to draw: intervals are over scenes, and too narrow")
        self._judge_tags(examples, answers, result)
        self._judge_own_tags(examples, answers, result)
        self._judge_retrieval(examples, answers, result)
        self._judge_risk(examples, answers, result)
        self._judge_forecast(examples, answers, result)
        if critical is not None:
            self._judge_hardness(examples, answers, _critical_logs(critical), result)
        return result

    def _learn(self) -> None:
        """Train the probes and choose thresholds on the scenes that the model was trained on."""
        if self._record is None:
            self._notes.append("no training.json beside the model: no linear probes, thresholds of 0.5")
            return
        trainings = [t for t in self._record.trainings if t.head == "tags"] or list(self._record.trainings)
        last = trainings[-1]
        learnt = {name: getattr(last, name) for name in ("logs", "windows", "labels", "rules")}
        try:
            examples = gather(self._source.model_copy(update=learnt), self._miner.taxonomy, self._progress)
        except (DataError, ConfigError) as error:
            self._notes.append(f"the training logs are not at hand: no linear probes, thresholds of 0.5 ({error})")
            return
        parts = decided_parts(examples.labels, self._record)
        of = [parts.get(group) for group in examples.labels.groups]
        rows = {
            part: np.flatnonzero([name == part for name in of] & examples.labels.has_pictures_N)
            for part in ("train", "val")
        }
        lifted = examples.lifted()
        values = examples.labels.values_NK
        self._progress.phase("training the linear probes")
        for name, features in probe_features(lifted).items():
            self._probes[name] = [
                fit_probe(features, values[:, k], rows["train"], rows["val"]) for k in range(values.shape[1])
            ]
        train = values[rows["train"]]
        both = (train == PRESENT).any(0) & (train == ABSENT).any(0)
        self._taught = [int(k) for k in np.flatnonzero(both)]
        if not len(rows["val"]):
            self._notes.append("no validation scene has pictures: thresholds of 0.5")
            return
        val = examples.rows(rows["val"])
        for name, scores in self._answers(val.lifted()).tags.items():
            self._thresholds[name] = choose_thresholds(scores, val.labels.values_NK)

    def _answers(self, lifted: LiftedScenes) -> Answers:
        miner = self._miner
        features = miner.features_of(lifted)
        with torch.no_grad():
            parts = [miner.answers(features.rows(slice(k, k + _BATCH))) for k in range(0, len(features), _BATCH)]
            answers = {
                head: [torch.cat(outputs) for outputs in zip(*(part[head] for part in parts), strict=True)]
                for head in parts[0]
            }
        paths, probability = answers["forecast"]
        zero_shot = torch.sigmoid(features.zero_shot_logits_NK).numpy()
        tags = {"": answers["tags"][0].numpy(), "zero_shot": zero_shot}
        for name, inputs in probe_features(lifted).items():
            if name in self._probes:
                tags[name] = np.stack([probe(inputs) for probe in self._probes[name]], -1)
        mean = torch.nn.functional.normalize(features.mean_embedding_NE, dim=-1)
        own = [answers[head.name][0].numpy() for head in miner.own_heads]
        return Answers(
            tags=tags,
            own_NL=np.concatenate(own, -1) if own else tags[""][:, :0],
            embeddings={"": answers["embedding"][0].numpy(), "zero_shot": mean.numpy()},
            risk_N=answers["risk"][0].numpy(),
            paths_NMT2=paths.numpy(),
            probability_NM=probability.numpy(),
            constant_velocity_NT2=_constant_velocity(lifted.ego_N3.numpy(), paths.shape[2], miner.forecast.horizon_s),
            ambiguity_N=ambiguity_m(paths, probability).numpy(),
        )

    def _judge_tags(self, examples: Examples, answers: Answers, result: Evaluation) -> None:
        values, seen = examples.labels.values_NK, examples.labels.has_pictures_N
        names, rows = self._miner.taxonomy.names, np.flatnonzero(seen)
        taught = self._taught or list(range(len(names)))
        scores = {name: array[rows] for name, array in answers.tags.items()}
        known = values[rows]
        judged = [k for k in taught if not np.isnan(average_precision(scores[""][:, k], known[:, k]))]
        for k in range(len(names)):
            column = known[:, k]
            if not (column >= 0).any():
                continue
            result.tags[names[k]] = {
                "present": int((column == PRESENT).sum()),
                "absent": int((column == ABSENT).sum()),
                "taught": k in self._taught,
                "judged": k in judged,
            } | {
                f"ap_{name or 'model'}": result.figure(average_precision, rows, array[:, k], column).as_json()
                for name, array in scores.items()
            }
        if not judged:
            result.notes.append("no tag that was taught is both present and absent here: no tag figures")
            return

        def mean_ap(array: Floats, of: NDArray[np.int8]) -> float:
            return mean_average_precision(array, of, judged)

        def gain(array: Floats, other: Floats, of: NDArray[np.int8]) -> float:
            return mean_ap(array, of) - mean_ap(other, of)

        for name, array in scores.items():
            suffix = {"": "", "zero_shot": "_zero_shot"}.get(name, f"_linear_probe_{name}")
            limits = self._thresholds.get(name, np.full(len(names), 0.5))
            f1 = partial(micro_f1, thresholds_K=limits, tags=judged)
            result.figures[f"tag_map{suffix}"] = result.figure(mean_ap, rows, array, known)
            result.figures[f"tag_micro_f1{suffix}"] = result.figure(f1, rows, array, known)
        others = {"zero_shot": "zero_shot"}
        if self._probes:
            best = max(self._probes, key=lambda name: result.figures[f"tag_map_linear_probe_{name}"].value)
            result.figures["tag_map_linear_probe"] = result.figures[f"tag_map_linear_probe_{best}"]
            others["linear_probe"] = best
        for told, name in others.items():
            result.figures[f"tag_map_over_{told}"] = result.figure(gain, rows, scores[""], scores[name], known)

    def _judge_own_tags(self, examples: Examples, answers: Answers, result: Evaluation) -> None:
        """Tags of users' own heads, where labels of them were given."""
        rows, values = np.flatnonzero(examples.labels.has_pictures_N), examples.own_NL
        if not values.shape[1]:
            return
        scores, known = answers.own_NL[rows], values[rows]
        for k, name in enumerate(self._miner.own_tags):
            counts = {"present": int((known[:, k] == PRESENT).sum()), "absent": int((known[:, k] == ABSENT).sum())}
            ap = result.figure(average_precision, rows, scores[:, k], known[:, k])
            result.own_tags[name] = {**counts, "ap_model": ap.as_json()}
        every = partial(mean_average_precision, tags=range(values.shape[1]))
        result.figures["own_tag_map"] = result.figure(every, rows, scores, known)

    def _judge_retrieval(self, examples: Examples, answers: Answers, result: Evaluation) -> None:
        """Queries: a prompt of each tag, and every description. Relevant: the scenes that have it."""
        rows = np.flatnonzero(examples.labels.has_pictures_N)
        if not len(rows):
            return
        prompts = [self._tower.text_prompt(tag.prompts[0]) for tag in self._miner.taxonomy.tags]
        asked = {"": (prompts, rows, examples.labels.values_NK[rows])}
        told = np.array(examples.labels.descriptions)
        described = rows[told[rows] != ""]
        texts = sorted(set(told[described].tolist()))
        if len(texts) > 1:
            same = (told[described][:, None] == np.array(texts)).astype(np.int8)
            asked["descriptions_"] = (texts, described, same)
        for kind, (queries, among, relevant_NQ) in asked.items():
            wanted_QE = torch.nn.functional.normalize(self._tower.encode_texts(queries).float(), dim=-1).cpu().numpy()
            for name, embeddings in answers.embeddings.items():
                scores_NQ = embeddings[among] @ wanted_QE.T
                suffix = f"_{name}" if name else ""
                result.figures[f"{kind}ndcg_at_10{suffix}"] = result.figure(_ndcg, among, scores_NQ, relevant_NQ)
                result.figures[f"{kind}recall_at_10{suffix}"] = result.figure(_recall, among, scores_NQ, relevant_NQ)

    def _judge_risk(self, examples: Examples, answers: Answers, result: Evaluation) -> None:
        truth, predicted = examples.labels.risk_N, answers.risk_N
        rows = np.flatnonzero(np.isfinite(truth) & np.isfinite(predicted))
        if len(rows) < 3:
            result.notes.append(f"{len(rows)} scenes with pictures, physics risk and a risk head: no risk figures")
            return
        result.figures["risk_spearman"] = result.figure(spearman, rows, predicted[rows], truth[rows])
        result.figures["risk_top_decile"] = result.figure(top_decile_share, rows, predicted[rows], truth[rows])

    def _judge_forecast(self, examples: Examples, answers: Answers, result: Evaluation) -> None:
        future = examples.labels.future_NT2
        known = np.isfinite(future).all((1, 2)) & np.isfinite(answers.paths_NMT2).all((1, 2, 3))
        rows = np.flatnonzero(known)
        if not len(rows):
            result.notes.append("no scene with an ego path of 3 s beyond its end: no forecast figures")
            return
        ours = forecast_errors(answers.paths_NMT2[rows], answers.probability_NM[rows], future[rows])
        one = np.ones((len(rows), 1))
        theirs = forecast_errors(answers.constant_velocity_NT2[rows][:, None], one, future[rows])
        for key in ("ade", "fde", "min_ade", "min_fde", "miss"):
            result.figures[key] = result.figure(_mean, rows, ours[key])
        for key, other in (("ade", "ade"), ("fde", "fde"), ("min_ade", "ade")):
            result.figures[f"{key}_ratio"] = result.figure(_ratio, rows, ours[key], theirs[other])

    def _judge_hardness(
        self, examples: Examples, answers: Answers, critical: dict[str, bool], result: Evaluation
    ) -> None:
        """Of each log its hardest scene, ranked among all; does that tell the logs that people tagged critical?"""
        labels = examples.labels
        unknown = np.full(len(examples), np.nan)
        risk, ambiguity = percentile_ranks(labels.risk_N), percentile_ranks(answers.ambiguity_N)
        hardness = fuse(risk, ambiguity, unknown, HardnessWeights())
        logs = sorted({log for log in labels.log_ids if log in critical})
        if len(logs) < 3:
            result.notes.append(f"{len(logs)} logs are named in the table of critical ones: no hardness figures")
            return
        rows = {log: [n for n, name in enumerate(labels.log_ids) if name == log] for log in logs}
        wanted = np.array([critical[log] for log in logs])
        for name, scores in (("hardness", hardness), ("risk", labels.risk_N)):
            per_log = np.array([np.nanmax(np.r_[scores[rows[log]], -1.0]) for log in logs])
            result.figures[f"{name}_critical_auc"] = bootstrap(
                partial(_roc_area_of, per_log, wanted), len(logs), self._rounds
            )


def _roc_area_of(scores: Floats, wanted: NDArray[np.bool_], draw: NDArray[np.intp]) -> float:
    return roc_area(scores[draw], wanted[draw])


def _ndcg(scores_NK: Floats, relevant_NK: NDArray[np.int8]) -> float:
    return retrieval_at(scores_NK.T, relevant_NK.T)[0]


def _recall(scores_NK: Floats, relevant_NK: NDArray[np.int8]) -> float:
    return retrieval_at(scores_NK.T, relevant_NK.T)[1]


def _mean(values: Floats) -> float:
    return float(values.mean())


def _ratio(ours: Floats, theirs: Floats) -> float:
    return float(ours.mean() / max(theirs.mean(), 1e-9))


def _constant_velocity(ego_N3: Floats, steps: int, horizon_s: float) -> Floats:
    """Straight on at the present speed, [N, T, 2]."""
    time_s = np.arange(1, steps + 1) * (horizon_s / steps)
    ahead = ego_N3[:, :1] * time_s
    return np.stack([ahead, np.zeros_like(ahead)], -1)


def _critical_logs(path: str) -> dict[str, bool]:
    """log -> whether people tagged it critical.

    Raises:
        ConfigError: the table cannot be read or lacks a column.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"--critical {path}: expected a CSV table: {error}") from error
    key = "log_id" if rows and "log_id" in rows[0] else "benchmark_id"
    if not rows or key not in rows[0] or "tags" not in rows[0]:
        raise ConfigError(f"--critical {path}: expected the columns log_id (or benchmark_id) and tags")
    return {row[key]: "critical" in (row["tags"] or "").split() for row in rows}
