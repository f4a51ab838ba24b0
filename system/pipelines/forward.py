"""The model stage: actors that hold a SceneMiner and run the one forward pass."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from system.errors import DataError
from system.pipelines import metrics
from system.pipelines.rows import CARRIED, mined_schema

if TYPE_CHECKING:
    from system.miner.model import SceneBatch


@dataclass(frozen=True)
class ForwardSettings:
    """What an actor has to know to build the model. model, taxonomy: paths, or None for the untrained defaults."""

    tower: str
    model: str | None
    taxonomy: str | None
    threads: int
    use_gpu: bool
    tag_threshold: float


@dataclass(frozen=True)
class Answer:
    """What the model and the tracks say of one scene; None where nobody knows. `fault`: why there is no answer."""

    embedding: np.ndarray | None = None
    tag_probabilities: list[float] | None = None
    tags: list[str] = field(default_factory=list)
    risk: float | None = None
    risk_source: str | None = None
    ambiguity: float | None = None
    fault: DataError | None = None


class ForwardActor:
    """Loads the model once; each call maps rows of READ_SCHEMA to rows of `mined_schema`."""

    def __init__(self, settings: ForwardSettings) -> None:
        # Here and not at the top: the driver and the read tasks never need torch.
        import torch

        from system.backbones.loading import load_tower
        from system.backbones.runtime import choose_runtime
        from system.miner.model import SceneMiner, SceneMinerConfig
        from system.miner.taxonomy import load_taxonomy

        runtime = choose_runtime(settings.threads, settings.use_gpu)
        torch.set_num_threads(runtime.threads)
        tower = load_tower(settings.tower, runtime)
        if settings.model is None:
            self._miner = SceneMiner.untrained(tower, SceneMinerConfig(), load_taxonomy(settings.taxonomy))
        else:
            self._miner = SceneMiner.load(settings.model, tower)
        self._miner.eval()
        self._input_size = tower.input_size
        self._threshold = settings.tag_threshold
        self._schema = mined_schema(tower.embedding_dim)

    def __call__(self, rows: pa.Table) -> pa.Table:
        started_s, began_s = time.perf_counter(), time.time()
        good = [k for k, is_bad in enumerate(rows["is_bad"].to_pylist()) if not is_bad]
        answers = [Answer()] * len(rows)
        for k, answer in zip(good, self._answer(rows.take(good)) if good else (), strict=True):
            answers[k] = answer
        columns = {column.name: rows[column.name] for column in CARRIED}
        for name in ("embedding", "tag_probabilities", "tags", "risk", "risk_source", "ambiguity"):
            columns[name] = [getattr(answer, name) for answer in answers]
        took_s = time.perf_counter() - started_s
        metrics.worked("forward", len(good), sum(rows["num_pictures"].to_pylist()), took_s)
        columns["forward_s"] = [took_s / len(rows)] * len(rows)
        columns["forward_began_s"] = [began_s] * len(rows)
        if any(answer.fault for answer in answers):
            columns |= _with_faults(rows, answers)
        return pa.table(columns, schema=self._schema)

    def _answer(self, rows: pa.Table) -> list[Answer]:
        """The answers to good rows; where the model refuses the batch, each scene is asked alone to find the one."""
        import torch

        try:
            with torch.inference_mode():
                outputs = self._miner(scene_batch(rows, self._input_size))
        except DataError as error:
            if len(rows) == 1:
                return [Answer(fault=error)]
            return [self._answer(rows.slice(k, 1))[0] for k in range(len(rows))]
        answers = []
        tags_NK = torch.cat([outputs.tag_probabilities_NK, outputs.own_probabilities_NL], -1)
        known = rows.select(["physics_risk", "physics_source", "track_tags", "num_pictures", "time_s"]).to_pylist()
        for n, row in enumerate(known):
            probabilities = tags_NK[n].tolist() if row["num_pictures"] else None
            risk, risk_source = row["physics_risk"], row["physics_source"]
            # What tracks say of risk is measured; the head says what it has learnt of that from pictures.
            if risk_source != "tracks" and (head_risk := _known(outputs.risk_N[n].item())) is not None:
                risk, risk_source = head_risk, "head"
            answers.append(
                Answer(
                    embedding=outputs.embedding_NE[n].cpu().numpy() if row["num_pictures"] else None,
                    tag_probabilities=probabilities,
                    tags=self._tags(probabilities, json.loads(row["track_tags"] or "{}"), len({*row["time_s"]}) > 1),
                    risk=risk,
                    risk_source=risk_source,
                    ambiguity=_known(outputs.ambiguity_N[n].item()),
                )
            )
        return answers

    def _tags(self, probabilities: list[float] | None, facts: dict[str, float], moves: bool) -> list[str]:
        """Tags that count as present: what the tracks decide is a fact, of the rest the model's answer counts.

        moves: whether the pictures show more than one moment.
        """
        names = (*self._miner.taxonomy.names, *self._miner.own_tags)
        chances = dict(zip(names, probabilities or (), strict=False))
        if not moves:
            chances |= {tag.name: 0.0 for tag in self._miner.taxonomy.tags if tag.needs_motion}
        chances |= facts
        return [name for name, chance in chances.items() if chance >= self._threshold]


def scene_batch(rows: pa.Table, input_size: tuple[int, int]) -> SceneBatch:
    """The miner's batch of some rows.

    Args:
        rows: READ_SCHEMA, N good rows, with or without pictures.
        input_size: (height, width) of their pictures.
    """
    import torch

    from system.miner.model import SceneBatch

    counts = np.array(rows["num_pictures"].to_pylist(), dtype=np.int64)
    height, width = input_size
    # One copy: Ray's buffers are read-only, and torch warns of tensors over those.
    images = np.concatenate([np.frombuffer(row.as_buffer(), np.uint8) for row in rows["images"]])

    def flat(column: str, dtype: type) -> torch.Tensor:
        return torch.from_numpy(np.array(rows[column].combine_chunks().flatten().to_numpy(zero_copy_only=False), dtype))

    return SceneBatch(
        images_MHWC=torch.from_numpy(images.reshape(-1, height, width, 3)),
        scene_M=torch.from_numpy(np.repeat(np.arange(len(rows)), counts)),
        time_s_M=flat("time_s", np.float32),
        intrinsics_M33=flat("intrinsics", np.float32).reshape(-1, 3, 3),
        ego_from_camera_M44=flat("ego_from_camera", np.float32).reshape(-1, 4, 4),
        is_calibrated_M=flat("is_calibrated", np.bool_),
        ego_N3=flat("ego", np.float32).reshape(-1, 3),
        num_scenes=len(rows),
    )


def _with_faults(rows: pa.Table, answers: Sequence[Answer]) -> dict[str, list[Any]]:
    """The columns `is_bad` and `faults` with what the model refused added."""
    carried = rows.select(["log_uri", "is_bad", "faults"]).to_pylist()
    for row, answer in zip(carried, answers, strict=True):
        if answer.fault is not None:
            fault = {"level": "scene", "uri": row["log_uri"], "stage": "forward"}
            row["is_bad"] = True
            row["faults"] = [*row["faults"], fault | {"code": answer.fault.code, "message": answer.fault.message}]
    return {name: [row[name] for row in carried] for name in ("is_bad", "faults")}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
